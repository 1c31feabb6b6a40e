"""Dense displacement fields of transforms, the Learn2Reg layout, and inverses on a grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from registration.fixed_point_inverse import swept_inverse
from registration.geometry import ImageGrid, affine_matrix, affine_transform, transform_points
from registration.transforms import transform_stages

INVERSE_ITERATIONS = 50
"""Fixed-point iterations of an inverse before it is given as it is."""

INVERSE_TOLERANCE_MM = 1e-3
"""Residual at every grid point at which an inverse counts as found, mm."""


@dataclass(frozen=True, slots=True)
class InverseTransform:
    """The inverse of a transform, and how far it is from undoing it.

    Args:
        transform: From moving to fixed points, mm; exact if the given one was linear.
        mean_error_mm: Mean distance between points of the moving grid and where inverse and
            transform in a row bring them, mm. Taken in the
            middle between grid points, where the dense inverse is interpolated.
        max_error_mm: Greatest such distance, mm.
    """

    transform: sitk.Transform
    mean_error_mm: float
    max_error_mm: float


def displacement_field_mm(transform: sitk.Transform, grid: ImageGrid) -> NDArray[np.float64]:
    """Displacement `T(x) - x` at every voxel of a grid.

    Args:
        transform: Pull-back.
        grid: Where to evaluate it.

    Returns:
        LPS mm, components (x, y, z), shape `(*shape, d)`.
    """
    image = sitk.TransformToDisplacementField(
        transform,
        sitk.sitkVectorFloat64,
        list(grid.size),
        list(grid.origin),
        list(grid.spacing),
        list(grid.direction),
    )
    return np.asarray(sitk.GetArrayFromImage(image), dtype=float)


def displacement_field_vox(transform: sitk.Transform, grid: ImageGrid) -> NDArray[np.float64]:
    """Displacement at every voxel as the networks have it.

    Args:
        transform: Pull-back.
        grid: Where to evaluate it.

    Returns:
        Voxels of the grid, array axis order, shape `(*shape, d)`.
    """
    along_axes = displacement_field_mm(transform, grid) @ grid.direction_matrix
    return np.asarray((along_axes / np.array(grid.spacing))[..., ::-1])


def displacement_field_transform(
    displacement_field: NDArray[np.floating], grid: ImageGrid
) -> sitk.DisplacementFieldTransform:
    """ITK transform of a dense field of voxels; outside the grid it moves nothing.

    Args:
        displacement_field: Voxels, array axis order, shape `(*shape, d)`.
        grid: Grid that the field lives on.

    Returns:
        Pull-back with linear interpolation between voxels, LPS mm.

    Raises:
        ValueError: If the shape is not that of the grid.
    """
    field = np.asarray(displacement_field, dtype=float)
    along_axes = field[..., ::-1] * np.array(grid.spacing)
    return displacement_field_transform_mm(along_axes @ grid.direction_matrix.T, grid)


def displacement_field_transform_mm(
    displacement_mm: NDArray[np.floating], grid: ImageGrid
) -> sitk.DisplacementFieldTransform:
    """The same of a field in physical space.

    Args:
        displacement_mm: LPS mm, components (x, y, z), shape `(*shape, d)`.
        grid: Grid that the field lives on.

    Raises:
        ValueError: If the shape is not that of the grid.
    """
    if displacement_mm.shape != (*grid.shape, grid.dimension):
        raise ValueError(
            f"a field on this grid must have shape {(*grid.shape, grid.dimension)}. "
            f"Received: {displacement_mm.shape}"
        )
    image = sitk.GetImageFromArray(np.ascontiguousarray(displacement_mm, dtype=float), True)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    return sitk.DisplacementFieldTransform(image)


def write_learn2reg(
    transform: sitk.Transform, fixed_grid: ImageGrid, moving_grid: ImageGrid, path: Path
) -> None:
    """Write a transform as Learn2Reg's evaluation reads it.

    The NIfTI file has shape (X, Y, Z, 3), the axes of the fixed image as nibabel loads it.
    A component is a number of voxels along that axis, and `index + displacement` is an index
    into the moving array: `map_coordinates(moving, identity + displacement)`.

    Args:
        transform: Pull-back, LPS mm.
        fixed_grid: Grid of the fixed image, three-dimensional.
        moving_grid: Grid of the moving image; in the challenge that of the fixed one.
        path: File ending in `.nii` or `.nii.gz`.

    Raises:
        ValueError: If the grids are not three-dimensional or the file is no NIfTI file.

    Source:
        Learn2Reg evaluation (github.com/MDL-UzL/L2R, `evaluation`): full-resolution layout.
    """
    _check_learn2reg(fixed_grid, path)
    moved = fixed_grid.voxel_points() + displacement_field_mm(transform, fixed_grid)
    axes = [np.arange(n) for n in fixed_grid.shape]
    index = np.stack(np.meshgrid(*axes, indexing="ij")[::-1], axis=-1)
    displacement = (moving_grid.indices(moved) - index).astype(np.float32)
    image = sitk.GetImageFromArray(np.moveaxis(displacement, -1, 0), isVector=False)
    image.SetSpacing((*fixed_grid.spacing, 1.0))
    image.SetOrigin((*fixed_grid.origin, 0.0))
    direction = np.eye(4)
    direction[:3, :3] = fixed_grid.direction_matrix
    image.SetDirection(direction.ravel().tolist())
    sitk.WriteImage(image, str(path), True)


def read_learn2reg(
    path: Path, fixed_grid: ImageGrid, moving_grid: ImageGrid
) -> sitk.DisplacementFieldTransform:
    """Read a displacement field in Learn2Reg's layout; see `write_learn2reg`.

    Args:
        path: NIfTI file of shape (X, Y, Z, 3), voxels.
        fixed_grid: Grid of the fixed image.
        moving_grid: Grid of the moving image.

    Returns:
        Pull-back, LPS mm.

    Raises:
        ValueError: If the shape is not that of the fixed grid.
    """
    _check_learn2reg(fixed_grid, path)
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(path), sitk.sitkFloat64))
    if array.shape != (3, *fixed_grid.shape):
        raise ValueError(
            f"the field must have shape {(*fixed_grid.size, 3)}. Received: {array.shape[::-1]}"
        )
    axes = [np.arange(n) for n in fixed_grid.shape]
    index = np.stack(np.meshgrid(*axes, indexing="ij")[::-1], axis=-1)
    points = moving_grid.physical_points(index + np.moveaxis(array, 0, -1))
    return displacement_field_transform_mm(points - fixed_grid.voxel_points(), fixed_grid)


def inverse_transform(
    transform: sitk.Transform,
    grid: ImageGrid,
    *,
    iterations: int = INVERSE_ITERATIONS,
    tolerance_mm: float = INVERSE_TOLERANCE_MM,
) -> InverseTransform:
    """Inverse of a pull-back: from points of the moving image to points of the fixed one.

    Linear transforms are inverted exactly. Otherwise the pre-image of every grid point is
    found by fixed-point iteration on the transform itself (`swept_inverse`) and kept as a dense
    field. Where a transform folds it has no inverse, and the error says so.

    Args:
        transform: Pull-back, from fixed to moving points.
        grid: Grid on which the inverse is wanted, as a rule that of the moving image.
        iterations: Most iterations.
        tolerance_mm: Greatest residual at grid points at which to stop, mm.

    Returns:
        The inverse with its measured inverse-consistency error.
    """
    if all(part.IsLinear() for part in transform_stages(transform)):
        inverse: sitk.Transform = affine_transform(np.linalg.inv(_linear_part(transform, grid)))
        return _measured(inverse, transform, grid)
    # A margin, so that points near the border still find values to interpolate between.
    wide = _widened(grid)
    points = wide.voxel_points()
    backward = np.linalg.inv(_linear_part(transform, grid))

    def residual_of(field: NDArray[np.float64]) -> NDArray[np.float64]:
        there = sitk.CompositeTransform([transform, displacement_field_transform_mm(field, wide)])
        return displacement_field_mm(there, wide)

    best, _ = swept_inverse(
        transform_points(backward, points) - points,
        residual_of,
        lambda field: _derivatives(field, wide),
        sweeps=iterations,
        tolerance=tolerance_mm,
    )
    return _measured(displacement_field_transform_mm(best, wide), transform, grid)


def _derivatives(field_mm: NDArray[np.float64], grid: ImageGrid) -> NDArray[np.float64]:
    """Derivative of each component (x, y, z) along x, y and z, `(*shape, d, d)`."""
    slopes = [np.gradient(field_mm, axis=axis) for axis in reversed(range(grid.dimension))]
    along = np.stack(slopes, axis=-1)
    per_index = grid.direction_matrix * np.array(grid.spacing)
    return np.asarray(along @ np.linalg.inv(per_index))


def _check_learn2reg(grid: ImageGrid, path: Path) -> None:
    if grid.dimension != 3 or not path.name.endswith((".nii", ".nii.gz")):
        raise ValueError(
            "Learn2Reg's layout is a .nii or .nii.gz file of a three-dimensional field. "
            f"Received: {path.name}, {grid.dimension}-D"
        )


def _widened(grid: ImageGrid) -> ImageGrid:
    size = tuple(n + 4 for n in grid.size)
    origin = grid.physical_points([-2.0] * grid.dimension)
    return ImageGrid(size, grid.spacing, tuple(origin.tolist()), grid.direction)


def _linear_part(transform: sitk.Transform, grid: ImageGrid) -> NDArray[np.float64]:
    """Product of the linear stages, homogeneous; the others are taken to be near identity."""
    matrix = np.eye(grid.dimension + 1)
    for part in transform_stages(transform):
        if part.IsLinear():
            matrix = matrix @ affine_matrix(part)
    return matrix


def _measured(
    inverse: sitk.Transform, transform: sitk.Transform, grid: ImageGrid
) -> InverseTransform:
    """Distance of `T(T⁻¹(y))` from `y` between grid points."""
    size = tuple(max(1, n - 1) for n in grid.size)
    shift = [0.5 if n > 1 else 0.0 for n in grid.size]
    origin = tuple(grid.physical_points(shift).tolist())
    between = ImageGrid(size, grid.spacing, origin, grid.direction)
    both = sitk.CompositeTransform([transform, inverse])
    error = np.linalg.norm(displacement_field_mm(both, between), axis=-1)
    return InverseTransform(inverse, float(error.mean()), float(error.max()))
