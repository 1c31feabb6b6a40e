"""The way back from a subject to the atlas: its warps undone as one dense field.

A field on a lattice ends where the lattice ends. To move nothing from there on would tear it, and
no iteration gets past a tear; here it goes on as it ends, and the inverse reaches as far as the
lattice is moved. A point of the subject that the atlas does not show then comes out beyond the
atlas, and not at its rim.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from registration.geometry import ImageGrid
from registration.transforms_dense import displacement_field_mm, displacement_field_transform_mm

TOLERANCE_VOX = 0.02
"""Residual at which a point counts as found, voxels of the registration grid."""

SWEEPS = 5
"""Fixed-point iterations of the whole field; after them one point in ten or fewer is left."""

NEWTON_STEPS = 15
"""Most steps of each of the others."""

LONGEST_STEP_VOX = 2.0
"""Greatest length of such a step: further away its derivatives say nothing."""

WIDEST_MARGIN = 0.5
"""Most that the inverse reaches past a face of the lattice, in shares of the lattice."""

DIGITS_MM = 2.0**-10
"""Step to which the inverse is rounded [mm], far below its tolerance; files get smaller."""

_DIFFERENCE_VOX = 0.25
_DAMPING = 1e-3


def inverse_of_warps(
    deformation: NDArray[np.floating], grid: ImageGrid
) -> sitk.DisplacementFieldTransform:
    """Pull-back that undoes a dense deformation, on a lattice as wide as that moves its grid.

    Where the deformation folds it has no inverse, and the point nearest to being one is taken.

    Args:
        deformation: Displacement at every voxel, voxels of the grid, array axis order, shape
            `(*shape, 3)`.
        grid: Its lattice.

    Returns:
        Transform from moved points to points of the grid, LPS mm; beyond its own lattice,
        where nothing of the grid comes to lie, it moves nothing.

    Source:
        Chen et al., Med Phys 2008;35(1):81-88 (fixed-point inversion); the rest own.
    """
    first, shape = _reach(deformation)
    places = _voxels(shape) + first
    inverse, residual = _swept(deformation, places)
    left = residual > TOLERANCE_VOX
    if left.any():
        inverse[left] = _searched(deformation, places[left], inverse[left], residual[left])
    origin = grid.physical_points(first[::-1].astype(float))
    wide = ImageGrid(shape[::-1], grid.spacing, tuple(origin.tolist()), grid.direction)
    along_axes = inverse[..., ::-1] * np.array(grid.spacing)
    shifts_mm = np.rint(along_axes @ grid.direction_matrix.T / DIGITS_MM) * DIGITS_MM
    return displacement_field_transform_mm(shifts_mm, wide)


def carried_back_error_mm(
    forward: sitk.Transform, backward: sitk.Transform, grid: ImageGrid, seen: sitk.Image
) -> float:
    """How far from its place in the subject something of the atlas comes to lie.

    Points of the atlas that the subject shows are carried there by the exact transform, back by
    the inverse and there again: the second place is where a label of the first would be drawn.

    Args:
        forward: From atlas to subject, LPS mm.
        backward: From subject to atlas.
        grid: Registration grid. Points in the middle between its voxels, where a dense field is
            worst, are taken, every second one along each axis.
        seen: Positive in the subject's field of view.

    Returns:
        Mean distance in the subject, mm; 0.0 if nothing of the atlas is in view.
    """
    size = tuple(max(1, n // 2) for n in grid.size)
    origin = grid.physical_points([0.5 if n > 1 else 0.0 for n in grid.size])
    spacing = tuple(2.0 * s for s in grid.spacing)
    between = ImageGrid(size, spacing, tuple(origin.tolist()), grid.direction)
    there = displacement_field_mm(forward, between)
    again = displacement_field_mm(sitk.CompositeTransform([forward, backward, forward]), between)
    in_view = sitk.GetArrayFromImage(
        sitk.Resample(
            seen, between.empty_image(sitk.sitkUInt8), forward, sitk.sitkNearestNeighbor, 0
        )
    )
    error = np.linalg.norm(again - there, axis=-1)[in_view > 0]
    return float(error.mean()) if error.size else 0.0


def _reach(deformation: NDArray[np.floating]) -> tuple[NDArray[np.intp], tuple[int, ...]]:
    """First index and shape of a lattice that holds the grid and all that it is moved to."""
    shape = np.array(deformation.shape[:-1])
    ends = (_voxels(deformation.shape[:-1]) + deformation).reshape(-1, 3)
    most = np.ceil(WIDEST_MARGIN * shape)
    first = np.clip(np.floor(ends.min(axis=0)) - 1, -most, 0).astype(int)
    last = np.clip(np.ceil(ends.max(axis=0)) + 1, shape - 1, shape - 1 + most).astype(int)
    return first, tuple((last - first + 1).tolist())


def _voxels(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Index of every voxel, `(*shape, 3)`."""
    return np.moveaxis(np.indices(shape, dtype=float), 0, -1)


def _looked_up(field: NDArray[np.floating], places: NDArray[np.floating]) -> NDArray[np.float64]:
    """Field between voxels (linear), beyond them as at the nearest; `(..., 3)` to `(..., 3)`."""
    at = np.moveaxis(places, -1, 0)
    found = [map_coordinates(field[..., k], at, order=1, mode="nearest") for k in range(3)]
    return np.stack(found, axis=-1)


def _swept(
    deformation: NDArray[np.floating], places: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Inverse displacement and its residual at all places, preconditioned by its derivatives.

    Where a step led away, the next one is half as long, from the same place.
    """
    inverse = -_looked_up(deformation, places)
    best, rest = inverse, np.zeros_like(inverse)
    least, length = np.full(places.shape[:-1], np.inf), np.ones(places.shape[:-1])
    for sweep in range(SWEEPS):
        residual = inverse + _looked_up(deformation, places + inverse)
        size = np.linalg.norm(residual, axis=-1)
        better = size < least
        least = np.where(better, size, least)
        best = np.where(better[..., None], inverse, best)
        rest = np.where(better[..., None], residual, rest)
        if sweep == SWEEPS - 1 or float(least.max()) <= TOLERANCE_VOX:
            break
        length = np.where(better, np.minimum(1.0, 2.0 * length), 0.5 * length)
        slopes = np.stack([np.gradient(best, axis=axis) for axis in range(3)], axis=-1)
        step = rest + np.einsum("...ij,...j->...i", slopes, rest)
        inverse = best - length[..., None] * step
    return best, least


def _searched(
    deformation: NDArray[np.floating],
    places: NDArray[np.floating],
    inverse: NDArray[np.float64],
    least: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Inverse at places `(n, 3)` that the sweeps did not find: Newton steps from nearby.

    They begin at the voxel that is moved nearest to the place, of the grid and of a margin.
    """
    start = _nearest_voxels(deformation, places)
    found, rest = start, start + _looked_up(deformation, start) - places
    size, length = np.linalg.norm(rest, axis=-1), np.ones(len(places))
    open_ = np.arange(len(places))
    for _ in range(NEWTON_STEPS):
        open_ = open_[size[open_] > TOLERANCE_VOX]
        if not open_.size:
            break
        step = _newton_step(deformation, found[open_], rest[open_]) * length[open_, None]
        tried = found[open_] - step
        residual = tried + _looked_up(deformation, tried) - places[open_]
        now = np.linalg.norm(residual, axis=-1)
        better = now < size[open_]
        chosen = open_[better]
        found[chosen], rest[chosen], size[chosen] = tried[better], residual[better], now[better]
        length[open_] = np.where(better, np.minimum(1.0, 2.0 * length[open_]), length[open_] / 2)
    return np.where((size < least)[:, None], found - places, inverse)


def _nearest_voxels(
    deformation: NDArray[np.floating], places: NDArray[np.floating]
) -> NDArray[np.float64]:
    first = np.minimum(places.min(axis=0), 0)
    last = np.maximum(places.max(axis=0), np.array(deformation.shape[:-1]) - 1)
    voxels = _voxels(tuple((last - first + 1).astype(int).tolist())).reshape(-1, 3) + first
    tree = cKDTree(voxels + _looked_up(deformation, voxels), balanced_tree=False)
    return np.asarray(voxels[tree.query(places)[1]])


def _newton_step(
    deformation: NDArray[np.floating],
    points: NDArray[np.float64],
    residual: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Step against a residual at points `(n, 3)`, damped where the deformation is flat."""
    slopes = np.empty((len(points), 3, 3))
    for axis, shift in enumerate(_DIFFERENCE_VOX * np.eye(3)):
        ahead, behind = (_looked_up(deformation, points + s) for s in (shift, -shift))
        slopes[..., axis] = (ahead - behind) / (2.0 * _DIFFERENCE_VOX)
    slopes += np.eye(3)
    turned = np.swapaxes(slopes, -1, -2)
    step = np.linalg.solve(turned @ slopes + _DAMPING * np.eye(3), turned @ residual[..., None])[
        ..., 0
    ]
    norm = np.linalg.norm(step, axis=-1, keepdims=True)
    return np.asarray(step * np.minimum(1.0, LONGEST_STEP_VOX / np.maximum(norm, 1e-12)))
