"""Image files as SimpleITK reads them, without the names that it dies of."""

from __future__ import annotations

import re
from pathlib import Path

import SimpleITK as sitk

_SURROGATE = re.compile("[\ud800-\udfff]")
"""What `os.fsdecode` makes of a byte of a file name that is not UTF-8."""


def has_plain_name(path: Path) -> bool:
    """Whether SimpleITK can be given a path: on bytes that are not UTF-8 it ends the process."""
    return _SURROGATE.search(str(path)) is None


def read_image_file(path: Path) -> sitk.Image:
    """An image of any format, dimension and voxel type that ITK knows.

    Raises:
        UnicodeError: If the path is not UTF-8.
        RuntimeError: If the file cannot be read.
    """
    if not has_plain_name(path):
        name = path.name.encode("utf-8", "backslashreplace").decode()
        raise UnicodeError(
            f"{name} lies at a path with characters that are not UTF-8; rename the file or its "
            "folder"
        )
    return sitk.ReadImage(str(path))
