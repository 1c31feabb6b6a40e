"""Bilinear enlargement by two for images whose size is known only when they come."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class BilinearDoubling(keras.layers.Layer):
    """Doubles height and width; new points lie a quarter pixel beside the old ones.

    The same values as `UpSampling2D(2, interpolation="bilinear")`, which needs a size
    known at tracing time. Each doubled point is a mean of three copies, [1, 2, 1] / 4.

    Input shape:
        `(n, h, w, c)`.

    Output shape:
        `(n, 2 h, 2 w, c)`.
    """

    def call(self, inputs: Any) -> Any:  # noqa: D102
        x = ops.repeat(ops.repeat(inputs, 2, axis=1), 2, axis=2)
        x = ops.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)), mode="symmetric")
        x = 0.25 * (x[:, :-2] + x[:, 2:]) + 0.5 * x[:, 1:-1]
        x = ops.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)), mode="symmetric")
        return 0.25 * (x[:, :, :-2] + x[:, :, 2:]) + 0.5 * x[:, :, 1:-1]

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:  # noqa: D102
        n, h, w, c = input_shape
        return n, None if h is None else 2 * h, None if w is None else 2 * w, c
