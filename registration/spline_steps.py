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
from registration.pair_choice import chosen_per_pair
from registration.pair_masks import Masks, mask_pair
from registration.warping import central_difference, voxel_indices, warp

_INNER = 2
"""Iterations of conjugate gradients per step. The equations hold near the present place alone:
solved further, they lead away from where large deformations go, at several times the cost."""

_FLAT = 0.01
"""Standard deviation under which an image of values from 0 to 1 shows nothing."""

_FLATTEST = 1e-2
"""Curvature of control points that see nothing, as a share of the mean."""

_LARGEST_STEP = 0.175
"""No control point moves further in one step, as a share of the spacing: those that see little
would run away and fold their surroundings."""

_FIRST_DAMPING, _LEAST_DAMPING = 1.0, 0.1
"""Curvature that is added to all control points alike, as a share of the mean."""

_LEAST_KEPT_OVERLAP = 0.8
"""Part of the weights at the start that steps must keep: what is not compared cannot disagree."""

_LEAST_INSIDE = 1e-3
"""Weight of valid neighbors below which a moved value is not divided by it."""

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
    fixed_mask: Any = None,
    moving_mask: Any = None,
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
        fixed_mask: Weight of every fixed voxel, 0 to 1, shape of `fixed`; all by default.
        moving_mask: Likewise of the moving image; it moves with it. Both are multiplied.

    Returns:
        Control points, same shape. No gradient flows through them.

    Raises:
        ValueError: If `shrink` is more than the spacing, or only one mask is given.

    Source:
        Own; Gauss-Newton with Levenberg's damping, the equations by preconditioned conjugate
        gradients (Nocedal, Wright, Numerical Optimization, 2006, chapters 5 and 10).
    """
    if shrink > min(spacing):
        raise ValueError(f"shrink must not exceed the spacing {tuple(spacing)}. Received: {shrink}")
    weights = mask_pair(fixed_mask, moving_mask)
    if weights is not None:
        weights = (_shrunk(fixed_mask, shrink), _shrunk(moving_mask, shrink))
        moving = ops.cast(moving, "float32") * ops.cast(moving_mask, "float32")
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
    pair = _Pair(fixed, moving, weights, spline, bending)
    distance = ops.convert_to_tensor(spacing, "float32")
    bound = None if limit is None else ops.maximum(limit * distance, ops.abs(start))
    return ops.stop_gradient(shrink * _walked(pair, start, steps, distance, bound))


def _walked(pair: _Pair, start: Any, steps: int, distance: Any, bound: Any) -> Any:
    """Control points after so many steps, each kept where it lowers the objective."""
    terms = pair.terms(start)
    least_overlap = _LEAST_KEPT_OVERLAP * terms[1]
    damping = ops.full_like(terms[0], _FIRST_DAMPING)

    def step(number: Any, *state: Any) -> tuple[Any, ...]:
        points, cost, _, residual, seen, slope, weight, damping = state
        change = pair.update(points, residual, seen, slope, weight, damping)
        trial = points + ops.clip(change, -_LARGEST_STEP * distance, _LARGEST_STEP * distance)
        if bound is not None:
            trial = ops.clip(trial, -bound, bound)
        found = pair.terms(trial)
        better = ops.logical_and(found[0] < cost, found[1] >= least_overlap)
        kept = [
            chosen_per_pair(better, new, old)
            for new, old in zip((trial, *found), state[:-1], strict=True)
        ]
        gentler = ops.maximum(damping / 4.0, _LEAST_DAMPING)
        return (number + 1, *kept, chosen_per_pair(better, gentler, damping * 8.0))

    state = (ops.convert_to_tensor(0), start, *terms, damping)
    return ops.while_loop(lambda number, *_: number < steps, step, state)[1]


def _shrunk(image: Any, shrink: int) -> Any:
    image = ops.stop_gradient(ops.cast(image, "float32"))
    if shrink == 1:
        return image
    return ops.average_pool(image, shrink, shrink, padding="valid")


class _Pair:
    """Images of pairs, and the equations of a step.

    Args:
        fixed: Shape `(batch, *shape, 1)`.
        moving: Same shape; under weights its product with its own.
        weights: Of the voxels of either image, same shape each, or `None`.
        spline: Lattice of the control points.
        bending: Their weighted bending energy, if any.
    """

    def __init__(
        self,
        fixed: Any,
        moving: Any,
        weights: Masks,
        spline: SplineLattice,
        bending: BendingForm | None,
    ) -> None:
        self.dimension = len(fixed.shape) - 2
        self.axes = tuple(range(1, self.dimension + 2))
        self.spline = spline
        self.bending = bending
        self.fixed = fixed
        voxels = ops.cast(ops.prod(ops.stack(list(ops.shape(fixed)[1:-1]))), "float32")
        self.equal_weight = 1.0 / voxels
        self.last_voxel = ops.cast(ops.stack(list(ops.shape(fixed)[1:-1])), "float32") - 1.0
        self.fixed_weight = None if weights is None else weights[0]
        # image and slope are warped together: the slope of the warped image is another one
        # where the field is steep
        axes = range(1, self.dimension + 1)
        parts = [moving, *(central_difference(moving, axis) for axis in axes)]
        if weights is not None:
            # quotient rule: the border of what may be seen is no edge of the image
            inside = weights[1]
            image = moving / ops.maximum(inside, _LEAST_INSIDE)
            borders = [central_difference(inside, axis) for axis in axes]
            parts[1:] = [p - image * b for p, b in zip(parts[1:], borders, strict=True)]
            parts.append(inside)
        self.moving = ops.concatenate(parts, axis=-1)

    def _mean(self, values: Any, weight: Any) -> Any:
        return ops.sum(weight * values, axis=self.axes, keepdims=True)

    def _standardized(self, image: Any, weight: Any) -> tuple[Any, Any]:
        """Zero mean, unit variance, and the scale divided by."""
        centered = image - self._mean(image, weight)
        scale = ops.maximum(ops.sqrt(self._mean(centered * centered, weight)), _FLAT)
        return centered / scale, scale

    def terms(self, points: Any) -> tuple[Any, ...]:
        """Objective and overlap `(batch,)`; residual, moved image, slope and weight of voxels."""
        field = self.spline.field(points)
        moved = warp(self.moving, field)
        # beyond its border the image repeats itself and has no slope across
        places = voxel_indices(ops.shape(field)[1:-1]) + field
        is_within = ops.logical_and(places >= 0.0, places <= self.last_voxel)
        # one number per pair, of a batch as large as that of the points
        overlap = ops.ones_like(moved[:, *(slice(1),) * (self.dimension + 1)])
        weight = self.equal_weight * overlap
        if self.fixed_weight is not None:
            inside = moved[..., -1:]
            moved = moved[..., :-1] / ops.maximum(inside, _LEAST_INSIDE)
            weight = self.fixed_weight * inside
            overlap = ops.sum(weight, self.axes, keepdims=True)
            weight = weight / ops.maximum(overlap, _EPSILON)
        goal, _ = self._standardized(self.fixed, weight)
        seen, scale = self._standardized(moved[..., :1], weight)
        residual = seen - goal
        cost = 0.5 * ops.sum(weight * residual * residual, axis=self.axes)
        if self.bending is not None:
            cost = cost + self.bending.energy(points)
        slope = ops.where(is_within, moved[..., 1:] / scale, 0.0)
        return cost, ops.reshape(overlap, (-1,)), residual, seen, slope, weight

    def update(
        self, points: Any, residual: Any, seen: Any, slope: Any, weight: Any, damping: Any
    ) -> Any:
        """Change of the control points by a damped step."""
        weighted = weight * slope

        def down(values: Any) -> Any:
            """Control points' share of values at voxels, `(batch, *shape, 1)`."""
            values = values - self._mean(values, weight)
            values = values - seen * self._mean(seen * values, weight)
            return self.spline.adjoint(weighted * values)

        curvature = self.spline.squared_adjoint(weighted * slope)
        if self.bending is not None:
            curvature = curvature + 2.0 * self.bending.diagonal()
        mean = ops.mean(curvature, axis=self.axes, keepdims=True)
        curvature = curvature + _FLATTEST * mean + _EPSILON
        damped = ops.reshape(damping, (-1, *(1,) * (self.dimension + 1)))
        damped = damped * ops.mean(curvature, axis=self.axes, keepdims=True)

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


def _conjugate_gradients(
    product: Any, goal: Any, diagonal: Any, axes: tuple[int, ...], iterations: int = _INNER
) -> Any:
    """Approximate solution of `product(x) = goal`, preconditioned by a diagonal, from zero."""

    def dot(a: Any, b: Any) -> Any:
        return ops.sum(a * b, axis=axes, keepdims=True)

    def iteration(_: Any, state: tuple[Any, ...]) -> tuple[Any, ...]:
        found, rest, along, size = state
        image = product(along)
        share = size / ops.maximum(dot(along, image), 1e-30)
        found = found + share * along
        rest = rest - share * image
        scaled = rest / diagonal
        before, size = size, dot(rest, scaled)
        along = scaled + size / ops.maximum(before, 1e-30) * along
        return found, rest, along, size

    # a loop of the graph: written out, it takes seconds to trace
    scaled = goal / diagonal
    state = (ops.zeros_like(goal), goal, scaled, dot(goal, scaled))
    return ops.fori_loop(0, iterations, iteration, state)[0]
