"""Series in DICOM files, single-frame or enhanced, as volumes: CT in HU, others in their units."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID

from pipelines.dicom_acquisition import read_acquisition
from pipelines.dicom_frames import FrameAttributes, count_frames, is_enhanced
from pipelines.dicom_headers import CT_SOP_CLASSES, is_broken_off, modality_of
from pipelines.dicom_pixels import UndecodableImage, has_pixel_data, stored_values
from pipelines.dicom_values import integer, number, numbers, text, texts, tolerant_reading
from pipelines.discovery import SCAN_ID_LENGTH, SeriesCandidate
from pipelines.hounsfield import check_hounsfield
from pipelines.reasons import UnusableSeries
from pipelines.scan import Scan
from pipelines.slice_geometry import MAX_VOXELS, SlicePlane, listed, stack_planes
from pipelines.storage import UnreadableFile, combined_digest, file_size, is_zip, read_bytes

MAX_SERIES_BYTES = 4 * MAX_VOXELS
"""Largest series [bytes] (own): the most voxels in 16 bits, and as much again for headers."""

HU_RESCALE_TYPES = frozenset({"HU", "US"})
"""RescaleType (0028,1054) of Hounsfield units; US is "unspecified" (DICOM PS3.3 C.11.1.1.2).
Others are iodine maps, electron densities and the like of dual-energy scanners."""


@dataclass(slots=True)
class _File:
    """One parsed file; its dataset is dropped once the pixels are in the volume."""

    path: Path
    name: str
    ds: Dataset


@dataclass(frozen=True, slots=True)
class _Frame:
    """One slice: where its pixels are, where it lies, and how to rescale it."""

    file: _File
    number: int
    plane: SlicePlane
    slope: float
    intercept: float


def read_dicom_series(candidate: SeriesCandidate, *, any_modality: bool = False) -> Scan:
    """Read a CT series; each file is read once.

    Args:
        candidate: A series from `find_series`.
        any_modality: Take a series of any modality in any plane, also of one slice.

    Raises:
        UnusableSeries: If it is not a complete, evenly spaced stack of axial CT slices in HU.
    """
    if not any_modality and candidate.modality not in ("CT", None):
        # its pixels need not be read to say so
        name = candidate.name_of(candidate.files[0])
        raise UnusableSeries("NOT_CT", f"the modality is {candidate.modality} in {name}")
    with tolerant_reading():
        files, content_hash = _read_files(candidate)
        if not any_modality:
            _check_kind(files)
        _check_pixels(files)
        if not any_modality:
            _check_modality(files)
        frames = [frame for file in files for frame in _frames_of(file, any_modality)]
        _check_size(frames)
        grid, order, tilt_deg = stack_planes(
            [frame.plane for frame in frames],
            single_slice_mm=_thickness_mm(frames[0]) if any_modality else None,
        )
        ordered = [frames[number] for number in order]
        acquisition, warnings = read_acquisition(
            [FrameAttributes(frame.file.ds, frame.number) for frame in ordered], tilt_deg
        )
        if any_modality:
            acquisition = replace(acquisition, modality=candidate.modality)
        paths = tuple(dict.fromkeys(str(frame.file.path) for frame in ordered))
        volume_hu, ends_hu = _rescaled(ordered, grid.shape)
        if not any_modality:
            check_hounsfield(*ends_hu, ordered[0].file.name)
    return Scan(
        scan_id=content_hash[:SCAN_ID_LENGTH],
        image=grid.to_image(volume_hu),
        slice_spacing_mm=grid.spacing[2],
        acquisition=acquisition,
        files=paths,
        source=candidate.source,
        content_hash=content_hash,
        warnings=warnings,
    )


def _read_files(candidate: SeriesCandidate) -> tuple[list[_File], str]:
    size = sum(max(0, file_size(path)) for path in candidate.files)
    if size > MAX_SERIES_BYTES:
        raise UnusableSeries(
            "TOO_LARGE",
            f"{len(candidate.files)} files of together {size} bytes; "
            f"up to {MAX_SERIES_BYTES} are accepted",
        )
    files, digests, damaged = [], [], []
    for path in candidate.files:
        name = candidate.name_of(path)
        try:
            content = read_bytes(path)
            if is_zip(content):
                raise UnreadableFile(
                    "an archive that is damaged, or lies in another one: unpack it"
                )
            digests.append(hashlib.sha256(content).hexdigest())
            ds = dcmread(BytesIO(content), force=True)
            ds.buffer = None  # else it would keep the whole file beside its pixels
            if is_broken_off(ds):
                raise UnreadableFile("the header is damaged")
            files.append(_File(path, name, ds))
        except UnreadableFile as error:
            damaged.append(f"{name} ({error})")
        except Exception:  # pydicom raises almost anything on a damaged file
            damaged.append(f"{name} (damaged)")
    if damaged:
        raise UnusableSeries("CORRUPT_FILE", f"cannot be read: {listed(damaged)}")
    return files, combined_digest(digests)


def _check_kind(files: Sequence[_File]) -> None:
    for file in files:
        modality = modality_of(file.ds)
        sop_class = text(file.ds, "SOPClassUID")
        if modality not in ("CT", None):
            raise UnusableSeries("NOT_CT", f"the modality is {modality} in {file.name}")
        if sop_class is not None and sop_class not in CT_SOP_CLASSES:
            what = UID(sop_class).name
            raise UnusableSeries("NOT_CT", f"{file.name} is not a CT slice but: {what}")
        if "LOCALIZER" in (value.upper() for value in texts(file.ds, "ImageType")):
            raise UnusableSeries("LOCALIZER", f"{file.name} is a localizer (scout view)")


def _check_pixels(files: Sequence[_File]) -> None:
    for file in files:
        if (integer(file.ds, "SamplesPerPixel") or 1) != 1:
            raise UnusableSeries("NOT_CT", f"{file.name} is a color image")
    empty = [file.name for file in files if not has_pixel_data(file.ds)]
    if len(empty) == len(files):
        raise UnusableSeries("NO_PIXEL_DATA", f"no image in {listed(empty)}")
    if empty:
        raise UnusableSeries("CORRUPT_FILE", f"no image in {listed(empty)}, unlike the others")


def _check_modality(files: Sequence[_File]) -> None:
    unknown = [f.name for f in files if modality_of(f.ds) is None]
    if unknown:
        raise UnusableSeries("NOT_CT", f"no modality is given in {listed(unknown)}")


def _frames_of(file: _File, any_modality: bool) -> list[_Frame]:
    count = count_frames(file.ds)
    if count > 1 and not is_enhanced(file.ds):
        raise UnusableSeries(
            "CORRUPT_FILE", f"{file.name} holds {count} images without saying where they lie"
        )
    described = len(file.ds.get("PerFrameFunctionalGroupsSequence") or [])
    if described not in (0, count):
        raise UnusableSeries(
            "CORRUPT_FILE", f"{file.name} holds {count} images and describes {described}"
        )
    return [
        _frame(file, number, f", frame {number + 1}" if count > 1 else "", any_modality)
        for number in range(count)
    ]


def _frame(file: _File, number_in_file: int, suffix: str, any_modality: bool) -> _Frame:
    frame = FrameAttributes(file.ds, number_in_file)
    name = file.name + suffix
    slope, intercept = (
        number(frame.holder(keyword), keyword) for keyword in ("RescaleSlope", "RescaleIntercept")
    )
    rescale_type = text(frame.holder("RescaleType"), "RescaleType")
    if any_modality:  # many series of MR have none, or values in units of their own
        slope, intercept, rescale_type = slope or 1.0, intercept or 0.0, None
    if not slope or intercept is None:
        raise UnusableSeries("NOT_HU", f"no valid RescaleSlope and RescaleIntercept in {name}")
    if rescale_type is not None and rescale_type.upper() not in HU_RESCALE_TYPES:
        raise UnusableSeries("NOT_HU", f"the values in {name} are {rescale_type}, not HU")
    plane = SlicePlane(
        name,
        (integer(file.ds, "Rows") or 0, integer(file.ds, "Columns") or 0),
        _numbers(frame, "ImagePositionPatient", 3),
        _numbers(frame, "ImageOrientationPatient", 6),
        _numbers(frame, "PixelSpacing", 2),
    )
    return _Frame(file, number_in_file, plane, slope, intercept)


def _numbers(frame: FrameAttributes, keyword: str, count: int) -> tuple[float, ...] | None:
    return numbers(frame.holder(keyword), keyword, count)


def _thickness_mm(frame: _Frame) -> float:
    """Thickness of a slice, mm; 1 where it is not given."""
    holder = FrameAttributes(frame.file.ds, frame.number).holder("SliceThickness")
    thickness = number(holder, "SliceThickness")
    return thickness if thickness and thickness > 0 else 1.0


def _check_size(frames: Sequence[_Frame]) -> None:
    voxels = sum(frame.plane.shape[0] * frame.plane.shape[1] for frame in frames)
    if voxels > MAX_VOXELS:
        raise UnusableSeries(
            "TOO_LARGE", f"{len(frames)} slices, {voxels} voxels; up to {MAX_VOXELS} are accepted"
        )


def _rescaled(
    frames: Sequence[_Frame], shape: tuple[int, ...]
) -> tuple[NDArray[np.generic], tuple[float, float]]:
    """Volume in HU, int16 where that loses nothing, else float32, `(z, y, x)`; and its ends."""
    whole = all(f.slope.is_integer() and f.intercept.is_integer() for f in frames)
    volume_hu = np.empty(shape, np.int16 if whole else np.float32)
    decoded: dict[Path, NDArray[np.integer]] = {}
    last_use = {frame.file.path: index for index, frame in enumerate(frames)}
    low, high = np.inf, -np.inf
    for index, frame in enumerate(frames):
        path = frame.file.path
        if path not in decoded:
            decoded[path] = _decode(frame.file)
        stored = decoded[path][frame.number]
        ends = [float(end) * frame.slope + frame.intercept for end in (stored.min(), stored.max())]
        low, high = min(low, *ends), max(high, *ends)
        if volume_hu.dtype == np.int16 and not -(2**15) <= min(ends) <= max(ends) < 2**15:
            volume_hu = volume_hu.astype(np.float32)
        _write_hu(volume_hu[index], stored, frame)
        if last_use[path] == index:
            del decoded[path]
    return volume_hu, (low, high)


def _write_hu(slice_hu: NDArray[np.generic], stored: NDArray[np.integer], frame: _Frame) -> None:
    if slice_hu.dtype == np.int16 and frame.slope == 1 and abs(frame.intercept) < 2**15:
        # Sums of 16-bit numbers are right whenever they fit, whatever wraps on the way.
        np.add(stored.astype(np.int16), np.int16(frame.intercept), out=slice_hu)
    elif slice_hu.dtype == np.int16:
        slice_hu[:] = stored.astype(np.int64) * int(frame.slope) + int(frame.intercept)
    else:
        slice_hu[:] = stored * frame.slope + frame.intercept


def _decode(file: _File) -> NDArray[np.integer]:
    try:
        return stored_values(file.ds)
    except UndecodableImage as error:
        raise UnusableSeries("CORRUPT_FILE", f"{file.name}: {error}") from error
    finally:
        del file.ds["PixelData"]
