"""Network results as ITK transforms, exact and without a dense field, and back.

Networks think in voxels of their working grid, array axis order; ITK thinks in LPS mm. A
B-spline stage leaves as `sitk.BSplineTransform`, an affine one as `sitk.AffineTransform`, and
stages in a row as `sitk.CompositeTransform`: the same numbers that SimpleITK reads from a `.tfm`
file. 3D Slicer reads it as well if all has three axes and every B-spline is cubic; one of order 2
it takes for a cubic one, without a word, which is another field (`is_read_by_slicer`).

Every transform pulls back: it takes points of the fixed image to points of the moving one. Images
follow it as it is, landmarks of the moving image its inverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

from registration.geometry import ImageGrid, affine_matrix, affine_transform
from registration.transforms_hdf5 import write_hdf5_transform

EXPORTED_ORDERS = (2, 3)
"""Degrees of the spline that are exported; ITK's linear one has no derivative at its knots."""

DOMAIN_MARGIN = 2
"""Control point spacings by which the domain of an exported B-spline passes the image: ITK moves
no point outside the domain, where a lattice continued past the border still does."""

LATTICE_ATOL = 1e-3
"""Largest deviation of an imported lattice from the expected place, in control point spacings."""

POINT_TOLERANCE_MM = 1e-4
"""Distance at which the search for the pre-image of a point ends, mm."""

_POINT_ITERATIONS = 60
_DIFFERENCE_STEP_MM = 0.05


@dataclass(frozen=True, slots=True)
class ControlPointLattice:
    """Coefficients of a B-spline displacement on the voxels of a grid.

    Args:
        control_points: Voxels, array axis order, shape `(*lattice, d)`. The first lies in the
            middle of the first `spacing` voxels of each axis, or `border` points before.
        spacing: Control point spacing per array axis, voxels.
        order: Degree of the spline, 2 or 3.
        border: Control points beyond the image at every end.
    """

    control_points: NDArray[np.float64]
    spacing: tuple[float, ...]
    order: int
    border: int = 0


def bspline_transform(
    control_points: ArrayLike,
    grid: ImageGrid,
    *,
    spacing: Sequence[float],
    border: int = 0,
    order: int = 3,
) -> sitk.BSplineTransform:
    """ITK transform of a lattice of control points, as `BSplineField` evaluates it.

    The lattice is continued past its end by its outermost values, as networks do, so the
    transform is the network's at every voxel and goes on smoothly beyond.

    Args:
        control_points: Displacements, voxels, array axis order, shape `(*lattice, d)`.
        grid: Grid whose voxels are meant, of any spacing, origin and direction.
        spacing: Control point spacing per array axis (z, y, x), voxels.
        border: Control points beyond the image at every end of the lattice.
        order: Degree of the spline, 2 or 3.

    Returns:
        Pull-back on LPS points, mm.

    Raises:
        ValueError: If the order is not exported, or shapes and axes disagree.

    Source:
        Lattice of `itk::BSplineTransform`: its domain begins `(order - 1) / 2` control point
        spacings after the first control point.
    """
    points = np.asarray(control_points, dtype=float)
    dimension = grid.dimension
    if order not in EXPORTED_ORDERS:
        raise ValueError(f"order must be one of {EXPORTED_ORDERS}. Received: order={order}")
    if points.ndim != dimension + 1 or points.shape[-1] != dimension or len(spacing) != dimension:
        raise ValueError(
            f"a grid of {dimension} axes needs a lattice of shape (*lattice, {dimension}) and "
            f"as many spacings. Received: shape {points.shape}, spacing={tuple(spacing)}"
        )
    steps = np.array(spacing, dtype=float)
    before, after = _padding(grid.shape, points.shape[:-1], steps, border, order)
    widths = [*zip(before, after, strict=True), (0, 0)]
    padded = np.pad(points, widths, mode="edge")
    first = ((steps - 1) / 2 - (np.array(before) + border) * steps)[::-1]
    displacement_mm = (padded[..., ::-1] * np.array(grid.spacing)) @ grid.direction_matrix.T
    transform = sitk.BSplineTransform(dimension, order)
    transform.SetFixedParameters(
        [
            *(float(n) for n in padded.shape[:-1][::-1]),
            *grid.physical_points(first).tolist(),
            *(steps[::-1] * np.array(grid.spacing)).tolist(),
            *grid.direction,
        ]
    )
    transform.SetParameters(np.moveaxis(displacement_mm, -1, 0).ravel().tolist())
    return transform


def bspline_control_points(
    transform: sitk.BSplineTransform, grid: ImageGrid, *, border: int = 0
) -> ControlPointLattice:
    """Control points of an ITK B-spline that was exported for this grid.

    Args:
        transform: Pull-back; its lattice must lie on `grid` as `bspline_transform` puts it.
        grid: Grid whose voxels are meant.
        border: Control points beyond the image at every end of the lattice that is wanted.

    Returns:
        The lattice, its continuation past the end taken off.

    Raises:
        ValueError: If the lattice is turned against the grid, lies elsewhere, or has free
            values past the border: then no lattice of this kind is the same transform.
    """
    d = grid.dimension
    fixed = np.array(transform.GetFixedParameters(), dtype=float)
    size = tuple(int(n) for n in fixed[:d])
    if not np.allclose(fixed[3 * d :], grid.direction, atol=1e-6):
        raise ValueError(
            f"the lattice must have the direction of the grid. Received: {fixed[3 * d :].tolist()}"
        )
    steps = (fixed[2 * d : 3 * d] / np.array(grid.spacing))[::-1]
    first = grid.indices(fixed[d : 2 * d])[::-1]
    before = ((steps - 1) / 2 - first) / steps
    if np.abs(before - np.rint(before)).max() > LATTICE_ATOL or before.min() < -LATTICE_ATOL:
        raise ValueError(
            "the lattice must begin a whole number of control point spacings before the middle "
            f"of the first ones. Received: {before.tolist()}"
        )
    mm = np.reshape(transform.GetParameters(), (d, *size[::-1]))
    values = (np.moveaxis(mm, 0, -1) @ grid.direction_matrix) / np.array(grid.spacing)
    start = np.rint(before).astype(int) - border
    count = np.ceil(np.array(grid.shape) / steps - LATTICE_ATOL).astype(int) + 2 * border
    if start.min() < 0:
        raise ValueError(
            f"the lattice must reach {border} control points beyond the image. "
            f"Received: {before.round(3).tolist()} on the near side"
        )
    inner = values[tuple(slice(a, a + n) for a, n in zip(start, count, strict=True))]
    ends = np.array(values.shape[:-1]) - start - count
    widths = [*zip(start.tolist(), np.maximum(ends, 0).tolist(), strict=True), (0, 0)]
    continued = np.pad(inner, widths, mode="edge") if inner.size else inner
    if continued.shape != values.shape or not np.allclose(continued, values, atol=1e-6):
        raise ValueError(
            "past the border the lattice must repeat its outermost values. Received: a lattice "
            f"of {size} control points with values of its own there"
        )
    spacing = tuple(float(s) for s in np.round(steps, 9))
    return ControlPointLattice(np.array(inner[..., ::-1]), spacing, transform.GetOrder(), border)


def centered_affine_transform(
    matrix: ArrayLike, grid: ImageGrid, *, spacing: Sequence[float] | None = None
) -> sitk.AffineTransform:
    """ITK transform of an affine that a network found on the voxels of a grid.

    Args:
        matrix: Homogeneous pull-back on points along the index axes (x, y, z), measured from
            the middle of the grid, as `AffineField` takes it; shape `(d + 1, d + 1)`.
        grid: Grid that the network saw, of any origin and direction.
        spacing: Spacing (x, y, z) that the network took the voxels to have; by default that
            of the grid. A network that knows voxels alone takes 1.

    Returns:
        Pull-back on LPS points, mm.

    Raises:
        ValueError: If the matrix does not fit the grid.
    """
    inner = np.asarray(matrix, dtype=float)
    frame = _centered_frame(grid, spacing)
    if inner.shape != frame.shape:
        raise ValueError(f"matrix must have shape {frame.shape}. Received: {inner.shape}")
    return affine_transform(frame @ inner @ np.linalg.inv(frame))


def centered_affine_matrix(
    transform: sitk.Transform, grid: ImageGrid, *, spacing: Sequence[float] | None = None
) -> NDArray[np.float64]:
    """Matrix that a network would have given for a linear transform; see the inverse above.

    Raises:
        ValueError: If the transform is not linear.
    """
    frame = _centered_frame(grid, spacing)
    return np.asarray(np.linalg.inv(frame) @ affine_matrix(transform) @ frame)


def composite_transform(stages: Sequence[sitk.Transform]) -> sitk.Transform:
    """One pull-back for successive stages, coarse to fine.

    Every stage registers what the earlier ones left over, so a fixed point goes through the
    *last* stage first, and through the first stage last. ITK applies the transform added last
    first, so the stages are added in the order in which they were found.

    Args:
        stages: Pull-backs, the first found first; composites among them are taken apart.

    Returns:
        The only stage itself, or a composite of all.

    Raises:
        ValueError: If there is none.
    """
    parts = [part for stage in stages for part in transform_stages(stage)]
    if not parts:
        raise ValueError("stages must hold at least one transform. Received: none")
    return parts[0] if len(parts) == 1 else sitk.CompositeTransform(parts)


def transform_stages(transform: sitk.Transform) -> tuple[sitk.Transform, ...]:
    """Parts of a composite in the order in which they were found; others are one part."""
    if transform.GetName() != "CompositeTransform":
        return (transform,)
    composite = sitk.CompositeTransform(transform)
    parts = [composite.GetNthTransform(i) for i in range(composite.GetNumberOfTransforms())]
    return tuple(inner for part in parts for inner in transform_stages(part))


def is_read_by_slicer(transform: sitk.Transform) -> bool:
    """Whether 3D Slicer reads the file of a transform as what it is.

    Source:
        `vtkITKTransformConverter.h` of 3D Slicer, whose B-splines are of order 3 in three axes.

    Example:
        >>> [is_read_by_slicer(sitk.BSplineTransform(3, order)) for order in (2, 3)]
        [False, True]
    """
    splines = [part for part in transform_stages(transform) if part.GetName() == "BSplineTransform"]
    is_cubic = all(sitk.BSplineTransform(part).GetOrder() == 3 for part in splines)
    return transform.GetDimension() == 3 and is_cubic


def write_transform(transform: sitk.Transform, path: Path) -> None:
    """Write an ITK transform file, `.tfm` or `.txt` (text), `.h5` (binary).

    The same transform gives the same bytes, in either form.

    Raises:
        ValueError: If the suffix is none of these.
    """
    if path.suffix.lower() not in (".tfm", ".txt", ".h5", ".hdf5"):
        raise ValueError(f"a transform file must end in .tfm, .txt or .h5. Received: {path.name}")
    if path.suffix.lower() in (".h5", ".hdf5"):
        write_hdf5_transform(transform, path)
    else:
        sitk.WriteTransform(transform, str(path))


def moving_points(transform: sitk.Transform, fixed_points: ArrayLike) -> NDArray[np.float64]:
    """Where points of the fixed image lie in the moving one: the transform as it is.

    Args:
        transform: Pull-back.
        fixed_points: LPS mm, shape `(n, d)`.

    Returns:
        LPS mm, shape `(n, d)`.
    """
    points = np.asarray(fixed_points, dtype=float)
    mapped = [transform.TransformPoint(point) for point in points.tolist()]
    return np.array(mapped, dtype=float).reshape(points.shape)


def fixed_points(
    transform: sitk.Transform, moving_points: ArrayLike, *, tolerance_mm: float = POINT_TOLERANCE_MM
) -> NDArray[np.float64]:
    """Where points of the moving image lie in the fixed one: the inverse of the transform.

    Every point is searched for by Newton's method on the transform itself, so no dense field
    and no inverse file is needed.

    Args:
        transform: Pull-back, from fixed to moving points.
        moving_points: LPS mm, shape `(n, d)`.
        tolerance_mm: Distance at which the search ends.

    Returns:
        LPS mm, shape `(n, d)`; NaN where the transform reaches the point from nowhere, and for
        points that are not finite.
    """
    targets = np.asarray(moving_points, dtype=float)
    # ITK's splines end in an error on NaN
    targets = np.where(np.isfinite(targets).all(axis=-1, keepdims=True), targets, np.nan)
    if transform.IsLinear():
        homogeneous = np.linalg.inv(affine_matrix(transform))
        return np.asarray(targets @ homogeneous[:-1, :-1].T + homogeneous[:-1, -1])
    found = [_preimage(transform, target, tolerance_mm) for target in targets]
    return np.array(found, dtype=float).reshape(targets.shape)


def _padding(
    shape: Sequence[int],
    lattice: Sequence[int],
    steps: NDArray[np.float64],
    border: int,
    order: int,
) -> tuple[list[int], list[int]]:
    """Control points to add before and after, so that the domain passes image and margin."""
    support = (order - 1) / 2
    first = (steps - 1) / 2 - border * steps
    last = first + (np.array(lattice) - 1) * steps
    before = np.ceil((first + 0.5) / steps + support) + DOMAIN_MARGIN
    after = np.ceil((np.array(shape) - 0.5 - last) / steps + support) + DOMAIN_MARGIN
    first_added, last_added = (np.maximum(n, 0).astype(int).tolist() for n in (before, after))
    return first_added, last_added


def _centered_frame(grid: ImageGrid, spacing: Sequence[float] | None) -> NDArray[np.float64]:
    """Homogeneous map from a network's points about the middle of the grid to LPS mm."""
    scale = np.ones(grid.dimension) if spacing is None else np.array(grid.spacing) / spacing
    frame = np.eye(grid.dimension + 1)
    frame[:-1, :-1] = grid.direction_matrix * scale
    frame[:-1, -1] = grid.center
    return frame


def _preimage(
    transform: sitk.Transform, target: NDArray[np.float64], tolerance_mm: float
) -> NDArray[np.float64]:
    """Damped Newton iteration for one point; NaN if it does not arrive."""
    point = target.copy()
    if np.isnan(point).any():
        return point
    residual = np.array(transform.TransformPoint(point.tolist())) - target
    for _ in range(_POINT_ITERATIONS):
        error = float(np.linalg.norm(residual))
        if error <= tolerance_mm:
            return point
        step = np.linalg.lstsq(_jacobian(transform, point), residual, rcond=None)[0]
        share = 1.0
        while share > 1e-3:
            tried = point - share * step
            left = np.array(transform.TransformPoint(tried.tolist())) - target
            if np.linalg.norm(left) < error:
                break
            share /= 2
        else:
            break
        point, residual = tried, left
    return np.full(len(target), np.nan)


def _jacobian(transform: sitk.Transform, point: NDArray[np.float64]) -> NDArray[np.float64]:
    columns = []
    for axis in range(len(point)):
        ends = []
        for sign in (1.0, -1.0):
            shifted = point.copy()
            shifted[axis] += sign * _DIFFERENCE_STEP_MM
            ends.append(np.array(transform.TransformPoint(shifted.tolist())))
        columns.append((ends[0] - ends[1]) / (2 * _DIFFERENCE_STEP_MM))
    return np.stack(columns, axis=-1)
