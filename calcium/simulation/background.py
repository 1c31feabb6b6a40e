"""A scan without inserted calcium, and how it is shown under another acquisition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from calcium.simulation.anatomy import Anatomy
from calcium.simulation.deformation import Deformation
from registration.geometry import ImageGrid

FINEST_PIXEL_MM = 0.7
"""Backgrounds are deformed at this pixel size at finest, then enlarged linearly [mm]."""

AIR_HU = -1000.0
"""Attenuation taken outside a background's field of view [HU]."""


@dataclass(frozen=True)
class Background:
    """A real or digital scan with what is known of its anatomy; axes along (S, P, L).

    Args:
        name: Identifies the patient: cases of one patient never train and validate both.
        volume_hu: Attenuation, HU, shape of `grid`.
        grid: Native grid.
        atlas_to_scan: Homogeneous matrix from atlas to scan, LPS mm.
        anatomy: Coronary courses and neighbors, LPS mm.
        coronary: True where the scan's own calcium is coronary, shape of `grid`.
        ignored: True where nobody knows what the scan's own calcium is.
        slice_thickness_mm: Nominal slice thickness, mm.
    """

    name: str
    volume_hu: NDArray[np.floating | np.integer]
    grid: ImageGrid
    atlas_to_scan: NDArray[np.float64]
    anatomy: Anatomy
    coronary: NDArray[np.bool_] | None = None
    ignored: NDArray[np.bool_] | None = None
    slice_thickness_mm: float = 3.0


def resample_background(
    background: Background,
    grid: ImageGrid,
    deformation: Deformation,
    *,
    order: int = 3,
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """The background on another grid, deformed.

    Args:
        background: What is shown.
        grid: Axis-aligned grid of the simulated scan.
        deformation: Pull-back from simulated to background points.
        order: Spline order for the attenuation, 1 or 3.

    Returns:
        HU, own coronary calcium, and unknown calcium, each with the shape of `grid`.
    """
    coarse = _coarser(grid)
    source, offset = _needed_part(background, coarse, deformation)
    volume = np.maximum(background.volume_hu[source].astype(np.float32), AIR_HU - 24)
    if order > 1:
        volume = ndimage.spline_filter(volume, order, output=np.float32)
    labels = _label_volume(background, source)
    out = np.empty(grid.shape, np.float32)
    out_labels = np.zeros(grid.shape, np.uint8)
    rows, columns = (_enlarger(coarse, grid, axis) for axis in (1, 0))
    for number, coordinates in _slice_coordinates(background.grid, coarse, deformation):
        local = coordinates - offset[:, None, None]
        shown = ndimage.map_coordinates(volume, local, order=order, mode="nearest", prefilter=False)
        for axis, size in enumerate(background.grid.shape):
            shown[(coordinates[axis] < -0.5) | (coordinates[axis] > size - 0.5)] = AIR_HU
        out[number] = rows @ shown @ columns.T
        if labels is not None:
            found = ndimage.map_coordinates(labels, local, order=0, mode="nearest")
            nearest = [np.asarray(m.argmax(axis=1)).ravel() for m in (rows, columns)]
            out_labels[number] = found[np.ix_(*nearest)]
    return out, out_labels == 1, out_labels == 2


def _coarser(grid: ImageGrid) -> ImageGrid:
    """The same field of view with pixels no finer than `FINEST_PIXEL_MM`."""
    pixel = max(grid.spacing[0], FINEST_PIXEL_MM)
    if pixel == grid.spacing[0]:
        return grid
    count = int(np.ceil((grid.size[0] - 1) * grid.spacing[0] / pixel)) + 1
    return replace(grid, size=(count, count, grid.size[2]), spacing=(pixel, pixel, grid.spacing[2]))


def _enlarger(coarse: ImageGrid, grid: ImageGrid, axis: int) -> sparse.csr_matrix:
    """Linear interpolation from the coarse to the fine pixels of an in-plane axis."""
    position = np.arange(grid.size[axis]) * (grid.spacing[axis] / coarse.spacing[axis])
    first = np.clip(np.floor(position).astype(int), 0, max(coarse.size[axis] - 2, 0))
    share = np.clip(position - first, 0.0, 1.0).astype(np.float32)
    row = np.arange(grid.size[axis])
    shape = (grid.size[axis], coarse.size[axis])
    left = sparse.csr_matrix((1 - share, (row, first)), shape=shape)
    return left + sparse.csr_matrix((share, (row, first + 1)), shape=shape)


def _needed_part(
    background: Background, grid: ImageGrid, deformation: Deformation
) -> tuple[tuple[slice, ...], NDArray[np.float64]]:
    """Slices of the background array that the grid can see, and where they start (z, y, x)."""
    axes = [np.linspace(0, n - 1, 5) for n in grid.size]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    points = deformation.to_background(grid.physical_points(index))
    seen = background.grid.indices(points)[:, ::-1]
    margin = 12
    low = np.clip(np.floor(seen.min(0)) - margin, 0, np.array(background.grid.shape) - 1)
    high = np.clip(np.ceil(seen.max(0)) + margin + 1, low + 1, background.grid.shape)
    part = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return part, low.astype(float)


def _label_volume(background: Background, source: tuple[slice, ...]) -> NDArray[np.uint8] | None:
    """1 where own calcium is coronary (grown by a voxel in plane), 2 where unknown."""
    if background.coronary is None and background.ignored is None:
        return None
    labels = np.zeros(background.volume_hu[source].shape, np.uint8)
    element = np.zeros((3, 3, 3), bool)
    element[1] = True
    for value, mask in ((2, background.ignored), (1, background.coronary)):
        if mask is not None:
            labels[ndimage.binary_dilation(mask[source], element)] = value
    return labels


def _slice_coordinates(
    source: ImageGrid, target: ImageGrid, deformation: Deformation
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Array index (z, y, x) into the source of every voxel of each target slice."""
    x = target.origin[0] + np.arange(target.size[0], dtype=np.float64) * target.spacing[0]
    y = target.origin[1] + np.arange(target.size[1], dtype=np.float64) * target.spacing[1]
    to_index = np.linalg.inv(source.index_to_physical_matrix) @ deformation.affine
    for number in range(target.size[2]):
        z = target.origin[2] + number * target.spacing[2]
        points = deformation.waves_on_slice(x, y, z)
        points[0] += x
        points[1] += y[:, None]
        points[2] += z
        index = np.tensordot(to_index[:3, :3], points, axes=1) + to_index[:3, 3][:, None, None]
        yield number, index[::-1]
