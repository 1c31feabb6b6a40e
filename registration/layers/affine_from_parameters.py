"""The layer that turns a network's raw numbers into a bounded affine transform."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from registration.affine_tensors import homogeneous
from registration.layers.geometric_layer import GeometricLayer


@keras.saving.register_keras_serializable(package="registration")
class AffineFromParameters(GeometricLayer):
    """Homogeneous affine matrices from unbounded parameters; zeros give the identity.

    The matrix maps a point `x` to `c + t + R H S (x - c)`: scaling first, then shear, then
    rotation, all about the center `c`, then the translation `t`. Only the translation is
    free; the rest is bounded by tanh, so that no parameters can fold or collapse an image.

    Args:
        center_mm: Point about which scaling, shear and rotation act, one value per axis;
            its length, 2 or 3, sets the dimension.
        translation_mm: Millimetres of translation per unit of parameter.
        max_rotation_rad: Bound of each rotation angle, radians.
        max_log_scale: Bound of the logarithm of each scaling; `log(2)` for a factor of two.
        max_shear: Bound of each shear coefficient, without unit.
        **kwargs: Passed to `keras.layers.Layer`.

    Call arguments:
        parameters: Raw numbers in the order translations, rotations, log scales, shears:
            12 in 3-D (rotations about x, y, z; shears xy, xz, yz) and 6 in 2-D.

    Input shape:
        `(batch, 12)` or `(batch, 6)`.

    Output shape:
        `(batch, 4, 4)` or `(batch, 3, 3)`, always float32, coordinates in (x, y, z) order.

    Raises:
        ValueError: If `center_mm` has neither two nor three values.

    Source:
        Bounds after de Vos et al., Medical Image Analysis 2019;52:128-143; order own.
    """

    def __init__(
        self,
        center_mm: Sequence[float] = (0.0, 0.0, 0.0),
        *,
        translation_mm: float = 50.0,
        max_rotation_rad: float = 0.6,
        max_log_scale: float = 0.5,
        max_shear: float = 0.3,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if len(center_mm) not in (2, 3):
            raise ValueError(f"center_mm must have two or three values. Received: {center_mm}")
        self.center_mm = tuple(float(v) for v in center_mm)
        self.translation_mm = float(translation_mm)
        self.max_rotation_rad = float(max_rotation_rad)
        self.max_log_scale = float(max_log_scale)
        self.max_shear = float(max_shear)

    @property
    def dimension(self) -> int:
        """Number of axes, 2 or 3."""
        return len(self.center_mm)

    @property
    def parameter_count(self) -> int:
        """How many numbers make a transform: 12 in 3-D, 6 in 2-D."""
        return 12 if self.dimension == 3 else 6

    def call(self, parameters: Any) -> Any:
        raw = ops.cast(parameters, "float32")
        d = self.dimension
        angles = 3 if d == 3 else 1
        translation = raw[:, :d] * self.translation_mm
        rotation = self.max_rotation_rad * ops.tanh(raw[:, d : d + angles])
        scale = ops.exp(self.max_log_scale * ops.tanh(raw[:, d + angles : 2 * d + angles]))
        shear = self.max_shear * ops.tanh(raw[:, 2 * d + angles :])
        linear = ops.matmul(self._rotation(rotation), self._shear(shear))
        linear = linear * scale[:, None, :]
        center = ops.convert_to_tensor(self.center_mm, dtype="float32")
        offset = translation + center - ops.matmul(linear, center[:, None])[..., 0]
        return homogeneous(linear, offset)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return (input_shape[0], self.dimension + 1, self.dimension + 1)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "center_mm": self.center_mm,
            "translation_mm": self.translation_mm,
            "max_rotation_rad": self.max_rotation_rad,
            "max_log_scale": self.max_log_scale,
            "max_shear": self.max_shear,
        }

    def _rotation(self, angles: Any) -> Any:
        if self.dimension == 2:
            return _plane_rotation(angles[:, 0], 0, 1, 2)
        about_x = _plane_rotation(angles[:, 0], 1, 2, 3)
        about_y = _plane_rotation(angles[:, 1], 2, 0, 3)
        about_z = _plane_rotation(angles[:, 2], 0, 1, 3)
        return ops.matmul(about_z, ops.matmul(about_y, about_x))

    def _shear(self, shear: Any) -> Any:
        one = ops.ones_like(shear[:, 0])
        zero = ops.zeros_like(one)
        if self.dimension == 2:
            rows = [[one, shear[:, 0]], [zero, one]]
        else:
            rows = [
                [one, shear[:, 0], shear[:, 1]],
                [zero, one, shear[:, 2]],
                [zero, zero, one],
            ]
        return ops.stack([ops.stack(row, axis=-1) for row in rows], axis=-2)


def _plane_rotation(angle: Any, first: int, second: int, dimension: int) -> Any:
    """Rotation turning axis `first` towards axis `second`, shape `(batch, d, d)`."""
    cosine, sine = ops.cos(angle), ops.sin(angle)
    one, zero = ops.ones_like(angle), ops.zeros_like(angle)
    rows = [[one if i == j else zero for j in range(dimension)] for i in range(dimension)]
    rows[first][first] = rows[second][second] = cosine
    rows[first][second] = -sine
    rows[second][first] = sine
    return ops.stack([ops.stack(row, axis=-1) for row in rows], axis=-2)
