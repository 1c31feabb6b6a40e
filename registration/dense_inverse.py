"""Inverse of a dense deformation, also beyond the lattice that it is known on.

A field on a lattice ends where the lattice ends. To move nothing from there on would tear it, and
no iteration gets past a tear; here it goes on as it ends, and the inverse reaches as far as the
lattice is moved. What the lattice does not show then comes out beyond it, and not at its rim.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from registration.fixed_point_inverse import swept_inverse
from registration.geometry import ImageGrid
from registration.transforms_dense import displacement_field_transform_mm

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
    """Inverse displacement and length of its residual at all places."""
    return swept_inverse(
        -_looked_up(deformation, places),
        lambda inverse: inverse + _looked_up(deformation, places + inverse),
        lambda inverse: np.stack([np.gradient(inverse, axis=axis) for axis in range(3)], axis=-1),
        sweeps=SWEEPS,
        tolerance=TOLERANCE_VOX,
    )


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
