"""Batch normalization of an image pair, fast in use."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="registration")
class PairNormalization(keras.layers.BatchNormalization):
    """Normalizes fixed and moving image by the statistics of training, and stacks them.

    The usual layer is slow on two channels: its inner loop is two values long, and on a slice of
    256 x 256 it took as long as all convolutions after the second. In use every image is
    multiplied by one number and another is added before they become channels.

    Args:
        **kwargs: Arguments of `keras.layers.BatchNormalization`.

    Call arguments:
        fixed: Fixed images.
        moving: Moving images.
        training: Whether to normalize by the batch instead, and learn from it.

    Input shape:
        `(batch, *shape, 1)`, twice.

    Output shape:
        `(batch, *shape, 2)`.

    Source:
        Arrangement own; values those of `BatchNormalization` after `Concatenate`.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs["dtype"] = "float32"  # statistics of half precision are of no use
        super().__init__(**kwargs)

    def build(self, fixed_shape: Any, moving_shape: Any) -> None:
        super().build(self.compute_output_shape(fixed_shape, moving_shape))
        self.input_spec = None  # that of the stacked pair

    def call(self, fixed: Any, moving: Any, training: bool | None = None) -> Any:
        if training and self.trainable:
            return super().call(ops.concatenate([fixed, moving], axis=-1), training=training)
        scale = self.gamma * ops.rsqrt(self.moving_variance + self.epsilon)
        shift = self.beta - self.moving_mean * scale
        # without the channel, so that the loops run along the image
        images = [
            ops.squeeze(image, -1) * scale[n] + shift[n] for n, image in enumerate((fixed, moving))
        ]
        return ops.stack(images, axis=-1)

    def compute_output_shape(self, fixed_shape: Any, moving_shape: Any) -> Any:
        return (*fixed_shape[:-1], fixed_shape[-1] + moving_shape[-1])

    def compute_output_spec(self, fixed: Any, moving: Any, training: bool | None = None) -> Any:
        del training
        shape = self.compute_output_shape(tuple(fixed.shape), tuple(moving.shape))
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.pop("dtype", None)
        return config
