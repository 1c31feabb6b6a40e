"""Displacements that cannot go beyond a limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from registration.layers.geometric_layer import GeometricLayer


@keras.saving.register_keras_serializable(package="registration")
class LimitedDisplacement(GeometricLayer):
    """Displacements bounded smoothly per axis: `scale * tanh(u / scale)`.

    Args:
        scale: Limit per array axis, voxels.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        displacements: Of control points or voxels, array axis order, voxels.

    Input shape:
        `(batch, *shape, d)`.

    Output shape:
        The same.

    Source:
        The author's later library to de Vos et al., Med Image Anal 2019;52:128-143.
    """

    def __init__(self, scale: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = tuple(float(s) for s in scale)

    def call(self, displacements: Any) -> Any:
        scale = ops.convert_to_tensor(self.scale, dtype="float32")
        return scale * ops.tanh(displacements / scale)

    def compute_output_shape(self, displacements_shape: Any) -> Any:
        return displacements_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale}
