"""Recognizing NIfTI, NRRD and MetaImage files, and the files that hold their voxels."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

from pipelines.storage import read_head

FORMATS: dict[str, str] = {
    ".nii": "NiftiImageIO",
    ".nii.gz": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
"""ITK reader of every suffix that this package accepts."""

_HEADER_BYTES = 16384
_NIFTI_MAGIC = {348: (344, (b"n+1\0", b"ni1\0")), 540: (4, (b"n+2\0", b"ni2\0"))}
_DATA_FILE = re.compile(rb"^(?:ElementDataFile\s*=|data ?file:)\s*(.+?)\s*$", re.MULTILINE | re.I)


def is_volume(head: bytes, name: str) -> bool:
    r"""Whether a file is a volume, by its first 512 bytes or by its suffix.

    Example:
        >>> is_volume(b"NRRD0004\ntype: short\n", "image")
        True
        >>> is_volume(b"hello", "notes.txt")
        False
    """
    return volume_suffix(head) is not None or suffix_of(name) is not None


def suffix_of(name: str) -> str | None:
    """Suffix of a volume file's name, `None` for other names."""
    return next((s for s in sorted(FORMATS, reverse=True) if name.lower().endswith(s)), None)


def volume_suffix(head: bytes) -> str | None:
    """The suffix that a volume file should have, by its first 512 bytes; `None` for others."""
    if head[:2] == b"\x1f\x8b":
        return ".nii.gz" if _is_nifti(_inflated(head)) else None
    if head.startswith(b"NRRD000"):
        return ".nrrd"
    if _is_nifti(head):
        return ".nii"
    if re.match(rb"\s*ObjectType\s*=\s*Image", head) or re.match(rb"\s*NDims\s*=", head):
        return ".mha"
    return None


def data_files(path: Path) -> tuple[Path, ...]:
    """Other files that hold the voxels of a header file; empty if it holds its own.

    Raises:
        UnreadableFile: If the file cannot be opened.
    """
    if path.suffix.lower() not in (".mhd", ".nhdr"):
        return ()
    names = _DATA_FILE.findall(read_head(path, _HEADER_BYTES))
    return tuple(path.parent / name.decode("latin-1") for name in names if _is_neighbor(name))


def _is_neighbor(name: bytes) -> bool:
    """Whether a data file lies beside its header: headers must not reach for other files."""
    return name.upper() not in (b"LOCAL", b"LIST") and not re.search(rb"[/\\%\0]|^\.\.?$", name)


def _is_nifti(head: bytes) -> bool:
    for order in ("little", "big"):
        start, magics = _NIFTI_MAGIC.get(int.from_bytes(head[:4], order), (0, ()))
        if head[start : start + 4] in magics:
            return True
    return False


def _inflated(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(head, 1024)
    except zlib.error:
        return b""
