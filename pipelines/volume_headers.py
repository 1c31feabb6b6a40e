"""Recognizing NIfTI, NRRD and MetaImage files, and what their headers announce."""

from __future__ import annotations

import math
import re
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pipelines.storage import UnreadableFile, read_head

FORMATS: dict[str, str] = {
    ".nii": "NiftiImageIO",
    ".nii.gz": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
"""ITK reader of every suffix that this package accepts."""

NIFTI_HEADER_BYTES = 544
"""Length of the longer of the two NIfTI headers, with its extension flag [bytes] (nifti2.h)."""

SPACING_RTOL = 1e-3
"""Largest relative difference of the two spacings in a NIfTI header (own): half a pixel over
500 pixels; header fields are float32, whose rounding stays far below."""

_TEXT_HEADER_BYTES = 2**16
_GZIP = b"\x1f\x8b"
_NIFTI_MAGIC = {348: (344, b"n+1\0"), 540: (4, b"n+2\0")}
"""Place and text of the magic by header size (nifti1.h, nifti2.h)."""

_PAIR_MAGIC = {348: (344, b"ni1\0"), 540: (4, b"ni2\0")}
"""The same for headers whose voxels are in another file."""

_NIFTI_FIELDS = {
    "dim": ("8h", 40),
    "datatype": ("h", 70),
    "bitpix": ("h", 72),
    "pixdim": ("8f", 76),
    "vox_offset": ("f", 108),
    "qform_code": ("h", 252),
    "sform_code": ("h", 254),
    "srow": ("12f", 280),
}
"""Form and offset of NIfTI-1 header fields (nifti1.h)."""

_NIFTI_FLOATS = {16: "f4", 64: "f8"}
"""NumPy types of the floats among the data types (nifti1.h)."""

_MILLIMETERS = {"", "?", "???", "mm", "millimeter", "millimeters", "millimetre", "millimetres"}
"""How headers say mm (the NRRD format has no list), and how they say nothing."""

_ELEMENT_BYTES = {
    "MET_CHAR": 1,
    "MET_UCHAR": 1,
    "MET_SHORT": 2,
    "MET_USHORT": 2,
    "MET_INT": 4,
    "MET_UINT": 4,
    "MET_FLOAT": 4,
    "MET_DOUBLE": 8,
}
"""Size of the MetaImage voxels that scans have [bytes] (metaTypes.h)."""

_SPACE_KINDS = ("domain", "space", "time", "???", "none")
"""Kinds of NRRD axes that ITK takes for axes of the volume (nrrdDomainAxesGet of Teem)."""

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class TextHeader:
    """Header of a NRRD or MetaImage file.

    Args:
        fields: Values by key in lower case, without spaces: Teem reads `data file` and
            `datafile` alike.
        length: Bytes up to the first voxel, if the voxels follow the header.
    """

    fields: dict[str, str] = field(default_factory=dict)
    length: int = 0

    @property
    def data_file(self) -> str | None:
        """The file that holds the voxels, `None` if they follow the header."""
        keys = ("elementdatafile", "datafile")
        name = next((self.fields[key] for key in keys if key in self.fields), "LOCAL")
        if name.upper() == "LOCAL":
            return None
        # Fields are Latin-1; names are bytes, which a path holds as `os.fsdecode` does.
        return name.encode("latin-1").decode("utf-8", "surrogateescape").removeprefix("./")

    @property
    def has_spacing(self) -> bool:
        """Whether the header says of every axis how far the voxels lie apart."""
        if "spacedirections" in self.fields:
            vectors = re.findall(r"none|\([^)]*\)", self.fields["spacedirections"].lower())
            lengths = [math.hypot(*map(_number, v.strip("()").split(","))) for v in vectors]
        else:
            keys = ("elementspacing", "elementsize", "spacings")
            text = next((self.fields[key] for key in keys if key in self.fields), "")
            lengths = [_number(word) for word in text.split()]
        lengths = self._of_space(lengths)
        return bool(lengths) and all(math.isfinite(mm) and mm > 0 for mm in lengths)

    @property
    def is_in_mm(self) -> bool:
        """Whether the header gives lengths in mm, or in no unit; ITK does not look at units."""
        of_axes, of_space = (
            re.findall(r'"([^"]*)"', self.fields.get(key, "")) for key in ("units", "spaceunits")
        )
        units = [*self._of_space(of_axes), *of_space[:3], self.fields.get("distanceunits", "")]
        return {unit.strip().lower() for unit in units} <= _MILLIMETERS

    def _of_space(self, values: list[_Value]) -> list[_Value]:
        """Of one value per axis, those of the three in space: axes of colors come before."""
        kinds = self.fields.get("kinds", "").lower().split()
        if len(kinds) == len(values):
            values = [v for v, kind in zip(values, kinds, strict=True) if kind in _SPACE_KINDS]
        return values[:3]

    @property
    def is_compressed(self) -> bool:
        """Whether the voxels are compressed by gzip or zlib.

        Raises:
            UnreadableFile: If a MetaImage header gives another answer than yes or no.
        """
        encoding = self.fields.get("encoding", "").lower()
        # MetaIO looks at the first letter alone, and takes every other one for a no.
        answer = self.fields.get("compresseddata", "False")
        if answer[:1] not in tuple("Tt1Ff0"):
            raise UnreadableFile("the header does not say whether the voxels are compressed")
        return encoding in ("gz", "gzip") or answer[0] in "Tt1"

    @property
    def packed_bytes(self) -> int:
        """Length of the compressed voxels as a MetaImage header says it, 0 if it does not."""
        return _whole(self.fields.get("compresseddatasize", ""))

    @property
    def voxel_bytes(self) -> int:
        """Length that the voxels of a MetaImage file must have, 0 where that is not known."""
        kind = self.fields.get("elementtype", "").upper()
        each = _ELEMENT_BYTES.get(kind, 0) * _whole(self.fields.get("elementnumberofchannels", "1"))
        return each * math.prod(map(_whole, self.fields.get("dimsize", "").split()))


def is_volume(head: bytes, name: str) -> bool:
    r"""Whether a file is an image volume, by its first 512 bytes or by its suffix.

    Segmentations as 3-D Slicer writes them (`*.seg.nrrd`) name their segments at the head of
    the file; they lie beside scans and are none. Neither are the `._NAME` files that macOS
    leaves beside every NAME: what begins like that has to be a volume by its content.

    Example:
        >>> is_volume(b"NRRD0004\ntype: short\n", "image")
        True
        >>> is_volume(b"NRRD0004\ntype: uchar\nSegment0_ID:=calcium\n", "calcium.seg.nrrd")
        False
        >>> is_volume(b"hello", "notes.txt")
        False
        >>> is_volume(b"hello", "scan.nii"), is_volume(b"Mac OS X", "._scan.nii")
        (True, False)
    """
    if is_pair_header(head):
        return True
    if head.startswith(b"NRRD000") and b"\nSegment" in head:
        return False
    has_suffix = suffix_of(name) is not None and not name.startswith("._")
    return has_suffix or volume_suffix(head) is not None


def suffix_of(name: str) -> str | None:
    """Suffix of a volume file's name, `None` for other names."""
    return next((s for s in sorted(FORMATS, reverse=True) if name.lower().endswith(s)), None)


def volume_suffix(head: bytes) -> str | None:
    """The suffix that a volume file should have, by its first 512 bytes; `None` for others."""
    if head[:2] == _GZIP:
        return ".nii.gz" if _is_nifti(_inflated(head)) else None
    if head.startswith(b"NRRD000"):
        return ".nrrd"
    if _is_nifti(head):
        return ".nii"
    return ".mha" if re.match(rb"\s*(ObjectType\s*[=:]\s*Image|NDims\s*[=:])", head) else None


def is_pair_header(head: bytes) -> bool:
    """Whether a file is the header of a NIfTI pair (`.hdr` and `.img`), by its first 512 bytes."""
    return _has_magic(_inflated(head) if head[:2] == _GZIP else head, _PAIR_MAGIC)


def data_files(path: Path) -> tuple[Path, ...]:
    """Other files that hold the voxels of a header file; empty if it holds its own.

    Raises:
        UnreadableFile: If the file cannot be opened.
    """
    if is_pair_header(read_head(path, NIFTI_HEADER_BYTES)):
        image = re.sub(r"hdr(\.gz)?$", r"img\1", path.name, flags=re.IGNORECASE)
        return (path.with_name(image),) if image != path.name else ()
    name = read_text_header(path).data_file
    return (path.parent / name,) if name is not None and is_neighbor(name) else ()


def is_neighbor(name: str) -> bool:
    """Whether a data file lies beside its header: headers must not reach for other files."""
    return name.upper() != "LIST" and not re.search(r"[/\\%\0]|^\.\.?$", name)


def read_text_header(path: Path) -> TextHeader:
    """Header of a NRRD or MetaImage file, empty for other files.

    Raises:
        UnreadableFile: If the file cannot be opened.

    Source:
        Teem's description of the NRRD format; ITK wiki on MetaIO.
    """
    head = read_head(path, _TEXT_HEADER_BYTES)
    suffix = volume_suffix(head)
    if suffix == ".nrrd":
        end = re.search(rb"\r?\n\r?\n", head)
        separator = ": "
    elif suffix == ".mha":
        end = re.search(rb"ElementDataFile[^\n]*\n?", head)
        separator = "[=:]"
    else:
        return TextHeader()
    length = end.end() if end else len(head)
    lines = head[:length].decode("latin-1").splitlines()
    pairs = [re.split(separator, line, maxsplit=1) for line in lines if not line.startswith("#")]
    named = [(pair[0].replace(" ", "").lower(), pair[1]) for pair in pairs if len(pair) == 2]
    return TextHeader({key: value.strip(" \t=") for key, value in named}, length)


def nifti_bytes(header: bytes) -> int:
    """Size that a NIfTI file with this header must have at least, uncompressed [bytes].

    Raises:
        UnreadableFile: If it is no NIfTI-1 header, or does not say where the voxels lie in
            the body, or says two things of it.
    """
    if not _is_nifti(header) or len(header) < NIFTI_HEADER_BYTES:
        raise UnreadableFile("is not a NIfTI file")
    if _byte_order(header, 540):  # ITK has no reader for it
        raise UnreadableFile("is a NIfTI-2 file; convert it to NIfTI-1")
    values = _nifti_values(header)
    _check_geometry(values)
    start, voxels = _nifti_extent(values)
    return start + voxels * int(values["bitpix"][0]) // 8


def nifti_floats(header: bytes) -> tuple[str, int, int] | None:
    """NumPy type, first byte and number of the voxels of a NIfTI-1 file, `None` unless floats."""
    values = _nifti_values(header)
    kind = _NIFTI_FLOATS.get(int(values["datatype"][0]))
    return (_byte_order(header, 348) + kind, *_nifti_extent(values)) if kind else None


def _nifti_extent(values: dict[str, tuple[float, ...]]) -> tuple[int, int]:
    """First byte and number of the voxels."""
    rank = min(max(int(values["dim"][0]), 0), 7)
    voxels = math.prod(max(int(n), 1) for n in values["dim"][1 : 1 + rank])
    (offset,) = values["vox_offset"]
    # ITK takes an offset within the header as one to its end.
    return max(int(offset) if math.isfinite(offset) else 0, 348), voxels


def _check_geometry(values: dict[str, tuple[float, ...]]) -> None:
    """Refuse headers without geometry, where ITK assumes 1 mm, and those with two of them.

    ITK takes origin and directions from the sform, and the spacing from pixdim.
    """
    if values["qform_code"] == values["sform_code"] == (0,):
        raise UnreadableFile("the header does not say how the slices lie in the body")
    pixdim = values["pixdim"][1:4]
    if not all(math.isfinite(mm) and mm > 0 for mm in pixdim):
        raise UnreadableFile("the header gives no spacing")
    if values["sform_code"] <= (0,):
        return
    sform = tuple(math.hypot(*values["srow"][axis::4]) for axis in range(3))
    pairs = zip(sform, pixdim, strict=True)
    if not all(math.isclose(one, other, rel_tol=SPACING_RTOL) for one, other in pairs):
        told = (" × ".join(f"{mm:.4g}" for mm in spacing) for spacing in (pixdim, sform))
        raise UnreadableFile(
            f"pixdim and sform give different spacings: {' and '.join(told)} mm. "
            "Convert the scan from DICOM once more"
        )


def _number(text: str) -> float:
    """A number in a header, NaN if it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _whole(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _nifti_values(header: bytes) -> dict[str, tuple[float, ...]]:
    order = _byte_order(header, 348)
    return {
        keyword: struct.unpack_from(f"{order}{form}", header, start)
        for keyword, (form, start) in _NIFTI_FIELDS.items()
    }


def _is_nifti(head: bytes) -> bool:
    return _has_magic(head, _NIFTI_MAGIC)


def _has_magic(head: bytes, magics: dict[int, tuple[int, bytes]]) -> bool:
    return any(
        _byte_order(head, size) and head[start : start + 4] == magic
        for size, (start, magic) in magics.items()
    )


def _byte_order(head: bytes, size: int) -> str:
    """`"<"` or `">"` if a header of this size begins so, else empty."""
    return next((order for order in "<>" if head[:4] == struct.pack(f"{order}i", size)), "")


def _inflated(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(head, 1024)
    except zlib.error:
        return b""
