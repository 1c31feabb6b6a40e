"""Volumes of cine MR: stacks of slices at one phase, and contours drawn on them as masks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from cine_frames import PHASES, CineFrame, slices_at_two_phases
from numpy.typing import ArrayLike, NDArray

from registration.geometry import ImageGrid

SPACING_TOLERANCE_MM = 0.1
"""Largest deviation of a distance between slices from their mean."""

STACK_SPACING_MM = (1.37, 1.37, 8.0)
"""Spacing (x, y, z) taken for pictures without one: that of most patients that have DICOM."""

INNER, OUTER = "icontour", "ocontour"
"""Contours of endocardium and epicardium in file names."""

_FRAME_FILE = re.compile(r"IM-\d+-(?P<number>\d+)")


@dataclass(frozen=True, slots=True)
class PhasePair:
    """One heart at end diastole and end systole, on one grid.

    Args:
        patient: Name of the patient.
        images: Volumes at end diastole and at end systole.
        labels: 1 inside the left ventricle, in the same order.
    """

    patient: str
    images: tuple[sitk.Image, sitk.Image]
    labels: tuple[sitk.Image, sitk.Image]


def polygon_mask(points: ArrayLike, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose center lies inside a closed polygon, by the even-odd rule.

    Args:
        points: Corners (x, y) in pixels, (0, 0) the center of the first pixel; shape `(n, 2)`.
        shape: Rows and columns.

    Returns:
        Mask of `shape`; empty for fewer than three corners.
    """
    corners = np.asarray(points, dtype=float).reshape(-1, 2)
    inside = np.zeros(shape, dtype=bool)
    if len(corners) < 3:
        return inside
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(float)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        crosses = (y0 > rows) != (y1 > rows)
        inside ^= crosses & (columns < x0 + (rows - y0) * (x1 - x0) / (y1 - y0))
    return inside


def contour_phases(inner: Iterable[int], outer: Iterable[int]) -> tuple[int, int]:
    """Phases of end diastole and end systole, by the frames that have contours.

    Args:
        inner: Frame numbers with an endocardial contour: both phases.
        outer: Frame numbers with an epicardial contour: end diastole, as a rule.

    Raises:
        ValueError: If the inner contours do not show two phases.
    """
    drawn = Counter((n - 1) % PHASES for n in inner).most_common(2)
    if len(drawn) < 2:
        raise ValueError(f"contours must be drawn at two phases. Received: {len(drawn)}")
    outer_at = Counter((n - 1) % PHASES for n in outer)
    first, second = (phase for phase, _ in drawn)
    return (first, second) if outer_at[first] >= outer_at[second] else (second, first)


def read_patient(folder: Path) -> PhasePair:
    """End diastole and end systole of a folder with `frames/*.dcm` and `contours/*.txt`.

    The stack holds every slice with a frame at both phases, sorted by position; slices
    without an inner contour have no left ventricle.

    Raises:
        ValueError: If the phases cannot be told, or the slices make no even stack.
    """
    inner = _by_number(folder / "contours", f"*{INNER}*.txt")
    outer = _by_number(folder / "contours", f"*{OUTER}*.txt")
    phases = contour_phases(inner, outer)
    images, order, grid = _slices_with(folder, phases)
    volumes, labels = [], []
    for phase in phases:
        numbers = [found[phase] for found in order]
        volumes.append(_volume([images[n] for n in numbers], grid))
        masks = [_contour_mask(inner.get(n), grid.shape[1:]) for n in numbers]
        labels.append(grid.to_image(np.stack(masks).astype(np.uint8)))
    return PhasePair(folder.name, (volumes[0], volumes[1]), (labels[0], labels[1]))


def read_phases(folder: Path) -> dict[int, sitk.Image]:
    """Volumes of a patient at every phase that all slices have, without contours, to train on."""
    numbers = _by_number(folder / "frames", "*.dcm")
    slices: dict[int, set[int]] = {}
    for number in numbers:
        slices.setdefault((number - 1) // PHASES, set()).add((number - 1) % PHASES)
    phases = tuple(sorted(set.intersection(*slices.values())))
    images, order, grid = _slices_with(folder, phases)
    return {p: _volume([images[found[p]] for found in order], grid) for p in phases}


def stack_pictures(frames: Sequence[CineFrame]) -> list[PhasePair]:
    """Volumes of pictures drawn at two phases; the larger ventricle is end diastole.

    Spacing is not known and taken as `STACK_SPACING_MM`; patients with fewer than two such
    slices are left out.
    """
    patients: dict[str, list[tuple[CineFrame, CineFrame]]] = {}
    for pair in slices_at_two_phases(frames):
        patients.setdefault(pair[0].patient, []).append(pair)
    stacks = []
    for patient, pairs in patients.items():
        if len(pairs) < 2:
            continue
        images = [sitk.JoinSeries([pair[k].image() for pair in pairs]) for k in (0, 1)]
        labels = [sitk.JoinSeries([pair[k].labels() for pair in pairs]) for k in (0, 1)]
        for image in (*images, *labels):
            image.SetSpacing(STACK_SPACING_MM)
        volumes = [int(np.count_nonzero(sitk.GetArrayViewFromImage(mask))) for mask in labels]
        a, b = (0, 1) if volumes[0] >= volumes[1] else (1, 0)
        stacks.append(PhasePair(patient, (images[a], images[b]), (labels[a], labels[b])))
    return stacks


def _slices_with(
    folder: Path, phases: Sequence[int]
) -> tuple[dict[int, sitk.Image], list[dict[int, int]], ImageGrid]:
    """Frames, the numbers by phase of every slice that has all phases, by position, their grid."""
    frames = _by_number(folder / "frames", "*.dcm")
    images = {n: _read(path) for n, path in frames.items() if (n - 1) % PHASES in phases}
    slices: dict[tuple[float, ...], dict[int, int]] = {}
    for number, image in images.items():
        slices.setdefault(image.GetOrigin(), {})[(number - 1) % PHASES] = number
    whole = [found for found in slices.values() if len(found) == len(phases)]
    order = sorted(whole, key=lambda found: _height(images[found[phases[0]]]))
    if len(order) < 2:
        raise ValueError(f"{folder.name}: fewer than two slices have frames at all of {phases}")
    grid = _stack_grid([images[found[phases[0]]] for found in order], folder.name)
    return images, order, grid


def _volume(slices: Sequence[sitk.Image], grid: ImageGrid) -> sitk.Image:
    array = np.concatenate([sitk.GetArrayFromImage(image) for image in slices])
    return grid.to_image(array.astype(np.float32))


def _by_number(folder: Path, pattern: str) -> dict[int, Path]:
    found = {}
    for path in sorted(folder.glob(pattern)):
        match = _FRAME_FILE.match(path.name)
        if match:
            found[int(match["number"])] = path
    return found


def _read(path: Path) -> sitk.Image:
    return sitk.ReadImage(str(path), sitk.sitkFloat32)


def _height(image: sitk.Image) -> float:
    """Position along the normal of the slice, mm."""
    normal = np.reshape(image.GetDirection(), (3, 3))[:, 2]
    return float(np.dot(image.GetOrigin(), normal))


def _stack_grid(images: Sequence[sitk.Image], name: str) -> ImageGrid:
    """Grid of slices in order; they must be parallel, aligned and evenly spaced."""
    origins = np.array([image.GetOrigin() for image in images])
    steps = np.diff(origins, axis=0)
    distances = np.linalg.norm(steps, axis=1)
    spacing = float(distances.mean())
    if np.abs(steps - steps.mean(axis=0)).max() > SPACING_TOLERANCE_MM:
        raise ValueError(f"{name}: slices must be even. Received: distances {distances} mm")
    first = images[0]
    return ImageGrid(
        (*first.GetSize()[:2], len(images)),
        (*first.GetSpacing()[:2], spacing),
        first.GetOrigin(),
        first.GetDirection(),
    )


def _contour_mask(path: Path | None, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    if path is None:
        return np.zeros(shape, dtype=bool)
    return polygon_mask(np.loadtxt(path, ndmin=2), (shape[0], shape[1]))
