"""Batch normalization of an image pair, and what drives it, fast in use."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from registration.layers.demons_force import demons_force


@keras.saving.register_keras_serializable(package="registration")
class PairNormalization(keras.layers.BatchNormalization):
    """Normalizes fixed and moving image by the statistics of training, and stacks them.

    On two channels the usual layers are slow, as their inner loops are two values long: on a
    slice of 256 x 256, stacking and normalizing took a third of the whole network. In use, every
    image is multiplied by one number and another is added; a transposition makes them channels.

    Args:
        forces: Whether the demons force between the normalized images follows as further
            channels, one per axis.
        **kwargs: Arguments of `keras.layers.BatchNormalization`.

    Call arguments:
        fixed: Fixed images.
        moving: Moving images.
        training: Whether to normalize by the batch instead, and learn from it.

    Input shape:
        `(batch, *shape, 1)`, twice.

    Output shape:
        `(batch, *shape, 2)`, with forces `(batch, *shape, 2 + d)`.

    Source:
        Arrangement own; values those of `BatchNormalization` after `Concatenate`.
    """

    def __init__(self, forces: bool = False, **kwargs: Any) -> None:
        kwargs["dtype"] = "float32"  # statistics of half precision are of no use
        super().__init__(**kwargs)
        self.forces = forces

    def build(self, fixed_shape: Any, moving_shape: Any) -> None:
        super().build((*fixed_shape[:-1], fixed_shape[-1] + moving_shape[-1]))
        self.input_spec = None  # that of the stacked pair

    def call(self, fixed: Any, moving: Any, training: bool | None = None) -> Any:
        if training and self.trainable:
            pair = super().call(ops.concatenate([fixed, moving], axis=-1), training=training)
            channels = [pair[..., 0], pair[..., 1]]
        else:
            scale = self.gamma * ops.rsqrt(self.moving_variance + self.epsilon)
            shift = self.beta - self.moving_mean * scale
            images = (fixed[..., 0], moving[..., 0])
            channels = [image * scale[n] + shift[n] for n, image in enumerate(images)]
        if self.forces:
            channels += demons_force(*channels)
        shape = ops.shape(fixed)
        flat = [ops.reshape(channel, (shape[0], -1)) for channel in channels]
        stacked = ops.transpose(ops.stack(flat, axis=1), (0, 2, 1))
        return ops.reshape(stacked, (*shape[:-1], len(channels)))

    def compute_output_shape(self, fixed_shape: Any, moving_shape: Any) -> Any:
        del moving_shape
        return (*fixed_shape[:-1], 2 + (len(fixed_shape) - 2) * self.forces)

    def compute_output_spec(self, fixed: Any, moving: Any, training: bool | None = None) -> Any:
        del training
        shape = self.compute_output_shape(tuple(fixed.shape), tuple(moving.shape))
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.pop("dtype", None)
        return {**config, "forces": self.forces}
