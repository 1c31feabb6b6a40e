"""Resampling by displacement fields in voxel units, and the calculus of such fields.

A displacement field `u` lives on the fixed grid and pulls back: `moved(x) = moving(x + u(x))`.
Channels follow array axes (z, y, x), in voxels. A displacement of +1 voxel along z moves a
bright voxel from z=4 to z=3.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from keras import ops

Padding = str | float
"""`"edge"` repeats the outermost voxel; a number stands for everything outside."""


def voxel_indices(shape: Sequence[Any]) -> Any:
    """Index of every voxel, float32, shape `(*shape, d)`, array axis order."""
    axes = [ops.cast(ops.arange(n), "float32") for n in shape]
    return ops.stack(ops.meshgrid(*axes, indexing="ij"), axis=-1)


def sample_linear(images: Any, positions: Any, *, padding: Padding = "edge") -> Any:
    """Images at continuous indices, by linear interpolation.

    Args:
        images: Shape `(batch, *shape, channels)`.
        positions: Continuous indices in array axis order, shape `(batch, *out, d)`.
        padding: `"edge"`, or the value outside the image; in the half voxel past the
            border a number blends in linearly, as in `scipy.ndimage` mode `grid-constant`.

    Returns:
        Float32 samples, shape `(batch, *out, channels)`.
    """
    images = ops.cast(images, "float32")
    positions = ops.cast(positions, "float32")
    dimension = positions.shape[-1]
    lower = ops.floor(positions)
    fraction = positions - lower
    total = None
    for corner in itertools.product((0.0, 1.0), repeat=dimension):
        weight = ops.ones_like(fraction[..., 0])
        for axis, step in enumerate(corner):
            weight = weight * (fraction[..., axis] if step else 1.0 - fraction[..., axis])
        value = _gather(images, lower + ops.convert_to_tensor(corner, "float32"), padding)
        term = weight[..., None] * value
        total = term if total is None else total + term
    return total


def sample_nearest(images: Any, positions: Any, *, padding: Padding = "edge") -> Any:
    """Images at continuous indices, by the nearest voxel; halves round up.

    Args:
        images: Shape `(batch, *shape, channels)`; labels keep their values.
        positions: Continuous indices in array axis order, shape `(batch, *out, d)`.
        padding: `"edge"`, or the value outside the image.

    Returns:
        Samples of the dtype of `images`, shape `(batch, *out, channels)`.
    """
    return _gather(images, ops.floor(ops.cast(positions, "float32") + 0.5), padding)


def warp(
    moving: Any, displacement_field: Any, *, nearest: bool = False, padding: Padding = "edge"
) -> Any:
    """Moved images: `moved(x) = moving(x + u(x))`.

    Args:
        moving: Shape `(batch, *shape, channels)`.
        displacement_field: On the fixed grid, voxels, shape `(batch, *fixed_shape, d)`.
        nearest: Nearest voxel instead of linear interpolation, for labels.
        padding: `"edge"`, or the value outside the image.

    Returns:
        Shape `(batch, *fixed_shape, channels)`.
    """
    field = ops.cast(displacement_field, "float32")
    positions = voxel_indices(ops.shape(field)[1:-1]) + field
    sample = sample_nearest if nearest else sample_linear
    return sample(moving, positions, padding=padding)


def compose(first: Any, second: Any) -> Any:
    """One field with the effect of warping by `first`, then warping the result by `second`.

    With `moved = warp(warp(moving, first), second)` this is
    `u(x) = second(x) + first(x + second(x))`, the moving image interpolated only once.

    Args:
        first: Earlier field, voxels, shape `(batch, *shape, d)`.
        second: Later field, voxels, same shape.
    """
    return second + warp(first, second)


def integrate_velocity(velocity_field: Any, *, steps: int = 7) -> Any:
    """Displacement of a stationary velocity field after unit time, by scaling and squaring.

    Args:
        velocity_field: Voxels per unit time, shape `(batch, *shape, d)`.
        steps: Number of squarings; the first step is `2**-steps` of the time.

    Returns:
        Displacement field, voxels, same shape; diffeomorphic for smooth velocities.

    Source:
        Arsigny et al., MICCAI 2006, LNCS 4190:924-931.
    """
    field = ops.cast(velocity_field, "float32") / 2.0**steps
    for _ in range(steps):
        field = compose(field, field)
    return field


def jacobian_determinant(displacement_field: Any) -> Any:
    """Determinant of the Jacobian of `x + u(x)`: below zero where the map folds.

    Central differences inside, one-sided at the border. The determinant does not depend on
    the voxel spacing: displacements in voxels, or in mm divided by the spacing, agree.

    Args:
        displacement_field: Voxels, shape `(batch, *shape, d)`, at least 2 voxels per axis.

    Returns:
        Shape `(batch, *shape)`, 1 where the field is constant.
    """
    field = ops.cast(displacement_field, "float32")
    dimension = field.shape[-1]
    rows = []
    for axis in range(dimension):
        gradient = _difference(field, axis + 1)
        unit = [1.0 if a == axis else 0.0 for a in range(dimension)]
        rows.append(gradient + ops.convert_to_tensor(unit, "float32"))
    a = rows
    if dimension == 2:
        return a[0][..., 0] * a[1][..., 1] - a[0][..., 1] * a[1][..., 0]
    minor = [
        a[1][..., 1] * a[2][..., 2] - a[1][..., 2] * a[2][..., 1],
        a[1][..., 0] * a[2][..., 2] - a[1][..., 2] * a[2][..., 0],
        a[1][..., 0] * a[2][..., 1] - a[1][..., 1] * a[2][..., 0],
    ]
    return a[0][..., 0] * minor[0] - a[0][..., 1] * minor[1] + a[0][..., 2] * minor[2]


def _difference(field: Any, axis: int) -> Any:
    """Derivative along an axis, per voxel, of the same shape."""
    length = ops.shape(field)[axis]
    before = ops.clip(ops.arange(length) - 1, 0, length - 1)
    after = ops.clip(ops.arange(length) + 1, 0, length - 1)
    gap = ops.cast(after - before, "float32")
    gap = ops.reshape(gap, [-1] + [1] * (len(field.shape) - axis - 1))
    return (ops.take(field, after, axis=axis) - ops.take(field, before, axis=axis)) / gap


def _gather(images: Any, indices: Any, padding: Padding) -> Any:
    """Voxels at whole indices (float32, any range), with padding outside."""
    shape = ops.shape(images)
    batch, channels, spatial = shape[0], images.shape[-1], shape[1:-1]
    out_shape = ops.shape(indices)[1:-1]
    linear = None
    inside = None
    for axis, length in enumerate(spatial):
        index = indices[..., axis]
        last = ops.cast(length - 1, "float32")
        if padding != "edge":
            within = ops.logical_and(index >= 0.0, index <= last)
            inside = within if inside is None else ops.logical_and(inside, within)
        clipped = ops.cast(ops.clip(index, 0.0, last), "int32")
        linear = clipped if linear is None else linear * length + clipped
    voxels = 1
    for length in spatial:
        voxels = voxels * length
    linear = ops.reshape(linear, (batch, -1)) + (ops.arange(batch) * voxels)[:, None]
    flat = ops.reshape(images, (-1, channels))
    values = ops.take(flat, ops.reshape(linear, (-1,)), axis=0)
    values = ops.reshape(values, (batch, *out_shape, channels))
    if inside is None:
        return values
    outside = ops.cast(padding, images.dtype)
    return ops.where(inside[..., None], values, outside)
