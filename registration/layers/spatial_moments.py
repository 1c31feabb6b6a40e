"""Global pooling that remembers where features lie, whatever the size of the image."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from registration.layers.geometric_layer import GeometricLayer


@keras.saving.register_keras_serializable(package="registration")
class SpatialMoments(GeometricLayer):
    """Mean of every feature, and its mean times the position along every axis.

    Average pooling alone forgets where things are, which is all that a registration asks.
    The first moments keep it, and like the mean they admit images of any size.

    Args:
        length_vox: Distance from the middle of the feature map that counts as 1, in its
            voxels. A constant, so that a shift means the same in images of every size.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape:
        `(batch, *shape, channels)`.

    Output shape:
        `(batch, (1 + d) * channels)`: means, then moments per axis in array order.

    Source:
        Own; the mean is the pooling of de Vos et al., Med Image Anal 2019;52:128-143.
    """

    def __init__(self, length_vox: float = 4.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.length_vox = float(length_vox)

    def call(self, features: Any) -> Any:
        features = ops.cast(features, "float32")
        shape = ops.shape(features)[1:-1]
        axes = tuple(range(1, len(shape) + 1))
        pooled = [ops.mean(features, axis=axes)]
        for axis, length in zip(axes, shape, strict=True):
            others = tuple(a for a in axes if a != axis)
            profile = ops.mean(features, axis=others)
            index = ops.cast(ops.arange(length), "float32")
            position = (index - (ops.cast(length, "float32") - 1.0) / 2.0) / self.length_vox
            pooled.append(ops.mean(profile * position[None, :, None], axis=1))
        return ops.concatenate(pooled, axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], (len(input_shape) - 1) * input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "length_vox": self.length_vox}
