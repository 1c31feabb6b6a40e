"""Recognizing NIfTI, NRRD and MetaImage files, and the files that hold their voxels."""

from __future__ import annotations

import math
import re
import struct
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
_NIFTI_FIELDS = {1: (("8h", 40), ("h", 72), ("f", 108)), 2: (("8q", 16), ("h", 14), ("q", 168))}
_DATA_FILE = re.compile(rb"^(?:ElementDataFile\s*=|data ?file:)\s*(.+?)\s*$", re.M | re.I)


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
    return tuple(path.parent / name for name in data_file_names(path) if is_neighbor(name))


def data_file_names(path: Path) -> tuple[str, ...]:
    """What a MetaImage or NRRD header gives as data file, unless the voxels follow the header.

    Raises:
        UnreadableFile: If the file cannot be opened.
    """
    header = read_head(path, _HEADER_BYTES)
    if volume_suffix(header) not in (".mha", ".nrrd"):
        return ()
    found = _DATA_FILE.search(header.partition(b"\n\n")[0])
    name = found[1].decode("latin-1") if found else "LOCAL"
    return () if name.upper() == "LOCAL" else (name,)


def is_neighbor(name: str) -> bool:
    """Whether a data file lies beside its header: headers must not reach for other files."""
    return name.upper() != "LIST" and not re.search(r"[/\\%\0]|^\.\.?$", name)


def nifti_bytes(header: bytes) -> int:
    """Size of a NIfTI-1 or NIfTI-2 file with these first 540 bytes, uncompressed [bytes].

    Source:
        nifti1.h and nifti2.h: offsets of dim, bitpix and vox_offset.
    """
    order = "<" if int.from_bytes(header[:4], "little") in _NIFTI_MAGIC else ">"
    version = 1 if struct.unpack_from(order + "i", header)[0] == 348 else 2
    dim, bits, offset = (
        struct.unpack_from(order + form, header, start) for form, start in _NIFTI_FIELDS[version]
    )
    voxels = math.prod(max(n, 1) for n in dim[1 : 1 + min(max(dim[0], 0), 7)])
    start = int(offset[0]) if math.isfinite(offset[0]) else 0
    return start + voxels * bits[0] // 8


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
