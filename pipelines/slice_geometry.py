"""From slice positions to an image grid, or to a refusal that names the slices.

ITK's series readers average the spacing over gaps and copies with only a warning: one
slice given twice among 57 halves the score. Here the positions decide, they are all
checked, and nothing is repaired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.reasons import UnusableSeries
from registration.geometry import ImageGrid

MIN_SLICES = 5
"""Fewest slices of a scan (own): with fewer, the usual distance between slices, against which
gaps are judged, is anybody's guess. Whether the heart is covered is asked later."""

ORIENTATION_ATOL = 1e-3
"""Largest difference of direction cosines between slices (own): 0.5 mm over the 250 mm from
the center to the corner of a slice is 2e-3; headers keep at least four decimals."""

PIXEL_SPACING_RTOL = 1e-4
"""Largest relative difference of pixel spacings between slices (own): a twentieth of a pixel
over 512 pixels."""

MAX_OBLIQUE_DEG = 20.0
"""Largest angle between the slice normal and the body axis [deg] (own): coronal, sagittal and
heart-axis reformats are beyond, a tilted head rest is not."""

SAME_POSITION_MM = 0.05
"""Slices nearer than this lie at the same position [mm] (own): no CT slice is as thin."""

SPACING_ATOL_MM = 0.11
"""Largest deviation of a gap from the usual gap, and of a slice from where even spacing puts
it [mm] (own): positions rounded to 0.1 mm, as some scanners write them, cause 0.1 mm of either."""

SPACING_RTOL = 0.02
"""The same deviations relative to the usual gap, where that is more (own)."""

MISSING_RATIO = 1.5
"""A gap of more than this many usual gaps means that a slice is missing (own)."""

MAX_TILT_DEG = 0.5
"""Largest angle between normal and stacking direction [deg] (own): over the 130 mm of a heart
it shifts the slices by 1.1 mm, less than half a coronary artery's diameter."""

SIDEWAYS_ATOL_MM = 0.5
"""Largest distance of a slice's corner from the straight line through all corners [mm] (own):
about one pixel of a cardiac scan."""

MAX_VOXELS = 2**29
"""Largest series [voxels]: 2048 slices of 512², 1 GiB in HU (own)."""

_MAX_NAMED = 3


@dataclass(frozen=True, slots=True)
class SlicePlane:
    """Where one slice lies.

    Args:
        name: How to call the slice in messages: its file, and the frame if there are many.
        shape: Rows and columns.
        position: LPS position of the center of the first pixel, mm, `None` if not given.
        orientation: Direction of a row, then of a column, in LPS, `None` if not given.
        pixel_spacing_mm: Distance between rows, then between columns (DICOM order).
    """

    name: str
    shape: tuple[int, int]
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing_mm: tuple[float, ...] | None


def stack_planes(
    planes: Sequence[SlicePlane], *, single_slice_mm: float | None = None
) -> tuple[ImageGrid, NDArray[np.intp], float]:
    """Grid of a stack of slices.

    The third index grows towards the head, also where that makes the directions
    left-handed: the patient is never mirrored, because every slice keeps its position.

    Args:
        planes: The slices in any order.
        single_slice_mm: Allow any plane of the body and any number of slices; spacing of the
            third axis if there is but one slice, mm. By default a scan that can be scored is
            asked for.

    Returns:
        The grid in LPS mm; the numbers of `planes` in the order of the grid's slices,
        shape `(n,)`; and the angle between normal and stacking direction in degrees.

    Raises:
        UnusableSeries: If the slices are no evenly spaced stack of axial slices.

    Source:
        DICOM PS3.3 C.7.6.2 (Image Plane module).

    Example:
        >>> planes = [
        ...     SlicePlane(f"{z}.dcm", (4, 6), (1.0, 2.0, 3.0 * z), (1, 0, 0, 0, 1, 0), (0.5, 0.5))
        ...     for z in (2, 0, 1, 4, 3)
        ... ]
        >>> grid, order, _ = stack_planes(planes)
        >>> grid.spacing, order.tolist()
        ((0.5, 0.5, 3.0), [1, 2, 0, 4, 3])
    """
    least, most_deg = (MIN_SLICES, MAX_OBLIQUE_DEG) if single_slice_mm is None else (1, 90.0)
    _check_complete(planes, least)
    _check_alike(planes)
    row, column, normal = _axes(planes, most_deg)
    corners = np.array([plane.position for plane in planes], dtype=float)
    along = corners @ normal
    order = np.argsort(along, kind="stable")
    names = [planes[number].name for number in order]
    tilt_deg, spacing_mm = 0.0, single_slice_mm or 0.0
    if len(planes) > 1:
        _check_same_positions(along[order], names)
        tilt_deg = _check_straight(corners[order], normal, names)
        _check_gaps(along[order], names)
        spacing_mm = float(along[order[-1]] - along[order[0]]) / (len(planes) - 1)
    rows, columns = planes[0].shape
    between_rows, between_columns = planes[0].pixel_spacing_mm or (0.0, 0.0)
    grid = ImageGrid(
        (columns, rows, len(planes)),
        (between_columns, between_rows, spacing_mm),
        tuple(corners[order[0]].tolist()),
        tuple(np.stack([row, column, normal], axis=1).ravel().tolist()),
    )
    return grid, order, tilt_deg


def listed(names: Sequence[str]) -> str:
    """The first few of many names.

    Example:
        >>> listed(["a", "b", "c", "d", "e"])
        'a, b, c and 2 more'
    """
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _check_complete(planes: Sequence[SlicePlane], least: int) -> None:
    if len(planes) < least:
        raise UnusableSeries(
            "TOO_FEW_SLICES", f"{len(planes)} slice(s); at least {least} are needed"
        )
    for what, keyword in (
        ("position", "ImagePositionPatient"),
        ("orientation", "ImageOrientationPatient"),
        ("pixel_spacing_mm", "PixelSpacing"),
    ):
        lacking = [plane.name for plane in planes if not getattr(plane, what)]
        if lacking:
            raise UnusableSeries("CORRUPT_FILE", f"no valid {keyword} in {listed(lacking)}")
    empty = [plane.name for plane in planes if min(plane.shape) < 1]
    if empty:
        raise UnusableSeries("CORRUPT_FILE", f"no pixels in {listed(empty)}")
    for plane in planes:
        if min(plane.pixel_spacing_mm or (0.0,)) <= 0:
            raise UnusableSeries("CORRUPT_FILE", f"PixelSpacing is not positive in {plane.name}")


def _check_alike(planes: Sequence[SlicePlane]) -> None:
    """All slices have the most frequent shape, pixel spacing and orientation."""
    shapes = [plane.shape for plane in planes]
    usual = max(sorted(set(shapes)), key=shapes.count)
    odd = [plane.name for plane in planes if plane.shape != usual]
    if odd:
        raise UnusableSeries(
            "MIXED_ORIENTATION",
            f"most slices have {usual[0]} × {usual[1]} pixels, but not {listed(odd)}",
        )
    spacings = np.array([plane.pixel_spacing_mm for plane in planes])
    unlike = np.abs(spacings / np.median(spacings, axis=0) - 1).max(axis=1) > PIXEL_SPACING_RTOL
    if unlike.any():
        odd = [planes[int(number)].name for number in np.flatnonzero(unlike)]
        raise UnusableSeries("MIXED_ORIENTATION", f"another pixel spacing in {listed(odd)}")
    orientations = np.array([plane.orientation for plane in planes])
    unlike = np.abs(orientations - _usual(orientations)).max(axis=1) > ORIENTATION_ATOL
    if unlike.any():
        odd = [planes[int(number)].name for number in np.flatnonzero(unlike)]
        raise UnusableSeries("MIXED_ORIENTATION", f"another orientation in {listed(odd)}")


def _usual(orientations: NDArray[np.float64]) -> NDArray[np.float64]:
    """The row that most rows are near to, shape `(6,)`; the median mixes unlike planes."""
    values, counts = np.unique(np.round(orientations, 2) + 0.0, axis=0, return_counts=True)
    near = np.abs(orientations - values[np.argmax(counts)]).max(axis=1) < 0.02
    return np.asarray(np.median(orientations[near], axis=0), dtype=float)


def _axes(
    planes: Sequence[SlicePlane], most_oblique_deg: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors of rows, columns and of the normal pointing to the head."""
    usual = _usual(np.array([plane.orientation for plane in planes]))
    row, column = usual[:3], usual[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not np.allclose(lengths, 1.0, atol=1e-2) or abs(row @ column) > 1e-2:
        raise UnusableSeries(
            "CORRUPT_FILE", "ImageOrientationPatient does not hold two perpendicular unit vectors"
        )
    row = row / lengths[0]
    column = column - (column @ row) * row
    column = column / np.linalg.norm(column)
    normal = np.cross(row, column)
    if normal[2] < 0:
        normal = -normal
    oblique_deg = float(np.degrees(np.arccos(min(1.0, normal[2]))))
    if oblique_deg > most_oblique_deg:
        raise UnusableSeries(
            "NOT_AXIAL",
            f"the slices lie at {oblique_deg:.0f}° to the axial plane; "
            f"up to {most_oblique_deg:.0f}° is accepted. Use the axial reconstruction",
        )
    return row, column, normal


def _check_same_positions(along: NDArray[np.float64], names: list[str]) -> None:
    same = np.flatnonzero(np.diff(along) < SAME_POSITION_MM)
    if same.size:
        pairs = [f"{names[n]} and {names[n + 1]} at {along[n]:.2f} mm" for n in same]
        raise UnusableSeries("DUPLICATE_SLICE", f"same position twice: {_listed_places(pairs)}")


def _check_straight(
    corners: NDArray[np.float64], normal: NDArray[np.float64], names: list[str]
) -> float:
    """The slices' corners lie on a straight line along the normal; gives its angle in degrees."""
    span = corners[-1] - corners[0]
    along = (corners - corners[0]) @ normal
    tilt_deg = float(np.degrees(np.arccos(np.clip(span @ normal / np.linalg.norm(span), -1, 1))))
    line = corners[0] + np.outer(along / along[-1], span)
    sideways = np.linalg.norm(corners - line, axis=1)
    if sideways.max() > SIDEWAYS_ATOL_MM:
        worst = int(np.argmax(sideways))
        raise UnusableSeries(
            "UNEVEN_SPACING",
            f"{names[worst]} is shifted sideways by {sideways[worst]:.1f} mm against the others",
        )
    if tilt_deg > MAX_TILT_DEG:
        raise UnusableSeries(
            "GANTRY_TILT",
            f"the slices are stacked at {tilt_deg:.1f}° to their normal; up to {MAX_TILT_DEG}° is "
            "accepted. Use a reconstruction without gantry tilt",
        )
    return tilt_deg


def _check_gaps(along: NDArray[np.float64], names: list[str]) -> None:
    gaps = np.diff(along)
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    wide = np.flatnonzero(gaps > MISSING_RATIO * usual)
    if wide.size:
        raise UnusableSeries(
            "MISSING_SLICE",
            f"{len(names)} slices every {usual:.2f} mm, but {_gaps(wide, gaps, along, names)}",
        )
    tolerance = max(SPACING_ATOL_MM, SPACING_RTOL * usual)
    uneven = np.flatnonzero(np.abs(gaps - usual) > tolerance)
    if uneven.size:
        raise UnusableSeries(
            "UNEVEN_SPACING",
            f"{len(names)} slices every {usual:.2f} mm, but {_gaps(uneven, gaps, along, names)}",
        )
    even = np.linspace(along[0], along[-1], len(along))
    worst = int(np.argmax(np.abs(along - even)))
    if abs(along[worst] - even[worst]) > tolerance:
        raise UnusableSeries(
            "UNEVEN_SPACING",
            f"the distance between slices changes along the scan; {names[worst]} lies "
            f"{abs(along[worst] - even[worst]):.2f} mm from where even spacing puts it",
        )


def _gaps(
    which: NDArray[np.intp], gaps: NDArray[np.float64], along: NDArray[np.float64], names: list[str]
) -> str:
    return _listed_places(
        [
            f"{gaps[n]:.2f} mm between {names[n]} at {along[n]:.2f} mm "
            f"and {names[n + 1]} at {along[n + 1]:.2f} mm"
            for n in which
        ]
    )


def _listed_places(places: list[str]) -> str:
    more = len(places) - _MAX_NAMED
    return "; ".join(places[:_MAX_NAMED]) + (f"; and {more} more" if more > 0 else "")
