"""Refinement of one pair: a few optimizer steps on control points, from a network's output.

A network has learnt what registrations look like in general; what it misses of a pair, a
handful of gradient steps on the pair itself finds. The whole loop is one compiled function
for images of every size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from registration.bsplines import bspline_field
from registration.objective import Objective
from registration.pair_masks import mask_pair
from registration.unfolding import unfolded
from registration.warping import warp

_BETA_1, _BETA_2 = 0.9, 0.99
"""Decays of Adam; the second is shorter than usual, as the run is."""

_FLOOR = 0.5
"""Share of the mean gradient size of a pair that is added to every control point's own. Plain Adam
moves points in empty regions, whose gradient is noise, as far as those on a contour."""

_EPSILON = 1e-8

_LEAST_INSIDE = 1e-3
"""Weight of valid neighbors below which a moved value is not divided by it."""


@dataclass(frozen=True, slots=True)
class RefinementOptions:
    """How control points are refined.

    Args:
        steps: Optimizer steps; 0 leaves the output as it is.
        learning_rate: First step of Adam, voxels of displacement; it falls to a tenth along a
            cosine.
        objective: What is minimized. By default `load_registration` takes the similarity that
            the networks were trained with, and everything else NCC.
        displacement_limit: Largest displacement of a control point as a share of the spacing;
            below 0.4 a cubic B-spline in 3-D (0.48 in 2-D) cannot fold. `None` is no limit.
        shrink: Voxels that are averaged to one before, per array axis or the same for all. A step
            costs as many times less, and control points that lie many voxels apart lose little.
        finer_steps: Steps of a second round at half the networks' voxel spacing, by a B-spline that
            is added (`FinerRefinement`); a step costs eight times as much there in 3-D.
        ignore_margins: Leave out of the similarity the blank margins of the images, and what lies
            beyond the moving one (`content_masks`).
    """

    steps: int = 50
    learning_rate: float = 1.0
    objective: Objective | None = None
    displacement_limit: float | None = None
    shrink: int | tuple[int, ...] = 1
    finer_steps: int = 0
    ignore_margins: bool = False

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps must not be negative. Received: {self.steps}")
        if self.finer_steps < 0:
            raise ValueError(f"finer_steps must not be negative. Received: {self.finer_steps}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive. Received: {self.learning_rate}")
        if self.displacement_limit is not None and self.displacement_limit <= 0:
            raise ValueError(
                f"displacement_limit must be positive or None. Received: {self.displacement_limit}"
            )
        if np.min(self.shrink) < 1:
            raise ValueError(f"shrink must be 1 or more. Received: {self.shrink}")


class ControlPointRefiner:
    """Refines B-spline control points on the pair itself, 2-D or 3-D.

    Args:
        options: How.
        spacing: Control point spacing per array axis, voxels.
        spacing_mm: Voxel spacing per array axis, mm, in which bending is measured.
        border: Control points beyond the image at every end of the lattice.
        order: Degree of the spline.
        unfold: Smooth the control points in the end where the spline folds; see `unfolded`.

    Raises:
        ValueError: If `shrink` names another number of axes, or its voxels are larger than the
            control point spacing.
    """

    def __init__(
        self,
        options: RefinementOptions,
        *,
        spacing: Sequence[float],
        spacing_mm: Sequence[float],
        border: int = 0,
        order: int = 3,
        unfold: bool = False,
    ) -> None:
        self.options = options
        self.objective = options.objective or Objective()
        self.shrink = self._shrink(options, spacing)
        # the middle of so many voxels is where the lattice of the shrunk image has its voxel
        self.spacing = tuple(float(s) / k for s, k in zip(spacing, self.shrink, strict=True))
        self.spacing_mm = tuple(float(s) * k for s, k in zip(spacing_mm, self.shrink, strict=True))
        self.border = border
        self.order = order
        self.unfold = unfold
        self._optimize = self._compiled()

    def refine(
        self,
        fixed: Any,
        moving: Any,
        control_points: Any,
        *,
        fixed_mask: Any = None,
        moving_mask: Any = None,
    ) -> NDArray[np.float64]:
        """Control points with a smaller objective.

        Args:
            fixed: Shape `(batch, *shape, 1)`, scaled to about [0, 1].
            moving: Same shape, as the stage of the control points sees it.
            control_points: Where to start, voxels, array axis order, `(batch, *lattice, d)`.
            fixed_mask: Weight of every fixed voxel, 0 to 1, shape of `fixed`; all by default.
            moving_mask: Likewise of the moving image; it moves with it. Both are multiplied.

        Returns:
            Refined control points, same shape. Every pair of a batch is refined on its own.

        Raises:
            ValueError: If only one mask is given.
        """
        scale = np.array(self.shrink, dtype=np.float32)
        start = np.asarray(control_points, dtype=np.float32) / scale
        if mask_pair(fixed_mask, moving_mask) is not None:
            # a second channel each, so that one pass warps image and mask
            fixed = np.concatenate([fixed, fixed_mask], axis=-1, dtype=np.float32)
            masked = np.asarray(moving) * moving_mask
            moving = np.concatenate([masked, moving_mask], axis=-1, dtype=np.float32)
        found = self._optimize(self._shrunk(fixed), self._shrunk(moving), start)
        return np.asarray(found, dtype=float) * scale

    @staticmethod
    def _shrink(options: RefinementOptions, spacing: Sequence[float]) -> tuple[int, ...]:
        given = options.shrink
        shrink = (given,) * len(spacing) if isinstance(given, int) else tuple(given)
        if len(shrink) != len(spacing):
            raise ValueError(f"shrink needs {len(spacing)} numbers. Received: {shrink}")
        if any(k > s for k, s in zip(shrink, spacing, strict=True)):
            raise ValueError(
                f"shrink must not exceed the control point spacing {tuple(spacing)}. "
                f"Received: {shrink}"
            )
        return shrink

    def _shrunk(self, images: Any) -> NDArray[np.float32]:
        """Means of blocks of voxels; what is left of a block at the far border is cut off."""
        values = np.asarray(images, dtype=np.float32)
        for axis, block in enumerate(self.shrink, start=1):
            if block > 1:
                count = values.shape[axis] // block
                values = np.take(values, range(count * block), axis)
                split = (*values.shape[:axis], count, block, *values.shape[axis + 1 :])
                values = values.reshape(split).mean(axis=axis + 1)
        return values

    def energy(self, fixed: Any, moving: Any, control_points: Any) -> Any:
        """Objective of every pair, shape `(batch,)`, of shrunk images and their control points.

        Args:
            fixed: Shape `(batch, *shape, 1)`, or with a mask as second channel.
            moving: Likewise, the first channel then being zero outside the mask.
            control_points: Voxels, array axis order, shape `(batch, *lattice, d)`.
        """
        field = bspline_field(
            control_points,
            ops.shape(fixed)[1:-1],
            spacing=self.spacing,
            border=self.border,
            order=self.order,
        )
        objective = self.objective
        roughness = objective.roughness(
            field,
            control_points,
            spacing=self.spacing,
            spacing_mm=self.spacing_mm,
            border=self.border,
            order=self.order,
        )
        moved = warp(moving, field)
        if fixed.shape[-1] == 1:
            return objective.dissimilarity(fixed, moved) + roughness
        # neighbors outside the mask must not darken its border, which would draw the points
        # there; nor must the overlap become a goal: no gradient flows through the weight
        inside = moved[..., 1:]
        weight = ops.stop_gradient(fixed[..., 1:] * inside)
        moved = moved[..., :1] / ops.maximum(inside, _LEAST_INSIDE)
        return objective.dissimilarity(fixed[..., :1], moved, weight) + roughness

    def _compiled(self) -> Any:
        """Adam in a loop inside the graph: no step returns to Python."""
        import tensorflow as tf

        dimension = len(self.spacing)
        lattice = tf.TensorSpec((None, *(None,) * dimension, dimension), tf.float32)
        steps = self.options.steps
        axes = list(range(1, dimension + 2))
        unit = tf.constant([1.0 / k for k in self.shrink], tf.float32)

        def gradient(fixed: Any, moving: Any, points: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(points)
                # a sum, so that every pair has its own gradient whatever the batch
                total = tf.reduce_sum(self.energy(fixed, moving, points))
            return tape.gradient(total, points)

        def optimize(fixed: Any, moving: Any, start: Any) -> Any:
            def step(number: Any, points: Any, mean: Any, square: Any) -> Any:
                slope = gradient(fixed, moving, points)
                mean = _BETA_1 * mean + (1.0 - _BETA_1) * slope
                square = _BETA_2 * square + (1.0 - _BETA_2) * slope * slope
                count = tf.cast(number + 1, tf.float32)
                size = mean / (1.0 - _BETA_1**count)
                scale = tf.sqrt(square / (1.0 - _BETA_2**count))
                scale = scale + _FLOOR * tf.reduce_mean(scale, axes, keepdims=True) + _EPSILON
                points = self._limited(points - self._rate(tf, count) * unit * size / scale)
                return number + 1, points, mean, square

            zero = tf.zeros_like(start)
            state = (tf.constant(0), start, zero, zero)
            points = tf.while_loop(lambda n, *_: n < steps, step, state)[1]
            return self._unfolded(points, fixed) if self.unfold else points

        compiled = {}
        for channels in (1, 2):
            image = tf.TensorSpec((None, *(None,) * dimension, channels), tf.float32)
            compiled[channels] = tf.function(
                optimize, autograph=False, input_signature=[image, image, lattice]
            )
        return lambda fixed, moving, start: compiled[fixed.shape[-1]](fixed, moving, start)

    def _unfolded(self, points: Any, fixed: Any) -> Any:
        shape = ops.shape(fixed)[1:-1]
        return unfolded(points, shape, spacing=self.spacing, border=self.border, order=self.order)

    def _rate(self, tf: Any, count: Any) -> Any:
        share = (count - 1.0) / max(1, self.options.steps - 1)
        return self.options.learning_rate * (0.1 + 0.45 * (1.0 + tf.cos(np.pi * share)))

    def _limited(self, points: Any) -> Any:
        if self.options.displacement_limit is None:
            return points
        limit = ops.convert_to_tensor(
            [self.options.displacement_limit * s for s in self.spacing], dtype="float32"
        )
        return ops.clip(points, -limit, limit)
