"""The resampler: an image moved by a displacement field."""

from __future__ import annotations

from typing import Any

import keras

from registration.layers.geometric_layer import GeometricLayer
from registration.warping import Padding, warp


@keras.saving.register_keras_serializable(package="registration")
class DisplacementWarp(GeometricLayer):
    """Moved image: `moved(x) = moving(x + u(x))`, in voxels.

    Args:
        interpolation: `"linear"`, or `"nearest"` for labels.
        padding: `"edge"` repeats the outermost voxel; a number stands for everything
            outside the moving image.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        moving: The image to move.
        displacement_field: Pull-back on the fixed grid, voxels, array axis order.

    Input shape:
        `(batch, *moving_shape, channels)` and `(batch, *fixed_shape, d)`.

    Output shape:
        `(batch, *fixed_shape, channels)`, float32; with `"nearest"` labels of whole numbers
        stay what they are.

    Raises:
        ValueError: If the interpolation is not known.
    """

    def __init__(
        self, interpolation: str = "linear", padding: Padding = "edge", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if interpolation not in ("linear", "nearest"):
            raise ValueError(
                "interpolation must be 'linear' or 'nearest'. "
                f"Received: interpolation={interpolation!r}"
            )
        self.interpolation = interpolation
        self.padding = padding

    def call(self, moving: Any, displacement_field: Any) -> Any:
        nearest = self.interpolation == "nearest"
        return warp(moving, displacement_field, nearest=nearest, padding=self.padding)

    def compute_output_shape(self, moving_shape: Any, displacement_field_shape: Any) -> Any:
        return (*displacement_field_shape[:-1], moving_shape[-1])

    def compute_output_spec(self, moving: Any, displacement_field: Any) -> Any:
        shape = self.compute_output_shape(tuple(moving.shape), tuple(displacement_field.shape))
        dtype = moving.dtype if self.interpolation == "nearest" else self.compute_dtype
        return keras.KerasTensor(shape, dtype=dtype)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {**config, "interpolation": self.interpolation, "padding": self.padding}
