"""Control points of a B-spline that folds, smoothed where it does until it does not.

A limit on all control points rules folds out at the price of every large motion; a penalty in the
training makes them rare. The few that are left lie in small places, and what a spline folds it
unfolds when its control points there come nearer to those beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from registration.bspline_jacobian import bspline_jacobian_determinant
from registration.bsplines import SplineLattice

LEAST_DETERMINANT = 0.02
"""Smaller determinants are smoothed away. Between the points that are looked at, and by the
differences of neighboring voxels, a map folds a little earlier than its determinant there says."""

POINTS_PER_SPACING = 4
"""Points along every axis, in the distance of two control points, at which folds are looked for."""

MOST_ROUNDS = 200
"""The pace of the last of them smooths whatever reaches a fold; most pairs need one or none."""

_FIRST_PACE, _FASTER = 0.3, 0.1
"""How far control points go towards their neighbors in the first round, per share of their reach
that folds, and by how much of that they go further in every other. Gentle rounds change least: all
the way at once costs ten times the overlap of hearts."""


def unfolded(
    control_points: Any,
    shape: Sequence[Any],
    *,
    spacing: Sequence[float],
    border: int = 0,
    order: int = 3,
) -> Any:
    """Control points whose spline does not fold, the same where it does not fold.

    Each round draws the control points whose bases reach a fold towards the average of their
    neighbors, the more of their reach folds the further. It ends when nothing folds, or after
    `MOST_ROUNDS`. Each pair of a batch is on its own.

    Args:
        control_points: Voxels, array axis order, shape `(batch, *lattice, d)`.
        shape: Image shape in array order, numbers or scalar tensors.
        spacing: Control point spacing per array axis, voxels.
        border: Control points beyond the image at every end of the lattice.
        order: Degree of the spline, 2 or 3.

    Returns:
        Same shape. No gradient flows through them.

    Source:
        Own.
    """
    steps = tuple(max(1, int(s) // POINTS_PER_SPACING) for s in spacing)
    start = ops.stop_gradient(ops.cast(control_points, "float32"))
    # blocks that are not whole at the end of an axis count, too
    reached = [n + step - 1 for n, step in zip(shape, steps, strict=True)]

    def folds(points: Any) -> Any:
        determinants = bspline_jacobian_determinant(
            points, reached, spacing=spacing, border=border, order=order, steps=steps
        )
        return ops.cast(determinants < LEAST_DETERMINANT, "float32")[..., None]

    folded = folds(start)
    blocks = SplineLattice(
        ops.shape(folded)[1:-1],
        ops.shape(start)[1:-1],
        spacing=[s / step for s, step in zip(spacing, steps, strict=True)],
        border=border,
        order=order,
    )
    reach = ops.maximum(blocks.adjoint(ops.ones_like(folded)), 1e-6)

    def calmed(number: Any, points: Any, folded: Any) -> tuple[Any, ...]:
        pace = _FIRST_PACE * (1.0 + _FASTER * ops.cast(number, "float32"))
        weight = ops.minimum(pace * blocks.adjoint(folded) / reach, 1.0)
        calmer = points + weight * (smoothed(points) - points)
        calmer = ops.reshape(calmer, ops.shape(points))
        return number + 1, calmer, ops.reshape(folds(calmer), ops.shape(folded))

    def goes_on(number: Any, points: Any, folded: Any) -> Any:
        del points
        return ops.logical_and(number < MOST_ROUNDS, ops.max(folded) > 0.0)

    state = (ops.convert_to_tensor(0), start, folded)
    return ops.stop_gradient(ops.while_loop(goes_on, calmed, state)[1])


def smoothed(values: Any) -> Any:
    """Values averaged with their neighbors along every axis, a quarter, a half and a quarter.

    Args:
        values: Shape `(batch, *shape, channels)`; the outermost ones are repeated.

    Returns:
        Same shape.
    """
    for axis in range(1, len(values.shape) - 1):
        count = ops.shape(values)[axis]
        before = ops.take(values, ops.maximum(ops.arange(count) - 1, 0), axis=axis)
        after = ops.take(values, ops.minimum(ops.arange(count) + 1, count - 1), axis=axis)
        values = 0.25 * before + 0.5 * values + 0.25 * after
    return values
