"""Affine transforms as homogeneous matrices, in batches of tensors."""

from __future__ import annotations

from typing import Any

from keras import ops


def homogeneous(linear: Any, offset: Any) -> Any:
    """Matrices of a linear part and an offset.

    Args:
        linear: Shape `(batch, d, d)`.
        offset: Shape `(batch, d)`.

    Returns:
        Shape `(batch, d + 1, d + 1)`.
    """
    top = ops.concatenate([linear, offset[..., None]], axis=-1)
    last = ops.convert_to_tensor([0.0] * linear.shape[-1] + [1.0], dtype="float32")
    return ops.concatenate([top, ops.zeros_like(top[:, :1]) + last], axis=1)


def reversed_axes(matrix: Any) -> Any:
    """The same maps of points (z, y, x) where matrices are of (x, y, z), or back.

    Args:
        matrix: Shape `(batch, d + 1, d + 1)`.
    """
    d = matrix.shape[-1] - 1
    order = [*range(d)[::-1], d]
    return ops.take(ops.take(matrix, order, axis=1), order, axis=2)
