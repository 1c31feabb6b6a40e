"""Gauss-Newton steps on an affine transform between two images of one grid.

A network finds an affine transform in one look, within what it has learnt; how far it turns and
stretches is what pairs need on average. A few steps on the pair itself, on coarse voxels, find what
this pair needs, and take less time than the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from registration.affine_tensors import homogeneous, reversed_axes
from registration.pair_choice import chosen_per_pair
from registration.pair_masks import Masks, mask_pair
from registration.warping import central_difference, sample_linear, voxel_indices

_LEAST_OVERLAP = 0.25
"""Share of the fixed image that must lie within the moving one: less says nothing."""

_LEAST_KEPT_OVERLAP = 0.8
"""Part of that share at the start that steps must keep: what is not compared cannot disagree."""

_FLATTEST = 1e-3
"""Directions whose curvature is this share of the largest are hardly gone along: nothing there
tells one place from another, as along an axis on which an image does not change."""

_LARGEST_STEP_VOX = 2.0
"""No point of the image moves further in one step: gradients reach no further [coarse voxels]."""

_LEAST_GAIN = 1e-5
"""What a step must take off the cost, twice one minus the correlation: less is rounding."""

_FLAT = 0.01
"""Standard deviation under which an image of values from 0 to 1 shows nothing."""

_SHOWN = 0.99
"""Weight of a voxel from which on it may be compared: rounding takes some off 1."""

_FIRST_DAMPING = 1e-3
_EPSILON = 1e-6


def affine_steps(
    fixed: Any,
    moving: Any,
    matrix: Any,
    *,
    spacing: Sequence[float],
    steps: int,
    shrink: int = 1,
    fixed_mask: Any = None,
    moving_mask: Any = None,
) -> Any:
    """Affine transforms with a larger correlation.

    Each pair of a batch is on its own. A step that does not bring images closer is not taken, so
    none ends worse than it began, as far as the coarse voxels tell.

    Args:
        fixed: Shape `(batch, *shape, 1)`, scaled to about [0, 1].
        moving: Same shape.
        matrix: Pull-backs from fixed to moving points, (x, y, z), mm, measured from the middle of
            the image, as of `AffineField`; shape `(batch, d + 1, d + 1)`.
        spacing: Voxel spacing in ITK order (x, y, z), mm.
        steps: Steps.
        shrink: Voxels that are averaged to one along every axis before.
        fixed_mask: 1 for every fixed voxel that may be compared, 0 for others, shape of `fixed`;
            all by default. Voxels with neighbors that may not are left out, too.
        moving_mask: Likewise of the moving image; it moves with it.

    Returns:
        Matrices, same shape. No gradient flows through them.

    Raises:
        ValueError: If only one mask is given.

    Source:
        Gauss-Newton on normalized intensities with averaged gradients, after Malis, Improving
        vision-based control using efficient second-order minimization, ICRA 2004.
    """
    pair = _Pair(fixed, moving, spacing[::-1], shrink, mask_pair(fixed_mask, moving_mask))
    start = reversed_axes(ops.stop_gradient(matrix))
    normal, slope, cost, overlap = pair.system(start)
    least_overlap = ops.maximum(_LEAST_KEPT_OVERLAP * overlap, _LEAST_OVERLAP)
    damping = ops.full_like(cost, _FIRST_DAMPING)

    def step(number: Any, *state: Any) -> tuple[Any, ...]:
        matrix, normal, slope, cost, damping = state
        trial = ops.matmul(matrix, pair.update(normal, slope, damping))
        *found, overlap = pair.system(trial)
        better = ops.logical_and(found[2] < cost - _LEAST_GAIN, overlap >= least_overlap)
        kept = [
            chosen_per_pair(better, new, old)
            for new, old in zip((trial, *found), (matrix, normal, slope, cost), strict=True)
        ]
        gentler = ops.maximum(damping / 5.0, 1e-4)
        return (number + 1, *kept, chosen_per_pair(better, gentler, damping * 8.0))

    state = (ops.convert_to_tensor(0), start, normal, slope, cost, damping)
    found = ops.while_loop(lambda number, *_: number < steps, step, state)[1]
    return ops.stop_gradient(reversed_axes(found))


class _Pair:
    """Coarse images of pairs, and the equations of a step; axes in array order."""

    def __init__(
        self,
        fixed: Any,
        moving: Any,
        spacing: Sequence[float],
        shrink: int,
        masks: Masks,
    ) -> None:
        self.spacing = np.array(spacing, np.float32)
        self.dimension = len(spacing)
        self.shrink = shrink
        size = ops.cast(ops.stack(list(ops.shape(fixed)[1:-1])), "float32")
        # points are measured from the middle of the image
        middle = (size - 1.0) / 2.0
        self.fixed, self.moving = (self._shrunk(image) for image in (fixed, moving))
        shape = ops.shape(self.fixed)[1:-1]
        index = ops.reshape(voxel_indices(shape), (1, -1, self.dimension))
        # of the first coarse voxel, whose middle lies among the voxels it is made of
        self.first = (shrink - 1.0) / 2.0 - middle
        self.points = (index * shrink + self.first) * self.spacing
        self.reach = ops.max(middle * self.spacing)
        # one and the coordinates as shares of the image's: all unknowns are millimetres
        ones = ops.ones_like(self.points[..., :1])
        self.basis = ops.concatenate([ones, self.points / self.reach], axis=-1)
        self.fixed_slope = self._slope(self.fixed)
        self.last = ops.cast(ops.stack(list(shape)), "float32") - 1.0
        self.masks = None
        if masks is not None:
            # the slope of a voxel is of its neighbors; moved ones lie between two voxels
            fixed_mask, moving_mask = (self._shrunk(mask) for mask in masks)
            self.masks = self._within(fixed_mask, 1), self._within(moving_mask, 2)

    def _shrunk(self, image: Any) -> Any:
        image = ops.stop_gradient(ops.cast(image, "float32"))
        if self.shrink == 1:
            return image
        return ops.average_pool(image, self.shrink, self.shrink, padding="valid")

    def _within(self, mask: Any, reach: int) -> Any:
        """1 where all voxels as near as that may be compared."""
        hidden = ops.cast(mask < _SHOWN, "float32")
        return 1.0 - ops.max_pool(hidden, 2 * reach + 1, 1, padding="same")

    def _slope(self, image: Any) -> Any:
        """Gradient per mm, shape `(batch, n, d)`."""
        parts = [central_difference(image, axis) for axis in range(1, self.dimension + 1)]
        slope = ops.concatenate(parts, axis=-1) / (self.shrink * self.spacing)
        return ops.reshape(slope, (ops.shape(slope)[0], -1, self.dimension))

    def system(self, matrix: Any) -> tuple[Any, Any, Any, Any]:
        """Normal matrix `(batch, k, k)`, slope `(batch, k)`, cost and overlap `(batch,)`."""
        d = self.dimension
        linear, offset = matrix[:, :d, :d], matrix[:, None, :d, d]
        moved_points = ops.matmul(self.points, ops.transpose(linear, (0, 2, 1))) + offset
        index = (moved_points / self.spacing - self.first) / self.shrink
        inside = ops.all(ops.logical_and(index >= 0.0, index <= self.last), axis=-1)
        weight = ops.cast(inside, "float32")
        index = ops.reshape(index, (-1, *ops.shape(self.fixed)[1:-1], d))
        moved = sample_linear(self.moving, index)
        slope = self._slope(moved)
        batch = ops.shape(moved)[0]
        share = ops.mean(weight, axis=1)
        if self.masks is not None:
            fixed_mask = ops.reshape(self.masks[0], (batch, -1))
            weight = weight * fixed_mask
            weight = weight * ops.reshape(sample_linear(self.masks[1], index), (batch, -1))
            most = ops.maximum(ops.sum(fixed_mask, axis=1), _EPSILON)
            share = ops.sum(weight, axis=1) / most
        weight = weight / ops.maximum(ops.sum(weight, axis=1, keepdims=True), _EPSILON)
        seen, seen_scale = _standardized(ops.reshape(moved, (batch, -1)), weight)
        goal, goal_scale = _standardized(ops.reshape(self.fixed, (batch, -1)), weight)
        slope = slope / seen_scale[..., None] + self.fixed_slope / goal_scale[..., None]
        columns = 0.5 * slope[..., :, None] * self.basis[..., None, :]
        jacobian = ops.reshape(columns, (batch, -1, d * (d + 1)))
        jacobian = jacobian - ops.matmul(weight[:, None], jacobian)
        along = ops.matmul((weight * seen)[:, None], jacobian)
        jacobian = jacobian - seen[..., None] * along
        residual = seen - goal
        weighted = jacobian * weight[..., None]
        normal = ops.matmul(ops.transpose(weighted, (0, 2, 1)), jacobian)
        down = ops.sum(weighted * residual[..., None], axis=1)
        cost = ops.sum(weight * residual * residual, axis=1)
        return normal, down, cost, share

    def update(self, normal: Any, slope: Any, damping: Any) -> Any:
        """Homogeneous matrix of a damped step, applied to fixed points, `(batch, d + 1, d + 1)`."""
        d = self.dimension
        diagonal = ops.sum(normal * np.eye(d * (d + 1), dtype=np.float32), axis=1)
        # a direction in which nothing changes is not gone along
        heavy = damping[:, None] * diagonal + _FLATTEST * ops.max(diagonal, axis=1, keepdims=True)
        heavy = heavy + _EPSILON**2
        lifted = normal + heavy[..., None] * np.eye(d * (d + 1), dtype=np.float32)
        found = -ops.solve(lifted, slope[..., None])[..., 0]
        largest = _LARGEST_STEP_VOX * self.shrink * float(self.spacing.min())
        size = ops.max(ops.abs(found), axis=1, keepdims=True)
        found = found * ops.minimum(1.0, largest / ops.maximum(size, _EPSILON))
        moved = ops.reshape(found, (-1, d, d + 1))
        linear = moved[..., 1:] / self.reach + np.eye(d, dtype=np.float32)
        return homogeneous(linear, moved[..., 0])


def _standardized(values: Any, weight: Any) -> tuple[Any, Any]:
    """Zero weighted mean, unit weighted variance, and the scale divided by, `(batch, 1)`."""
    centered = values - ops.sum(weight * values, axis=1, keepdims=True)
    scale = ops.sqrt(ops.sum(weight * centered * centered, axis=1, keepdims=True))
    scale = ops.maximum(scale, _FLAT)
    return centered / scale, scale
