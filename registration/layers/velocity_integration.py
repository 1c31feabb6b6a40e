"""Scaling and squaring: the displacement of a stationary velocity field."""

from __future__ import annotations

from typing import Any

import keras

from registration.layers.geometric_layer import GeometricLayer
from registration.warping import integrate_velocity


@keras.saving.register_keras_serializable(package="registration")
class VelocityIntegration(GeometricLayer):
    """Displacement after unit time along a stationary velocity field.

    Args:
        steps: Number of squarings.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        velocity_field: Voxels per unit time, array axis order.

    Input shape:
        `(batch, *shape, d)`.

    Output shape:
        The same, voxels.

    Raises:
        ValueError: If `steps` is negative.

    Source:
        Arsigny et al., MICCAI 2006, LNCS 4190:924-931.
    """

    def __init__(self, steps: int = 7, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if steps < 0:
            raise ValueError(f"steps must not be negative. Received: steps={steps}")
        self.steps = steps

    def call(self, velocity_field: Any) -> Any:
        return integrate_velocity(velocity_field, steps=self.steps)

    def compute_output_shape(self, velocity_field_shape: Any) -> Any:
        return velocity_field_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "steps": self.steps}
