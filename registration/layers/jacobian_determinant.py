"""The Jacobian determinant of a displacement field, for folding penalties and maps."""

from __future__ import annotations

from typing import Any

import keras

from registration.layers.geometric_layer import GeometricLayer
from registration.warping import jacobian_determinant


@keras.saving.register_keras_serializable(package="registration")
class JacobianDeterminant(GeometricLayer):
    """Determinant of the Jacobian of `x + u(x)`: local volume ratio, below zero in folds.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        displacement_field: Voxels, array axis order.

    Input shape:
        `(batch, *shape, d)`, at least two voxels per axis.

    Output shape:
        `(batch, *shape)`.
    """

    def call(self, displacement_field: Any) -> Any:
        return jacobian_determinant(displacement_field)

    def compute_output_shape(self, displacement_field_shape: Any) -> Any:
        return displacement_field_shape[:-1]
