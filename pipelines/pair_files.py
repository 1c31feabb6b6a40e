"""Images, transforms and landmarks of a pair as files: read, and written in the form they had."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from registration.pair_preparation import gray_image

IMAGE_SUFFIXES = (
    ".nii.gz",
    ".nii",
    ".nrrd",
    ".nhdr",
    ".mha",
    ".mhd",
    ".png",
    ".tif",
    ".tiff",
    ".bmp",
)
"""Image files that are read and written as they are."""

SERIES_SUFFIX = ".nrrd"
"""Form in which an image that came as a DICOM series is written."""

LANDMARK_SUFFIXES = (".csv", ".fcsv")
"""Files that hold points."""

_RAS_NAMES = ("RAS", "0")
_LPS_NAMES = ("LPS", "1")
"""Coordinate systems in the header of an FCSV file, as Slicer writes them: by name or number."""


class UnusableFile(ValueError):  # noqa: N818 (says what is wrong with the file)
    """A file that cannot take part in a registration; the message says why."""


@dataclass(frozen=True, slots=True)
class Landmarks:
    """A table of points, and how to write it again.

    Args:
        points: LPS mm, shape `(n, 3)`, or `(n, 2)` where the table has no z.
        rows: The table as it was read, one list of cells per point.
        columns: Where x, y (and z) stand in a row.
        head: Lines before the first point.
        is_ras: Whether the file counts x and y to the right and front, as NIfTI does.
    """

    points: NDArray[np.float64]
    rows: tuple[tuple[str, ...], ...]
    columns: tuple[int, ...]
    head: tuple[str, ...]
    is_ras: bool


def image_suffix(path: Path) -> str:
    """Suffix in which an image is written again: its own, `.nrrd` for a DICOM series."""
    name = path.name.lower()
    return next((s for s in IMAGE_SUFFIXES if name.endswith(s)), SERIES_SUFFIX)


def read_pair_image(path: Path) -> sitk.Image:
    """A scalar image file, or the one CT series of a folder, archive or DICOM file.

    Raises:
        UnusableFile: If it cannot be read, has colors, or there is not exactly one series.
    """
    if path.is_file() and path.name.lower().endswith(IMAGE_SUFFIXES):
        try:
            image = gray_image(sitk.ReadImage(str(path)))
        except (RuntimeError, ValueError) as error:
            raise UnusableFile(f"{path.name} cannot be read as a gray image") from error
        if image.GetDimension() not in (2, 3):
            raise UnusableFile(
                f"{path.name} must have two or three axes; it has {image.GetDimension()}"
            )
        return image
    return _read_series(path)


def write_pair_image(image: sitk.Image, path: Path) -> None:
    """Write an image by atomic rename.

    Raises:
        UnusableFile: If the format does not hold such voxels.
    """
    partial = path.with_name(f"partial.{path.name}")
    try:
        sitk.WriteImage(image, str(partial), True)
    except RuntimeError as error:
        raise UnusableFile(
            f"{path.name} cannot hold an image of {image.GetPixelIDTypeAsString()}; "
            "choose another suffix, .nii.gz or .nrrd"
        ) from error
    os.replace(partial, path)


def as_pixel_type(image: sitk.Image, pixel_id: int) -> sitk.Image:
    """Image of another voxel type; whole numbers are rounded, and clipped to their range."""
    if pixel_id in (sitk.sitkFloat32, sitk.sitkFloat64):
        return sitk.Cast(image, pixel_id)
    array = np.rint(sitk.GetArrayFromImage(image))
    kind = sitk.GetArrayViewFromImage(sitk.Image([1] * image.GetDimension(), pixel_id)).dtype
    limits = np.iinfo(kind)
    converted = sitk.GetImageFromArray(np.clip(array, limits.min, limits.max).astype(kind))
    converted.CopyInformation(image)
    return converted


def read_pair_transform(path: Path) -> sitk.Transform:
    """An ITK transform file.

    Raises:
        UnusableFile: If it is none.
    """
    try:
        return sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise UnusableFile(
            f"{path.name} is not a transform that ITK reads (.tfm, .txt, .h5)"
        ) from error


def read_landmarks(path: Path) -> Landmarks:
    """Points of a CSV file with columns x, y, z (LPS mm), or of a Slicer FCSV file.

    Raises:
        UnusableFile: If columns are missing or a coordinate is not a number.
    """
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    is_fcsv = path.suffix.lower() == ".fcsv"
    if is_fcsv:
        head = [line for line in lines if line.startswith("#")]
        body = [line for line in lines if line.strip() and not line.startswith("#")]
        columns: tuple[int, ...] = (1, 2, 3)
        is_ras = _is_ras(head)
    else:
        head, body = lines[:1], [line for line in lines[1:] if line.strip()]
        names = [name.strip().lower() for name in next(csv.reader(head), [])]
        columns = tuple(names.index(axis) for axis in "xyz" if axis in names)
        if not {"x", "y"} <= set(names):
            raise UnusableFile(f"{path.name} must have columns x and y, and z in 3-D")
        is_ras = False
    rows = tuple(tuple(row) for row in csv.reader(body))
    try:
        points = np.array([[float(row[c]) for c in columns] for row in rows], dtype=float)
    except (ValueError, IndexError) as error:
        raise UnusableFile(f"{path.name} has a row without coordinates: {error}") from error
    points = points.reshape(-1, len(columns))
    if is_ras:
        points[:, :2] *= -1.0
    return Landmarks(points, rows, columns, tuple(head), is_ras)


def write_landmarks(landmarks: Landmarks, points: NDArray[np.float64], path: Path) -> None:
    """Write a table again with other points, in the coordinate system it had.

    Args:
        landmarks: The table as it was read.
        points: New points, LPS mm; those that are not finite become empty cells.
        path: File of the same kind.
    """
    written = points.copy()
    if landmarks.is_ras:
        written[:, :2] *= -1.0
    partial = path.with_name(f"partial.{path.name}")
    with partial.open("w", newline="", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in landmarks.head)
        writer = csv.writer(stream, lineterminator="\n")
        for row, point in zip(landmarks.rows, written, strict=True):
            cells = list(row)
            for column, value in zip(landmarks.columns, point, strict=True):
                cells[column] = f"{value:.6f}" if np.isfinite(value) else ""
            writer.writerow(cells)
    os.replace(partial, path)


def _is_ras(head: list[str]) -> bool:
    for line in head:
        name, _, value = line.lstrip("# ").partition("=")
        if name.strip() == "CoordinateSystem":
            if value.strip() in _LPS_NAMES:
                return False
            if value.strip() in _RAS_NAMES:
                return True
            raise UnusableFile(
                f"the coordinate system must be LPS or RAS, 0 or 1; it is {value.strip()!r}"
            )
    return True  # what Slicer wrote before it wrote the line


def _read_series(path: Path) -> sitk.Image:
    from pipelines.discovery import find_series
    from pipelines.reading import read_scan
    from pipelines.reasons import UnusableSeries

    candidates = find_series([path])
    if len(candidates) != 1:
        raise UnusableFile(f"{path} must hold exactly one series; it holds {len(candidates)}")
    try:
        return read_scan(candidates[0]).image
    except UnusableSeries as reason:
        raise UnusableFile(f"{path.name}: {reason}") from reason
