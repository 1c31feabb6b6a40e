"""Images, transforms and landmarks of a pair as files: read, and written in the form they had."""

from __future__ import annotations

import contextlib
import csv
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from registration.atomic_files import PART_PREFIX, placing
from registration.image_files import read_image_file
from registration.pair_preparation import gray_image
from registration.table_files import SEPARATORS

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

PLANE_SUFFIXES = (".png", ".bmp")
"""Those of them that hold one slice."""

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
        points: LPS mm, shape `(n, 3)`, or `(n, 2)` where the table has no z; NaN where a cell
            is empty.
        rows: The table as it was read, one list of cells per point.
        columns: Where x, y (and z) stand in a row.
        head: Lines before the first point.
        is_ras: Whether the file counts x and y to the right and front, as NIfTI does.
        separator: What stands between the cells.
    """

    points: NDArray[np.float64]
    rows: tuple[tuple[str, ...], ...]
    columns: tuple[int, ...]
    head: tuple[str, ...]
    is_ras: bool
    separator: str = ","


def image_suffix(path: Path) -> str:
    """Suffix in which an image is written again: its own, `.nrrd` for a DICOM series."""
    name = path.name.lower()
    return next((s for s in IMAGE_SUFFIXES if name.endswith(s)), SERIES_SUFFIX)


def read_pair_image(path: Path) -> sitk.Image:
    """A scalar image file, or the one DICOM series of a folder, archive or DICOM file.

    A series may be of any modality, in any plane, and of a single slice. Where its slices lie is
    checked as that of a scored scan is, and its rescale applied, if it has one: CT is in HU.

    Raises:
        UnusableFile: If it cannot be read, has colors, or there is not exactly one series.
    """
    if path.is_file() and path.name.lower().endswith(IMAGE_SUFFIXES):
        try:
            image = gray_image(read_image_file(path))
        except UnicodeError as error:
            raise UnusableFile(str(error)) from None
        except (RuntimeError, ValueError) as error:
            raise UnusableFile(f"{path.name} cannot be read as a gray image") from error
        if image.GetDimension() not in (2, 3):
            raise UnusableFile(
                f"{path.name} must have two or three axes; it has {image.GetDimension()}"
            )
        return image
    return _read_series(path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell what cannot be written as an `UnusableFile`.

    Args:
        path: What is written, or the folder of it: named if the system names nothing.
    """
    try:
        yield
    except UnusableFile:
        raise
    except OSError as error:
        where = error.filename or path
        raise UnusableFile(f"{where} cannot be written: {error.strerror or error}") from error


def write_pair_image(image: sitk.Image, path: Path) -> None:
    """Write an image by atomic rename; of a header and its data file, the data first.

    Raises:
        UnusableFile: If the format does not hold such an image, or the folder takes no file.
    """
    name = path.name.lower()
    if not name.endswith(IMAGE_SUFFIXES):  # ITK's own choice of formats is wider, and may crash
        raise UnusableFile(f"{path.name} must end in one of {', '.join(IMAGE_SUFFIXES)}")
    if name.endswith(PLANE_SUFFIXES) and image.GetDimension() != 2:
        # ITK would write the first slice alone
        raise UnusableFile(
            f"{path.name} holds images of two axes; this one has {image.GetDimension()}. "
            "Choose another suffix, such as .nii.gz or .nrrd"
        )
    try:
        with tempfile.TemporaryDirectory(prefix=PART_PREFIX, dir=path.parent) as folder:
            # under its final name, as a header on its own names its data file
            part = Path(folder) / path.name
            sitk.WriteImage(image, str(part), True)
            for file in sorted(Path(folder).iterdir(), key=lambda file: file == part):
                os.replace(file, path.parent / file.name)
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().rpartition("\n")[2].rpartition(": ")[2]
        raise UnusableFile(
            f"{path.name} could not be written as an image of {image.GetDimension()} axes of "
            f"{image.GetPixelIDTypeAsString()}: {reason}. If it is the format, choose another "
            "suffix, such as .nii.gz or .nrrd"
        ) from error


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

    Cells are separated by commas, semicolons or tabs. Empty coordinates are those of a point
    that has no place, as `write_landmarks` leaves them.

    Raises:
        UnusableFile: If it is not UTF-8, columns are missing or a coordinate is not a number.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UnusableFile(
            f"{path.name} must be text in UTF-8; save the table as CSV UTF-8"
        ) from error
    columns: tuple[int, ...] = (1, 2, 3)
    separator, n_names = ",", None
    if path.suffix.lower() == ".fcsv":
        head = [line for line in lines if line.startswith("#")]
        body = [line for line in lines if not line.startswith("#")]
        is_ras = _is_ras(head)
    else:
        first = next((i for i, line in enumerate(lines) if line.strip(SEPARATORS + " ")), 0)
        head, body = lines[: first + 1], lines[first + 1 :]
        columns, separator, n_names = _columns(head[-1] if head else "", path.name)
        is_ras = False
    body = [line for line in body if line.strip()]
    rows = tuple(tuple(row) for row in csv.reader(body, delimiter=separator))
    points = np.array([_point(row, columns, n_names, path.name) for row in rows], dtype=float)
    points = points.reshape(-1, len(columns))
    if is_ras:
        points[:, :2] *= -1.0
    return Landmarks(points, rows, columns, tuple(head), is_ras, separator)


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
    with placing(path) as part, part.open("w", newline="", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in landmarks.head)
        writer = csv.writer(stream, delimiter=landmarks.separator, lineterminator="\n")
        for row, point in zip(landmarks.rows, written, strict=True):
            cells = list(row)
            for column, value in zip(landmarks.columns, point, strict=True):
                cells[column] = f"{value:.6f}" if np.isfinite(value) else ""
            writer.writerow(cells)


def _columns(head: str, name: str) -> tuple[tuple[int, ...], str, int]:
    """Where x, y (and z) stand, by the line of names; its separator, and how many names it has."""
    for separator in SEPARATORS:
        names = [cell.strip().lower() for cell in next(csv.reader([head], delimiter=separator), [])]
        if {"x", "y"} <= set(names):
            columns = tuple(names.index(axis) for axis in "xyz" if axis in names)
            return columns, separator, len(names)
    raise UnusableFile(f"{name} must have columns x and y, and z in 3-D")


def _point(
    row: tuple[str, ...], columns: tuple[int, ...], n_names: int | None, name: str
) -> list[float]:
    """Coordinates of a row, NaN for empty cells; `n_names` cells at most, if it is known."""
    if len(row) <= max(columns) or (n_names is not None and any(row[n_names:])):
        names = "" if n_names is None else f" under {n_names} names"
        raise UnusableFile(
            f"{name} has a row of {len(row)} cells{names}; decimal commas must be points, and "
            "texts with a separator in quotes"
        )
    point = []
    for cell in (row[column].strip() for column in columns):
        try:
            point.append(float(cell) if cell else math.nan)
        except ValueError as error:
            if "," in cell:
                raise UnusableFile(
                    f"{name} has decimal commas ({cell!r}); write {cell.replace(',', '.')}"
                ) from error
            raise UnusableFile(f"{name}: coordinates must be numbers; one is {cell!r}") from error
    return point


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
        raise UnusableFile(
            f"{path} must be an image file ({', '.join(IMAGE_SUFFIXES)}) or hold exactly one DICOM "
            f"series; it holds {len(candidates)}"
        )
    try:
        return read_scan(candidates[0], any_modality=True).image
    except UnusableSeries as reason:
        phases = ". Of a series with several phases give one, or one file"
        advice = phases if reason.code == "DUPLICATE_SLICE" else ""
        raise UnusableFile(f"{path.name}: {reason}{advice}") from reason
