"""Resampling by displacement fields in voxel units, and the calculus of such fields.

A displacement field `u` lives on the fixed grid and pulls back: `moved(x) = moving(x + u(x))`.
Channels follow array axes (z, y, x), in voxels. A displacement of +1 voxel along z moves a
bright voxel from z=4 to z=3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
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
    if padding != "edge":
        # one voxel of the value all around, beyond which it goes on for ever
        widths = [(0, 0), *[(1, 1)] * dimension, (0, 0)]
        images = ops.pad(images, widths, mode="constant", constant_values=float(padding))
        positions = positions + 1.0
    lower, upper, fractions = _neighbors(positions, ops.shape(images)[1:-1])
    flat = ops.reshape(images, (-1, images.shape[-1]))

    def interpolate(axis: int, offset: Any) -> Any:
        if axis == dimension:
            return _rows(flat, offset)
        low = interpolate(axis + 1, offset + lower[axis])
        high = interpolate(axis + 1, offset + upper[axis])
        return low + fractions[axis] * (high - low)

    return interpolate(0, _first_voxels(images, positions))


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

    Central differences inside, one-sided at the border, zero along an axis of one voxel. The
    determinant does not depend on the voxel spacing: displacements in voxels, or in mm divided
    by the spacing, agree.

    Args:
        displacement_field: Voxels, shape `(batch, *shape, d)`.

    Returns:
        Shape `(batch, *shape)`, 1 where the field is constant.
    """
    field = ops.cast(displacement_field, "float32")
    dimension = field.shape[-1]
    # components apart: the gradient of every slice of a channel would be a whole field
    components = [
        ops.squeeze(component, axis=-1) for component in ops.split(field, dimension, axis=-1)
    ]
    return determinant(
        [
            [
                _difference(component, axis + 1) + (1.0 if axis == number else 0.0)
                for number, component in enumerate(components)
            ]
            for axis in range(dimension)
        ]
    )


def determinant(rows: Sequence[Sequence[Any]]) -> Any:
    """Determinant of 2 x 2 or 3 x 3 matrices whose elements are tensors of one shape."""
    a = rows
    if len(a) == 2:
        return a[0][0] * a[1][1] - a[0][1] * a[1][0]
    minor = [
        a[1][1] * a[2][2] - a[1][2] * a[2][1],
        a[1][0] * a[2][2] - a[1][2] * a[2][0],
        a[1][0] * a[2][1] - a[1][1] * a[2][0],
    ]
    return a[0][0] * minor[0] - a[0][1] * minor[1] + a[0][2] * minor[2]


def central_difference(image: Any, axis: int) -> Any:
    """Central difference per voxel; at both ends half the step to the only neighbor.

    Args:
        image: Tensor of any shape.
        axis: Axis of the tensor.

    Returns:
        Same shape, per voxel.
    """

    def part(first: int | None, last: int | None) -> Any:
        return image[(slice(None),) * axis + (slice(first, last),)]

    after = ops.concatenate([part(1, None), part(-1, None)], axis=axis)
    before = ops.concatenate([part(None, 1), part(None, -1)], axis=axis)
    return 0.5 * (after - before)


def _difference(field: Any, axis: int) -> Any:
    """Derivative along an axis, per voxel, of the same shape.

    Of slices, whose gradient is a padding: that of taken rows is a sum over indices.
    """

    def part(start: Any, stop: Any) -> Any:
        return field[(*[slice(None)] * axis, slice(start, stop))]

    inner = 0.5 * (part(2, None) - part(None, -2))
    # of a single voxel, the first one again, and nothing for the rest
    length = ops.shape(field)[axis]
    second: Any = min(1, length - 1) if isinstance(length, int) else ops.minimum(1, length - 1)
    borders = part(second, second + 1) - part(None, 1), part(-1, None) - part(-2, -1)
    return ops.concatenate([borders[0], inner, borders[1]], axis=axis)


def _neighbors(positions: Any, spatial: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Per axis: offsets of both neighbors in a flat image, and the weight of the upper one."""
    lower, upper, fractions = [], [], []
    stride: Any = 1
    for axis in reversed(range(len(spatial))):
        length = spatial[axis]
        position = ops.clip(positions[..., axis], 0.0, ops.cast(length - 1, "float32"))
        floor = ops.floor(position)
        index = ops.cast(floor, "int32")
        lower.append(index * stride)
        upper.append(ops.minimum(index + 1, length - 1) * stride)
        fractions.append((position - floor)[..., None])
        stride = stride * length
    return lower[::-1], upper[::-1], fractions[::-1]


def _first_voxels(images: Any, positions: Any) -> Any:
    """Offset of every image of a batch in the flat batch, to be added to neighbor offsets."""
    shape = ops.shape(images)
    voxels: Any = 1
    for length in shape[1:-1]:
        voxels = voxels * length
    return ops.reshape(ops.arange(shape[0]) * voxels, (-1, *[1] * (len(positions.shape) - 2)))


def _rows(flat: Any, offsets: Any) -> Any:
    """Rows of a flat image at offsets that are known to be inside."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # `ops.take` passes over the offsets three times more, in search of negative ones
        return tf.gather(flat, offsets)
    return ops.take(flat, offsets, axis=0)


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
