"""Jacobian determinant of a B-spline field from its control points, at as many points as it takes.

A spline is smooth between its knots: where it folds, it does so over a good part of their distance.
Half the control point spacing shows that, at a fraction of the work of every voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from registration.bsplines import bspline_field
from registration.warping import determinant

COARSEST_STEP_VOX = 4
"""Points are at most so many voxels apart."""


def sampling_steps(spacing: Sequence[float]) -> tuple[int, ...]:
    """Distance of points per array axis, voxels: half the control point spacing or less."""
    return tuple(max(1, min(COARSEST_STEP_VOX, int(s) // 2)) for s in spacing)


def bspline_jacobian_determinant(
    control_points: Any,
    shape: Sequence[Any],
    *,
    spacing: Sequence[float],
    border: int = 0,
    order: int = 3,
    steps: Sequence[int] | None = None,
) -> Any:
    """Determinant of the Jacobian of `x + u(x)` in the middle of every block of voxels, exactly.

    Args:
        control_points: Voxels, array axis order, shape `(batch, *lattice, d)`.
        shape: Image shape in array order, numbers or scalar tensors.
        spacing: Control point spacing per array axis, voxels.
        border: Control points beyond the image at every end of the lattice.
        order: Degree of the spline, 2 or 3.
        steps: Edges of the blocks per array axis, voxels; by default `sampling_steps`.

    Returns:
        Shape `(batch, *blocks)`, whole blocks only but at least one; 1 where points agree.
    """
    steps = sampling_steps(spacing) if steps is None else tuple(steps)
    # numbers stay numbers: jax compiles only what has a size that it knows
    blocks = [
        max(n // step, 1) if isinstance(n, int) else ops.maximum(n // step, 1)
        for n, step in zip(shape, steps, strict=True)
    ]
    dimension = len(steps)
    rows = []
    for axis in range(dimension):
        # blocks are the voxels of a coarser image, whose lattice lies where that of this one does
        derivative = bspline_field(
            control_points,
            blocks,
            spacing=[s / step for s, step in zip(spacing, steps, strict=True)],
            border=border,
            order=order,
            derivatives=[int(a == axis) for a in range(dimension)],
        )
        columns = ops.split(derivative / steps[axis], dimension, axis=-1)
        rows.append(
            [ops.squeeze(c, axis=-1) + float(axis == number) for number, c in enumerate(columns)]
        )
    return determinant(rows)
