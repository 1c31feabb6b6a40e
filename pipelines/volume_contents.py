"""Voxels of volume files as ITK reads them, after checks that ITK does not make.

ITK fills what is missing of a NIfTI file with zeros, and what is not a number in it; it
does not look at the checksums of compressed voxels, assumes 1 mm where a header gives no
spacing, and follows headers to data files anywhere on the disk.
"""

from __future__ import annotations

import gzip
import re
import tempfile
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
import SimpleITK as sitk

from pipelines.reasons import UnusableSeries
from pipelines.slice_geometry import MAX_VOXELS
from pipelines.storage import (
    MAX_FILE_BYTES,
    UnreadableFile,
    file_size,
    find_archive,
    open_file,
    read_bytes,
    read_head,
)
from pipelines.volume_headers import (
    FORMATS,
    NIFTI_HEADER_BYTES,
    TextHeader,
    is_neighbor,
    is_pair_header,
    nifti_bytes,
    nifti_floats,
    read_text_header,
    suffix_of,
    volume_suffix,
)
from registration.image_files import has_plain_name

SHEARED = "the axes are not perpendicular, as in a conversion from a scan with gantry tilt"
"""What is wrong with a volume whose directions are not orthonormal."""

_NOT_NUMBERS = "holds values that are not numbers"
_DATA_FILE_LINE = re.compile(rb"(?im)^(\s*ElementDataFile\s*[=:]|data ?file:)[^\r\n]*")

_MAX_EXCESS_BYTES = 2**20
_CHUNK_BYTES = 2**20


def read_image(files: Sequence[Path], name: str) -> sitk.Image:
    """Voxels of a NIfTI, NRRD or MetaImage file.

    Args:
        files: The volume file and, if it is a mere header, its data file.
        name: How to call it in messages.

    Returns:
        A gray image of three dimensions, or of more that have one voxel each.

    Raises:
        UnusableSeries: If it is damaged, incomplete, too large or not one gray volume, or
            if a NIfTI file holds values that are not numbers.
    """
    try:
        path = files[0]
        head = read_head(path, NIFTI_HEADER_BYTES)
        if is_pair_header(head):
            raise UnreadableFile("is half of a NIfTI pair; convert both to a single .nii file")
        suffix = volume_suffix(head) or suffix_of(path.name) or ""
        if suffix == ".nii.gz":
            return _read_unpacked({"volume.nii": _inflate(read_bytes(path), name)}, name)
        if suffix == ".nii":
            _check_nifti(path, name)
        else:
            _check_text_header(files, read_text_header(path))
        if find_archive(path) is None and _has_readable_names(files, suffix):
            return _read_with_itk(path, name)
        return _read_unpacked(_with_plain_names(files, suffix), name)
    except UnreadableFile as error:
        raise UnusableSeries("CORRUPT_FILE", f"{name}: {error}") from error


def _has_readable_names(files: Sequence[Path], suffix: str) -> bool:
    """Whether ITK will read a file that should have this suffix: it goes by the one it has."""
    own = suffix_of(files[0].name)
    is_fitting = own is not None and own != ".nii.gz" and FORMATS[own] == FORMATS[suffix]
    return is_fitting and all(has_plain_name(path) for path in files)


def _with_plain_names(files: Sequence[Path], suffix: str) -> dict[str, bytes]:
    """Contents by new names; a header is made to name its data file so."""
    header, *voxels = (read_bytes(path) for path in files)
    if not voxels:
        return {f"volume{suffix}": header}
    header = _DATA_FILE_LINE.sub(rb"\1 voxels.raw", header)
    return {f"volume{suffix}": header, "voxels.raw": voxels[0]}


def _inflate(content: bytes, name: str) -> bytes:
    """Unpack a NIfTI file, its checksum verified, no farther than its header says it goes."""
    try:
        with gzip.open(BytesIO(content)) as stream:
            head = stream.read(NIFTI_HEADER_BYTES)
            size = nifti_bytes(head)
            if size > MAX_FILE_BYTES:
                raise UnusableSeries("TOO_LARGE", f"{name}: the header announces {size} bytes")
            unpacked = head + stream.read(max(0, size - len(head)) + _MAX_EXCESS_BYTES)
    except UnreadableFile:
        raise
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableFile("the compressed file is damaged") from error
    _check_length(len(unpacked), head)
    if not _is_finite(BytesIO(unpacked)):
        raise UnusableSeries("NOT_HU", f"{name} {_NOT_NUMBERS}")
    return unpacked


def _check_nifti(path: Path, name: str) -> None:
    _check_length(file_size(path), read_head(path, NIFTI_HEADER_BYTES))
    with open_file(path) as stream:
        finite = _is_finite(stream)
    if not finite:  # `open_file` would take a ValueError for one of its archive's
        raise UnusableSeries("NOT_HU", f"{name} {_NOT_NUMBERS}")


def _check_length(size: int, head: bytes) -> None:
    if size < (expected := nifti_bytes(head)):
        raise UnreadableFile(f"the file is cut short: {size} of {expected} bytes are there")


def _is_finite(stream: IO[bytes]) -> bool:
    """Whether a NIfTI file holds numbers alone; ITK reads NaN and infinity as 0."""
    floats = nifti_floats(stream.read(NIFTI_HEADER_BYTES))
    if floats is None:
        return True
    dtype, start, count = floats
    stream.seek(start)
    rest = count * np.dtype(dtype).itemsize
    while rest > 0:
        chunk = stream.read(min(rest, _CHUNK_BYTES))
        if len(chunk) < min(rest, _CHUNK_BYTES):
            raise UnreadableFile("the file is cut short")
        if not np.isfinite(np.frombuffer(chunk, dtype)).all():
            return False
        rest -= len(chunk)
    return True


def _check_text_header(files: Sequence[Path], header: TextHeader) -> None:
    if not header.fields:
        raise UnreadableFile("the header is damaged")
    if header.data_file is not None and not is_neighbor(header.data_file):
        raise UnreadableFile("the voxels are not in the folder of the header")
    if not header.has_spacing:
        raise UnreadableFile("the header gives no spacing")
    if not header.is_in_mm:
        raise UnreadableFile("the lengths in the header are not in mm")
    if not header.is_compressed or "byteskip" in header.fields:
        return
    content = read_bytes(files[-1])
    is_local = header.data_file is None
    packed, unpacked = _check_checksum(content[header.length :] if is_local else content)
    if "compresseddata" not in header.fields:  # Teem counts the voxels of a NRRD file itself
        return
    # Where it is not told, MetaIO unpacks the whole file, and of one with a header nothing.
    if (header.packed_bytes or (0 if is_local else packed)) < packed:
        raise UnreadableFile("the header does not say how long the compressed voxels are")
    if unpacked < header.voxel_bytes:
        raise UnreadableFile("the compressed voxels are cut short")


def _check_checksum(content: bytes) -> tuple[int, int]:
    """Sizes of gzip or zlib data, packed and unpacked, whose checksum is right."""
    unpacker = zlib.decompressobj(47)
    rest, unpacked = content, 0
    try:
        while not unpacker.eof and rest:
            unpacked += len(unpacker.decompress(rest, _CHUNK_BYTES))
            rest = unpacker.unconsumed_tail
            if unpacked > MAX_FILE_BYTES:
                raise UnreadableFile(f"unpacks to more than {MAX_FILE_BYTES} bytes")
    except zlib.error as error:
        raise UnreadableFile("the compressed voxels are damaged") from error
    if not unpacker.eof:
        raise UnreadableFile("the compressed voxels are cut short")
    return len(content) - len(unpacker.unused_data), unpacked


def _read_unpacked(contents: dict[str, bytes], name: str) -> sitk.Image:
    """Read the first of some files by names that suit ITK, which reads from disk only."""
    with tempfile.TemporaryDirectory() as folder:
        for file_name, content in contents.items():
            (Path(folder) / file_name).write_bytes(content)
        return _read_with_itk(Path(folder) / next(iter(contents)), name)


def _read_with_itk(path: Path, name: str) -> sitk.Image:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(FORMATS[suffix_of(path.name) or ""])
    talkative = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        reader.ReadImageInformation()
        _check_announced(reader, name)
        return reader.Execute()
    except RuntimeError as error:
        if "orthonormal" in str(error):
            raise UnusableSeries("GANTRY_TILT", f"{name}: {SHEARED}") from error
        raise UnusableSeries("CORRUPT_FILE", f"{name} is damaged or incomplete") from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(talkative)


def _check_announced(reader: sitk.ImageFileReader, name: str) -> None:
    size = tuple(int(n) for n in reader.GetSize())
    if reader.GetNumberOfComponents() != 1:
        raise UnusableSeries("NOT_CT", f"{name} is a color or vector image")
    if len(size) < 3 or max((1, *size[3:])) > 1:
        raise UnusableSeries("NOT_CT", f"{name} is not one volume but of size {size}")
    if np.prod(size, dtype=float) > MAX_VOXELS:
        raise UnusableSeries("TOO_LARGE", f"{name}: {size}; up to {MAX_VOXELS} voxels are accepted")
