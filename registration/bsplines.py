"""Uniform B-spline fields on image grids, evaluated as small matrix products per axis.

A control point field has one lattice value every `spacing` voxels. The tensor-product
spline separates by axis, so that a dense field is `d` products with basis matrices of
shape `(voxels, control points)`: the same numbers as a transposed convolution with a
fixed kernel, which TensorFlow evaluates a hundred times slower on a CPU.

The lattice is continued past its end by repeating its outermost values. Folded into
the basis matrix, this makes every row sum to one: constant control points give a constant
field up to the last voxel, where an unpadded lattice would drop to about 0.6. Where a field
must be free up to the border of the image, the lattice itself goes further: by `border`
control points on every side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

SUPPORTED_ORDERS = (1, 2, 3)
"""Degrees of the spline: linear, quadratic, cubic."""

_LATTICE_PADDING = 3
"""Repeated control points on each side: the cubic's support of two, and one of offset."""

_AXIS_LETTERS = "zyx"


def bspline_basis(positions: Any, *, order: int, derivative: int = 0) -> Any:
    """Centered cardinal B-spline, or its first or second derivative.

    Args:
        positions: Distance from the knot in units of the control point spacing, any shape.
        order: Degree, 1, 2 or 3; the support is `(order + 1) / 2` to either side.
        derivative: 0, 1 or 2, with respect to `positions`.

    Returns:
        Values of the same shape as `positions`, zero outside the support.

    Raises:
        ValueError: If the order or derivative is not supported.

    Source:
        Unser, IEEE Signal Processing Magazine 1999;16(6):22-38.
    """
    if order not in SUPPORTED_ORDERS:
        raise ValueError(f"order must be one of {SUPPORTED_ORDERS}. Received: order={order}")
    if derivative not in (0, 1, 2) or derivative > order:
        raise ValueError(
            "derivative must be 0, 1 or 2 and at most the order. "
            f"Received: derivative={derivative}, order={order}"
        )
    if derivative > 0:
        # d/dt of a cardinal spline is the difference of two of one degree less.
        lower = order - 1
        if lower == 0:
            box = ops.cast(ops.abs(positions + 0.5) < 0.5, positions.dtype)
            return box - ops.cast(ops.abs(positions - 0.5) < 0.5, positions.dtype)
        return bspline_basis(
            positions + 0.5, order=lower, derivative=derivative - 1
        ) - bspline_basis(positions - 0.5, order=lower, derivative=derivative - 1)
    distance = ops.abs(positions)
    if order == 1:
        return ops.relu(1.0 - distance)
    if order == 2:
        inner = 0.75 - distance**2
        outer = 0.5 * ops.relu(1.5 - distance) ** 2
        return ops.where(distance < 0.5, inner, outer)
    inner = 2.0 / 3.0 - distance**2 + 0.5 * distance**3
    outer = ops.relu(2.0 - distance) ** 3 / 6.0
    return ops.where(distance < 1.0, inner, outer)


def basis_matrix(
    n_voxels: Any,
    n_control_points: Any,
    *,
    spacing: float,
    offset: float | None = None,
    border: int = 0,
    order: int = 3,
    derivative: int = 0,
) -> Any:
    """Matrix that takes the control points of one axis to its voxels.

    Args:
        n_voxels: Voxels along the axis; may be a scalar tensor.
        n_control_points: Control points along the axis, those of the border included; may be
            a scalar tensor.
        spacing: Distance between control points, voxels.
        offset: Voxel index of the first control point that is not of the border; by default the
            middle of the first `spacing` voxels, where average pooling by `spacing` puts its
            first output.
        border: Control points before that one.
        order: Degree of the spline.
        derivative: Order of the derivative with respect to the voxel index.

    Returns:
        Float32 matrix of shape `(n_voxels, n_control_points)`. Its rows sum to one, or to
        zero for a derivative.

    Raises:
        ValueError: If `spacing` is not positive or `offset` lies outside `[0, spacing]`.
    """
    if spacing <= 0:
        raise ValueError(f"spacing must be positive. Received: spacing={spacing}")
    first = (spacing - 1.0) / 2.0 if offset is None else float(offset)
    if not 0.0 <= first <= spacing:
        raise ValueError(
            f"offset must lie between 0 and the spacing. Received: offset={offset}, "
            f"spacing={spacing}"
        )
    first -= border * spacing
    voxels = ops.cast(ops.arange(n_voxels), "float32")
    extended = ops.arange(n_control_points + 2 * _LATTICE_PADDING) - _LATTICE_PADDING
    distance = (voxels[:, None] - first) / spacing - ops.cast(extended, "float32")[None, :]
    values = bspline_basis(distance, order=order, derivative=derivative) / spacing**derivative
    nearest = ops.clip(extended, 0, n_control_points - 1)
    lattice = ops.arange(n_control_points)
    fold = ops.cast(nearest[:, None] == lattice[None, :], "float32")
    return ops.matmul(values, fold)


def bspline_field(
    control_points: Any,
    shape: Sequence[Any],
    *,
    spacing: Sequence[float],
    border: int = 0,
    order: int = 3,
    derivatives: Sequence[int] | None = None,
) -> Any:
    """Dense field of control points, on the voxels of an image.

    Args:
        control_points: Coefficients, shape `(batch, *lattice, channels)`, array axis order.
        shape: Image shape in array order, numbers or scalar tensors.
        spacing: Control point spacing per array axis, voxels.
        border: Control points beyond the image at every end of the lattice.
        order: Degree of the spline.
        derivatives: Order of the derivative per array axis, with respect to voxel index;
            by default none.

    Returns:
        Field of shape `(batch, *shape, channels)`, float32, in the unit of the coefficients.

    Raises:
        ValueError: If the number of axes of the arguments disagrees.
    """
    dimension = len(control_points.shape) - 2
    derivatives = (0,) * dimension if derivatives is None else derivatives
    if not len(shape) == len(spacing) == len(derivatives) == dimension:
        raise ValueError(
            f"shape, spacing and derivatives need {dimension} values. "
            f"Received: {len(shape)}, {len(spacing)} and {len(derivatives)}"
        )
    field = ops.cast(control_points, "float32")
    lattice = ops.shape(field)[1:-1]
    letters = _AXIS_LETTERS[-dimension:]
    for axis in range(dimension):
        matrix = basis_matrix(
            shape[axis],
            lattice[axis],
            spacing=spacing[axis],
            border=border,
            order=order,
            derivative=derivatives[axis],
        )
        old = "b" + letters + "c"
        new = old.replace(letters[axis], "n")
        field = ops.einsum(f"n{letters[axis]},{old}->{new}", matrix, field)
    return field


class SplineLattice:
    """A lattice of control points on the voxels of an image, its basis matrices made once.

    Args:
        shape: Image shape in array order, numbers or scalar tensors.
        lattice: Control points per array axis, those of the border included; likewise.
        spacing: Control point spacing per array axis, voxels.
        border: Control points beyond the image at every end of the lattice.
        order: Degree of the spline.
    """

    def __init__(
        self,
        shape: Sequence[Any],
        lattice: Sequence[Any],
        *,
        spacing: Sequence[float],
        border: int = 0,
        order: int = 3,
    ) -> None:
        self.matrices = [
            [
                basis_matrix(
                    n, points, spacing=distance, border=border, order=order, derivative=derivative
                )
                for derivative in range(min(order, 2) + 1)
            ]
            for n, points, distance in zip(shape, lattice, spacing, strict=True)
        ]

    def field(self, control_points: Any) -> Any:
        """`bspline_field` of control points `(batch, *lattice, channels)`."""
        return along_axes([matrices[0] for matrices in self.matrices], control_points)

    def adjoint(self, values: Any) -> Any:
        """Sums of values at voxels, each weighted by the bases: `(batch, *lattice, channels)`."""
        return along_axes([ops.transpose(matrices[0]) for matrices in self.matrices], values)

    def squared_adjoint(self, values: Any) -> Any:
        """The same with squared bases."""
        squared = [ops.transpose(matrices[0] ** 2) for matrices in self.matrices]
        return along_axes(squared, values)


def along_axes(matrices: Sequence[Any], values: Any) -> Any:
    """Multiply a tensor `(batch, *n, channels)` by one matrix per axis."""
    letters = _AXIS_LETTERS[-len(matrices) :]
    old = "b" + letters + "c"
    for letter, matrix in zip(letters, matrices, strict=True):
        values = ops.einsum(f"n{letter},{old}->{old.replace(letter, 'n')}", matrix, values)
    return values
