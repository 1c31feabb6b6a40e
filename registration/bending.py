"""Bending energy of displacement fields, from the dense field or from control points.

`P = 1/V ∫ Σ_c (Tzz² + Tyy² + Txx² + 2 Tzy² + 2 Tzx² + 2 Tyx²) dV`, summed over the
components `c` of the displacement in mm, derivatives with respect to mm: 1/mm².
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from keras import ops

from registration.bsplines import SplineLattice, along_axes


def bending_energy(displacement_field: Any, *, spacing_mm: Sequence[float]) -> Any:
    """Bending energy of a dense field, by central differences inside the border.

    Args:
        displacement_field: Voxels, array axis order, shape `(batch, *shape, d)`. Along axes of
            fewer than three voxels, as of a single slice, derivatives count as zero.
        spacing_mm: Voxel spacing per array axis (z, y, x), mm.

    Returns:
        One energy per batch item, 1/mm², shape `(batch,)`; zero for affine fields.

    Raises:
        ValueError: If `spacing_mm` does not have one value per axis.

    Source:
        Rueckert et al., IEEE Trans Med Imaging 1999;18(8):712-721, equation 6.
    """
    dimension = _dimension(displacement_field, spacing_mm)
    field_mm = ops.cast(displacement_field, "float32") * ops.convert_to_tensor(
        [float(s) for s in spacing_mm], "float32"
    )
    energy: Any = 0.0
    for first, second, weight in _derivative_pairs(dimension):
        derivative = _second_difference(field_mm, first, second)
        step = float(spacing_mm[first]) * float(spacing_mm[second])
        square = (derivative / step) ** 2
        mean = ops.mean(square, axis=tuple(range(1, dimension + 1)))
        energy = energy + weight * ops.sum(mean, axis=-1)
    return energy


def control_point_bending_energy(
    control_points: Any,
    shape: Sequence[Any],
    *,
    spacing: Sequence[float],
    spacing_mm: Sequence[float],
    border: int = 0,
    order: int = 3,
) -> Any:
    """Bending energy of a B-spline field from its coefficients, without the dense field.

    The mean over voxels of a squared derivative is a quadratic form in the coefficients,
    whose matrix is the Kronecker product of one small Gram matrix per axis.

    Args:
        control_points: Voxels, shape `(batch, *lattice, d)`, array axis order.
        shape: Shape of the image the field is meant for, array order.
        spacing: Control point spacing per array axis, voxels.
        spacing_mm: Voxel spacing per array axis, mm.
        border: Control points beyond the image at every end of the lattice.
        order: Degree of the spline, 2 or 3.

    Returns:
        One energy per batch item, 1/mm², shape `(batch,)`.

    Raises:
        ValueError: If `spacing_mm` does not have one value per axis.
    """
    _dimension(control_points, spacing_mm)
    points = ops.cast(control_points, "float32")
    lattice = ops.shape(points)[1:-1]
    spline = SplineLattice(shape, lattice, spacing=spacing, border=border, order=order)
    return BendingForm(spline, spacing_mm, weight=1.0).energy(points)


class BendingForm:
    """Bending energy of a B-spline field as a quadratic form in its control points.

    Args:
        spline: Lattice of the control points.
        spacing_mm: Voxel spacing per array axis, mm.
        weight: Multiplies the energy, mm².
    """

    def __init__(
        self, spline: SplineLattice, spacing_mm: Sequence[float], *, weight: float
    ) -> None:
        self._grams = [
            [
                ops.matmul(ops.transpose(m), m) / ops.cast(ops.shape(m)[0], "float32")
                for m in matrices
            ]
            for matrices in spline.matrices
        ]
        self._terms = [
            (
                [int(axis == first) + int(axis == second) for axis in range(len(spacing_mm))],
                weight * share / (float(spacing_mm[first]) * float(spacing_mm[second])) ** 2,
            )
            for first, second, share in _derivative_pairs(len(spacing_mm))
        ]
        self._squared_mm = ops.convert_to_tensor([float(s) ** 2 for s in spacing_mm], "float32")

    def product(self, control_points: Any) -> Any:
        """Form times control points (voxels), of which the energy is the sum with them."""
        total: Any = 0.0
        for orders, weight in self._terms:
            grams = [own[order] for own, order in zip(self._grams, orders, strict=True)]
            total = total + weight * along_axes(grams, control_points)
        return total * self._squared_mm

    def diagonal(self) -> Any:
        """Diagonal of the form, shape `(*lattice, d)`."""
        total: Any = 0.0
        for orders, weight in self._terms:
            part: Any = 1.0
            for axis, order in enumerate(orders):
                own = ops.diagonal(self._grams[axis][order])
                part = part * ops.reshape(own, (*(1,) * axis, -1, *(1,) * (len(orders) - axis)))
            total = total + weight * part
        return total * self._squared_mm

    def energy(self, control_points: Any) -> Any:
        """Weighted energy, shape `(batch,)`."""
        axes = tuple(range(1, len(control_points.shape)))
        return ops.sum(control_points * self.product(control_points), axis=axes)


def _dimension(field: Any, spacing_mm: Sequence[float]) -> int:
    dimension = int(field.shape[-1])
    if len(spacing_mm) != dimension:
        raise ValueError(
            f"spacing_mm needs one value for each of {dimension} axes. Received: {spacing_mm}"
        )
    return dimension


def _derivative_pairs(dimension: int) -> list[tuple[int, int, float]]:
    """Axes of every second derivative, with its weight: mixed ones stand twice."""
    pairs = itertools.combinations_with_replacement(range(dimension), 2)
    return [(first, second, 1.0 if first == second else 2.0) for first, second in pairs]


def _second_difference(field: Any, first: int, second: int) -> Any:
    """Second derivative per voxel² on the voxels inside the border; zero along short axes."""
    if first == second:
        return (
            _shifted(field, {first: 1}) - 2.0 * _shifted(field, {}) + _shifted(field, {first: -1})
        )
    total = _shifted(field, {first: 1, second: 1}) + _shifted(field, {first: -1, second: -1})
    total = total - _shifted(field, {first: 1, second: -1})
    return (total - _shifted(field, {first: -1, second: 1})) / 4.0


def _shifted(field: Any, shifts: dict[int, int]) -> Any:
    dimension = len(field.shape) - 2
    window: list[slice] = [slice(None)]
    for axis in range(dimension):
        length = ops.shape(field)[axis + 1]
        # an axis too short for an inside is left whole and not shifted, so that all differences
        # along it are of equal values
        margin: Any = length >= 3
        margin = int(margin) if isinstance(length, int) else ops.cast(margin, "int32")
        first = margin * (1 + shifts.get(axis, 0))
        window.append(slice(first, first + length - 2 * margin))
    return field[tuple(window)]
