"""CT volumes in NIfTI, NRRD and MetaImage files."""

from __future__ import annotations

import gzip
import struct
import tempfile
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from pipelines.discovery import SCAN_ID_LENGTH, SeriesCandidate
from pipelines.reasons import UnusableSeries
from pipelines.scan import Acquisition, Scan
from pipelines.slice_geometry import MAX_OBLIQUE_DEG, MAX_VOXELS, MIN_SLICES
from pipelines.storage import (
    MAX_FILE_BYTES,
    UnreadableFile,
    file_size,
    find_archive,
    read_bytes,
    read_head,
)
from pipelines.volume_headers import (
    FORMATS,
    data_file_names,
    is_neighbor,
    nifti_bytes,
    suffix_of,
    volume_suffix,
)
from registration.geometry import ImageGrid

AIR_CEILING_HU = -200.0
"""A CT scan has values below this [HU] (own): there is always air around or in a patient."""

HU_FLOOR = -32768.0
"""Values below this are no padding either [HU] (own)."""

PIXEL_SPACING_RTOL = 0.01
"""Largest relative difference of the two spacings within an axial slice (own): reconstructions
have square pixels, volumes resliced from another plane have not."""

_HEAD_BYTES = 544
_MAX_EXCESS_BYTES = 2**20


def read_volume(candidate: SeriesCandidate) -> Scan:
    """Read a volume file, its slices ordered from feet to head.

    NIfTI's RAS millimetres become LPS inside ITK's reader. Such files say nothing of how
    the scan was made, so only what the voxels show can be checked.

    Raises:
        UnusableSeries: If it is not a gray 3-D volume of axial slices in HU.
    """
    name = candidate.name_of(candidate.files[0])
    content_hash = candidate.content_hash
    image = _feet_to_head(_read_image(candidate, name), name)
    image = _in_hu(image, name)
    return Scan(
        scan_id=content_hash[:SCAN_ID_LENGTH],
        image=image,
        slice_spacing_mm=image.GetSpacing()[2],
        acquisition=Acquisition(),
        files=tuple(str(path) for path in candidate.files),
        source=candidate.source,
        content_hash=content_hash,
    )


def _read_image(candidate: SeriesCandidate, name: str) -> sitk.Image:
    path = candidate.files[0]
    try:
        outside = [other for other in data_file_names(path) if not is_neighbor(other)]
        if outside:
            raise UnusableSeries("CORRUPT_FILE", f"{name} keeps its voxels in other folders")
        suffix = suffix_of(path.name) or volume_suffix(read_head(path, _HEAD_BYTES)) or ""
        if suffix == ".nii.gz":
            return _read_unpacked({"volume.nii": _inflate(read_bytes(path))}, name)
        if suffix == ".nii":
            _check_length(file_size(path), read_head(path, _HEAD_BYTES))
        if find_archive(path) is None and suffix_of(path.name):
            return _read_with_itk(path, name)
        own_name = path.name if suffix_of(path.name) else f"volume{suffix}"
        names = (own_name, *(other.name for other in candidate.files[1:]))
        contents = {n: read_bytes(p) for n, p in zip(names, candidate.files, strict=True)}
        return _read_unpacked(contents, name)
    except UnreadableFile as error:
        raise UnusableSeries("CORRUPT_FILE", f"{name}: {error}") from error


def _inflate(content: bytes) -> bytes:
    """Unpack a NIfTI file, its checksum verified, no farther than its header says it goes."""
    try:
        with gzip.open(BytesIO(content)) as stream:
            head = stream.read(_HEAD_BYTES)
            if volume_suffix(head) != ".nii":
                raise UnreadableFile("is not a NIfTI file")
            size = nifti_bytes(head)
            if size > MAX_FILE_BYTES:
                raise UnusableSeries("TOO_LARGE", f"the header announces {size} bytes")
            unpacked = head + stream.read(size + _MAX_EXCESS_BYTES)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise UnreadableFile("the compressed file is damaged") from error
    _check_length(len(unpacked), head)
    return unpacked


def _check_length(size: int, head: bytes) -> None:
    # ITK fills what is missing with zeros and says nothing.
    if volume_suffix(head) != ".nii" or len(head) < _HEAD_BYTES:
        raise UnreadableFile("is not a NIfTI file")
    if size < nifti_bytes(head):
        raise UnreadableFile(
            f"the file is cut short: {size} of {nifti_bytes(head)} bytes are there"
        )


def _read_unpacked(contents: dict[str, bytes], name: str) -> sitk.Image:
    """Read the first of some files that exist in memory only; ITK reads from disk."""
    with tempfile.TemporaryDirectory() as folder:
        for file_name, content in contents.items():
            (Path(folder) / file_name).write_bytes(content)
        return _read_with_itk(Path(folder) / next(iter(contents)), name)


def _read_with_itk(path: Path, name: str) -> sitk.Image:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(FORMATS[suffix_of(path.name) or ""])
    try:
        reader.ReadImageInformation()
        _check_header(reader, name)
        return reader.Execute()
    except RuntimeError as error:
        raise UnusableSeries("CORRUPT_FILE", f"{name} is damaged or incomplete") from error


def _check_header(reader: sitk.ImageFileReader, name: str) -> None:
    size = tuple(int(n) for n in reader.GetSize())
    if reader.GetNumberOfComponents() != 1:
        raise UnusableSeries("NOT_CT", f"{name} is a color or vector image")
    if len(size) != 3 and not (len(size) > 3 and max(size[3:]) == 1):
        raise UnusableSeries("NOT_CT", f"{name} is not one volume but of size {size}")
    if np.prod(size, dtype=float) > MAX_VOXELS:
        raise UnusableSeries("TOO_LARGE", f"{name}: {size}; up to {MAX_VOXELS} voxels are accepted")


def _feet_to_head(image: sitk.Image, name: str) -> sitk.Image:
    """The same voxels at the same places, with the third index growing towards the head."""
    while image.GetDimension() > 3:
        image = image[..., 0]
    axis = int(np.argmax(np.abs(_directions(image)[2])))
    if axis != 2:
        image = sitk.PermuteAxes(image, [a for a in range(3) if a != axis] + [axis])
    between_columns, between_rows, _ = image.GetSpacing()
    if abs(between_columns / between_rows - 1) > PIXEL_SPACING_RTOL:
        raise UnusableSeries(
            "NOT_AXIAL",
            f"{name}: pixels of {between_columns:.2f} × {between_rows:.2f} mm in the axial plane; "
            "it was resliced from another plane. Use the axial reconstruction",
        )
    upward = _directions(image)[2, 2]
    oblique_deg = float(np.degrees(np.arccos(min(1.0, abs(upward)))))
    if oblique_deg > MAX_OBLIQUE_DEG:
        raise UnusableSeries(
            "NOT_AXIAL",
            f"{name}: the slices lie at {oblique_deg:.0f}° to the axial plane; "
            f"up to {MAX_OBLIQUE_DEG:.0f}° is accepted. Use the axial reconstruction",
        )
    if image.GetSize()[2] < MIN_SLICES:
        raise UnusableSeries(
            "TOO_FEW_SLICES", f"{name}: {image.GetSize()[2]} slice(s), {MIN_SLICES} are needed"
        )
    return image if upward > 0 else image[:, :, ::-1]


def _directions(image: sitk.Image) -> NDArray[np.float64]:
    return np.array(image.GetDirection()).reshape(3, 3)


def _in_hu(image: sitk.Image, name: str) -> sitk.Image:
    """int16 where that loses nothing, else float32; refused if the values cannot be HU."""
    values = sitk.GetArrayViewFromImage(image)
    if not np.isfinite(values).all():
        raise UnusableSeries("NOT_HU", f"{name} holds values that are not numbers")
    low, high = float(values.min()), float(values.max())
    if low > AIR_CEILING_HU or low < HU_FLOOR:
        raise UnusableSeries(
            "NOT_HU",
            f"the values in {name} go from {low:g} to {high:g}, which does not look like HU: air "
            "is at -1000. A mask, or a CT saved without its rescale?",
        )
    whole = high < 2**15 and (values.dtype.kind in "iu" or bool((values == np.rint(values)).all()))
    grid = ImageGrid.from_image(image)
    return grid.to_image(values.astype(np.int16 if whole else np.float32))
