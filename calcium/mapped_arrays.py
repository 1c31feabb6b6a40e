"""Arrays of an `.npz` file that stay on disk until they are looked at."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

LOCAL_HEADER_SIZE = 30
"""Bytes of a ZIP member's own header before its name and extra field (PKWARE APPNOTE 4.3.7)."""


def mapped_array(path: Path, name: str) -> NDArray[Any]:
    """Array of an `.npz` file that `numpy.savez` wrote, read from disk where it is indexed.

    Args:
        path: The file; it must stay where it is as long as the array is used.
        name: Name of the array.

    Returns:
        The array, read only.

    Raises:
        KeyError: If the file has no array of that name.
        ValueError: If the array is compressed, or holds Python objects.
    """
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{name}.npy")
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"arrays to map must be stored as they are. Received: {name}, compressed")
    with path.open("rb") as stream:
        stream.seek(member.header_offset + LOCAL_HEADER_SIZE - 4)
        lengths = np.frombuffer(stream.read(4), "<u2")
        stream.seek(int(lengths.sum()), 1)
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, is_fortran, dtype = read(stream)
        start = stream.tell()
    if dtype.hasobject:
        raise ValueError(f"arrays to map must hold numbers. Received: {name}, of objects")
    if 0 in shape:  # there is nothing to map
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", start, shape, "F" if is_fortran else "C")
