"""A subject's warps as one dense field on a lattice: what every round needs, in a tenth of time.

A B-spline on a lattice that has its axes is three small matrix products. Where warps follow each
other, the field found so far says where the next one is looked up, linearly between voxels: next
to control points that lie four voxels apart the error is some hundredths of a voxel. The
transforms that an atlas gives away stay the exact ones.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from atlas.subject_transform import SubjectTransform, Warp
from registration.geometry import ImageGrid, affine_transform
from registration.transforms import composite_transform
from registration.transforms_dense import displacement_field_transform


def warp_field_vox(warp: Warp, grid: ImageGrid) -> NDArray[np.float64]:
    """Displacement of one warp at every voxel of a grid, exact where the spline is defined.

    Args:
        warp: Its lattice must have the axes of space, as has the grid.
        grid: Where to evaluate it.

    Returns:
        Voxels of the grid, array axis order, shape `(*shape, 3)`.

    Raises:
        ValueError: If the lattice or the grid is turned against the axes of space, or the spline
            is not cubic.
    """
    numbers = np.array(warp.fixed_parameters)
    size, origin, spacing = numbers[:3], numbers[3:6], numbers[6:9]
    straight = np.allclose(numbers[9:], np.eye(3).ravel()) and np.allclose(
        grid.direction, np.eye(3).ravel()
    )
    if not straight or warp.order != 3:
        raise ValueError(
            "a cubic spline along the axes of space is needed. "
            f"Received: order {warp.order}, directions {numbers[9:].tolist()}, {grid.direction}"
        )
    field = np.reshape(warp.parameters, (3, *size[::-1].astype(int)))
    for axis in range(3):
        matrix = _basis(
            grid.size[axis],
            (grid.origin[axis] - origin[axis]) / spacing[axis],
            grid.spacing[axis] / spacing[axis],
            int(size[axis]),
        )
        # array axes of the components (z, y, x) are those of space in reverse
        field = np.moveaxis(np.tensordot(matrix, field, axes=(1, 3 - axis)), 0, 3 - axis)
    voxels = field / np.reshape(grid.spacing, (3, 1, 1, 1))
    return np.ascontiguousarray(np.moveaxis(voxels[::-1], 0, -1))


def deformation_field_vox(found: SubjectTransform, grid: ImageGrid) -> NDArray[np.float64]:
    """Displacement of all warps of a subject, one after the other, without its affine map.

    Returns:
        Voxels of the grid, array axis order, shape `(*shape, 3)`.
    """
    field = np.zeros((*grid.shape, 3))
    places = np.indices(grid.shape, dtype=float)
    for number, warp in enumerate(reversed(found.warps)):
        own = warp_field_vox(warp, grid)
        if number == 0:
            field = own
            continue
        at = places + np.moveaxis(field, -1, 0)
        moved = [map_coordinates(own[..., k], at, order=1, mode="nearest") for k in range(3)]
        field = field + np.stack(moved, axis=-1)
    return field


def dense_transform(found: SubjectTransform, grid: ImageGrid) -> sitk.Transform:
    """A subject's pull-back with the warps as one dense field on a grid, which resamples fast.

    Args:
        found: The subject's transform.
        grid: What it is meant for: this grid or a finer one of the same extent. It moves nothing
            outside.
    """
    affine = affine_transform(found.matrix)
    if not found.warps:
        return affine
    field = displacement_field_transform(deformation_field_vox(found, grid), grid)
    return composite_transform([affine, field])


@lru_cache(maxsize=64)
def _basis(count: int, first: float, step: float, points: int) -> NDArray[np.float64]:
    """Cubic B-splines of the control points of one axis at its voxels, `(count, points)`."""
    distance = np.abs(first + step * np.arange(count)[:, None] - np.arange(points)[None, :])
    inner = 2.0 / 3.0 - distance**2 + 0.5 * distance**3
    outer = np.maximum(2.0 - distance, 0.0) ** 3 / 6.0
    return np.where(distance < 1.0, inner, outer)
