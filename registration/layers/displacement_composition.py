"""Composition of the fields of successive stages."""

from __future__ import annotations

from typing import Any

import keras

from registration.layers.geometric_layer import GeometricLayer
from registration.warping import compose


@keras.saving.register_keras_serializable(package="registration")
class DisplacementComposition(GeometricLayer):
    """One field with the effect of warping by `first`, then warping the result by `second`.

    Args:
        mode: `"compose"` is exact up to interpolation; `"add"` sums the fields, as the
            paper does, which is an approximation for small later fields.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        first: Field of the earlier stages, voxels.
        second: Field of the later stage, voxels.

    Input shape:
        `(batch, *shape, d)`, twice.

    Output shape:
        `(batch, *shape, d)`, voxels.

    Raises:
        ValueError: If the mode is not known.

    Source:
        de Vos et al., Med Image Anal 2019;52:128-143 (adding); composition: own.
    """

    def __init__(self, mode: str = "compose", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if mode not in ("compose", "add"):
            raise ValueError(f"mode must be 'compose' or 'add'. Received: mode={mode!r}")
        self.mode = mode

    def call(self, first: Any, second: Any) -> Any:
        return first + second if self.mode == "add" else compose(first, second)

    def compute_output_shape(self, first_shape: Any, second_shape: Any) -> Any:
        return second_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mode": self.mode}
