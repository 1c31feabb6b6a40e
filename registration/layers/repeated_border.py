"""Features beyond an image: its outermost ones, repeated."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="registration")
class RepeatedBorder(keras.layers.Layer):
    """Repeats the outermost features on every side of every axis.

    Zeros would do for the convolutions that follow, but not for TensorFlow: with oneDNN its graph
    optimizer merges a padding and a padded convolution into one that is wrong, silently, in
    prediction alone.

    Args:
        width: How many cells are added at every end.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape:
        `(batch, *shape, channels)`.

    Output shape:
        `(batch, *(n + 2 * width for n in shape), channels)`.
    """

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = int(width)

    def call(self, features: Any) -> Any:
        for axis in range(1, len(features.shape) - 1):
            first, last = (
                ops.repeat(ops.take(features, [end], axis=axis), self.width, axis=axis)
                for end in (0, -1)
            )
            features = ops.concatenate([first, features, last], axis=axis)
        return features

    def compute_output_shape(self, input_shape: Any) -> Any:
        middle = [n if n is None else n + 2 * self.width for n in input_shape[1:-1]]
        return (input_shape[0], *middle, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width}
