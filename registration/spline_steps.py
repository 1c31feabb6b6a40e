"""Gauss-Newton steps on the control points of a B-spline between two images of one grid.

What a network leaves over of a pair, a few steps on the pair itself take away. Each solves linear
equations for all control points at once, by conjugate gradients, which cost little more than the
field of a spline each: a handful of steps goes as far as dozens of first-order ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from registration.bending import BendingForm
from registration.bsplines import SplineLattice
from registration.warping import central_difference, warp

_INNER = 8
"""Iterations of conjugate gradients per step; more fit noise before the next look at the images."""

_FLAT = 0.01
"""Standard deviation under which an image of values from 0 to 1 shows nothing."""

_FLATTEST = 1e-2
"""Curvature of control points that see nothing, as a share of the mean."""

_LARGEST_STEP = 0.175
"""No control point moves further in one step, as a share of the spacing: those that see little
would run away and fold their surroundings."""

_FIRST_DAMPING, _LEAST_DAMPING = 0.3, 1e-3
"""Curvature that is added to all control points alike, as a share of the mean."""

_EPSILON = 1e-9


def spline_steps(
    fixed: Any,
    moving: Any,
    control_points: Any,
    *,
    spacing: Sequence[float],
    spacing_mm: Sequence[float],
    steps: int,
    bending_weight: float = 0.0,
    border: int = 0,
    order: int = 3,
    limit: float | None = None,
    shrink: int = 1,
) -> Any:
    """Control points with a larger correlation.

    Each pair of a batch is on its own. A step that does not lower its objective, one minus the
    correlation and the weighted bending energy, is not taken.

    Args:
        fixed: Shape `(batch, *shape, 1)`, scaled to about [0, 1].
        moving: Same shape.
        control_points: Where to start, voxels, array axis order, `(batch, *lattice, d)`.
        spacing: Control point spacing per array axis, voxels.
        spacing_mm: Voxel spacing per array axis, mm, in which bending is measured.
        steps: Steps.
        bending_weight: Weight of the bending energy, mm².
        border: Control points beyond the image at every end of the lattice.
        order: Degree of the spline.
        limit: Largest displacement of a control point as a share of the spacing; those further
            out go no further. `None` for none.
        shrink: Voxels that are averaged to one along every axis before; at most the spacing.

    Returns:
        Control points, same shape. No gradient flows through them.

    Raises:
        ValueError: If `shrink` is more than the spacing.

    Source:
        Own; Gauss-Newton with Levenberg's damping, the equations by preconditioned conjugate
        gradients (Nocedal, Wright, Numerical Optimization, 2006, chapters 5 and 10).
    """
    if shrink > min(spacing):
        raise ValueError(f"shrink must not exceed the spacing {tuple(spacing)}. Received: {shrink}")
    fixed, moving = (_shrunk(image, shrink) for image in (fixed, moving))
    # the lattice of the shrunk image has its points where that of the image has them
    spacing = [float(s) / shrink for s in spacing]
    spacing_mm = [float(s) * shrink for s in spacing_mm]
    start = ops.stop_gradient(ops.cast(control_points, "float32")) / shrink
    lattice = ops.shape(start)[1:-1]
    spline = SplineLattice(
        ops.shape(fixed)[1:-1], lattice, spacing=spacing, border=border, order=order
    )
    bending = BendingForm(spline, spacing_mm, weight=bending_weight) if bending_weight > 0 else None
    pair = _Pair(fixed, moving, spline, bending)
    distance = ops.convert_to_tensor(spacing, "float32")
    bound = None if limit is None else ops.maximum(limit * distance, ops.abs(start))
    return ops.stop_gradient(shrink * _walked(pair, start, steps, distance, bound))


def _walked(pair: _Pair, start: Any, steps: int, distance: Any, bound: Any) -> Any:
    """Control points after so many steps, each kept where it lowers the objective."""
    terms = pair.terms(start)
    damping = ops.full_like(terms[0], _FIRST_DAMPING)
    # a batch size that is known for the lattices alone would be lost in the loop
    start = start + ops.reshape(ops.zeros_like(terms[0]), (-1, *(1,) * (len(start.shape) - 1)))

    def step(number: Any, *state: Any) -> tuple[Any, ...]:
        points, cost, residual, seen, slope, damping = state
        change = pair.update(points, residual, seen, slope, damping)
        trial = points + ops.clip(change, -_LARGEST_STEP * distance, _LARGEST_STEP * distance)
        if bound is not None:
            trial = ops.clip(trial, -bound, bound)
        found = pair.terms(trial)
        better = found[0] < cost
        kept = [
            ops.where(ops.reshape(better, (-1, *(1,) * (len(new.shape) - 1))), new, old)
            for new, old in zip((trial, *found), (points, cost, residual, seen, slope), strict=True)
        ]
        damping = ops.where(better, ops.maximum(damping / 4.0, _LEAST_DAMPING), damping * 8.0)
        return (number + 1, *kept, damping)

    state = (ops.convert_to_tensor(0), start, *terms, damping)
    return ops.while_loop(lambda number, *_: number < steps, step, state)[1]


def _shrunk(image: Any, shrink: int) -> Any:
    image = ops.stop_gradient(ops.cast(image, "float32"))
    if shrink == 1:
        return image
    return ops.average_pool(image, shrink, shrink, padding="valid")


class _Pair:
    """Images of pairs, and the equations of a step."""

    def __init__(
        self, fixed: Any, moving: Any, spline: SplineLattice, bending: BendingForm | None
    ) -> None:
        self.dimension = len(fixed.shape) - 2
        self.axes = tuple(range(1, self.dimension + 2))
        self.spline = spline
        self.bending = bending
        self.voxels = ops.cast(ops.prod(ops.stack(list(ops.shape(fixed)[1:-1]))), "float32")
        self.goal = self._standardized(fixed)[0]
        # image and slope are warped together: the slope of the warped image is another one
        # where the field is steep
        slope = [central_difference(moving, axis) for axis in range(1, self.dimension + 1)]
        self.moving = ops.concatenate([moving, *slope], axis=-1)

    def _mean(self, values: Any) -> Any:
        return ops.mean(values, axis=self.axes, keepdims=True)

    def _standardized(self, image: Any) -> tuple[Any, Any]:
        """Zero mean, unit variance, and the scale divided by."""
        centered = image - self._mean(image)
        scale = ops.maximum(ops.sqrt(self._mean(centered * centered)), _FLAT)
        return centered / scale, scale

    def terms(self, points: Any) -> tuple[Any, Any, Any, Any]:
        """Objective `(batch,)`; residual, standardized moved image and slope of every voxel."""
        moved = warp(self.moving, self.spline.field(points))
        seen, scale = self._standardized(moved[..., :1])
        residual = seen - self.goal
        cost = 0.5 * ops.mean(residual * residual, axis=self.axes)
        if self.bending is not None:
            cost = cost + self.bending.energy(points)
        return cost, residual, seen, moved[..., 1:] / scale

    def update(self, points: Any, residual: Any, seen: Any, slope: Any, damping: Any) -> Any:
        """Change of the control points by a damped step."""

        def down(values: Any) -> Any:
            """Control points' share of values at voxels, `(batch, *shape, 1)`."""
            values = values - self._mean(values)
            values = values - seen * self._mean(seen * values)
            return self.spline.adjoint(slope * values) / self.voxels

        curvature = self.spline.squared_adjoint(slope * slope) / self.voxels
        if self.bending is not None:
            curvature = curvature + 2.0 * self.bending.diagonal()
        curvature = curvature + _FLATTEST * self._mean(curvature) + _EPSILON
        damping = ops.reshape(damping, (-1, *(1,) * (self.dimension + 1)))
        damped = damping * self._mean(curvature)

        def product(change: Any) -> Any:
            along = ops.sum(slope * self.spline.field(change), axis=-1, keepdims=True)
            total = down(along) + damped * change
            if self.bending is not None:
                total = total + 2.0 * self.bending.product(change)
            return total

        goal = -down(residual)
        if self.bending is not None:
            goal = goal - 2.0 * self.bending.product(points)
        return _conjugate_gradients(product, goal, curvature + damped, self.axes)


def _conjugate_gradients(product: Any, goal: Any, diagonal: Any, axes: tuple[int, ...]) -> Any:
    """Approximate solution of `product(x) = goal`, preconditioned by a diagonal, from zero."""

    def dot(a: Any, b: Any) -> Any:
        return ops.sum(a * b, axis=axes, keepdims=True)

    found = ops.zeros_like(goal)
    rest = goal
    scaled = rest / diagonal
    along = scaled
    size = dot(rest, scaled)
    for _ in range(_INNER):
        image = product(along)
        share = size / ops.maximum(dot(along, image), 1e-30)
        found = found + share * along
        rest = rest - share * image
        scaled = rest / diagonal
        before, size = size, dot(rest, scaled)
        along = scaled + size / ops.maximum(before, 1e-30) * along
    return found
