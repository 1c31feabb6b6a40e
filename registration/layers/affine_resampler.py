"""The layer that resamples images through affine transforms in physical space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from registration.layers.geometric_layer import GeometricLayer
from registration.warping import sample_linear, voxel_indices


@keras.saving.register_keras_serializable(package="registration")
class AffineResampler(GeometricLayer):
    """Pulls moving images back onto a fixed grid, linearly, as SimpleITK's Resample does.

    A fixed voxel at the physical point `x` gets the moving intensity at `transform(x)`.
    Like ITK, a point counts as inside up to half a voxel past the outermost voxel centres,
    and the intensity there is that of the nearest point between centres.

    Args:
        output_shape: Array shape `(z, y, x)` or `(y, x)` of the fixed grid; `None` takes
            that of the moving image, whatever it is at run time.
        fill_value: Intensity outside the moving image, if `padding` is `"constant"`.
        padding: `"constant"`, or `"border"` to repeat the outermost voxels.
        **kwargs: Passed to `keras.layers.Layer`.

    Call arguments:
        moving: Images, channels last.
        transform: Homogeneous pull-back matrices on points in (x, y, z) order, mm.
        fixed_to_physical: Homogeneous map from continuous fixed index (x, y, z) to mm, as
            `ImageGrid.index_to_physical_matrix` gives it; one, or one per image.
        moving_to_physical: The same of the moving images.

    Input shape:
        `(batch, z, y, x, channels)` and `(batch, 4, 4)`, or one axis fewer in 2-D.

    Output shape:
        `(batch, *output_shape, channels)`, float32: coordinates do not survive half precision.

    Raises:
        ValueError: If `padding` is unknown.

    Source:
        ITK Software Guide, book 2, section 3.9 (resampling through a pull-back).
    """

    def __init__(
        self,
        output_shape: Sequence[int] | None = None,
        *,
        fill_value: float = 0.0,
        padding: str = "constant",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if padding not in ("constant", "border"):
            raise ValueError(f'padding must be "constant" or "border". Received: {padding}')
        self.output_shape_zyx = None if output_shape is None else tuple(map(int, output_shape))
        self.fill_value = float(fill_value)
        self.padding = padding

    def call(
        self,
        moving: Any,
        transform: Any,
        fixed_to_physical: Any,
        moving_to_physical: Any,
    ) -> Any:
        moving = ops.cast(moving, "float32")
        matrix = _per_image(moving_to_physical)
        matrix = ops.matmul(ops.inv(matrix), ops.cast(transform, "float32"))
        matrix = ops.matmul(matrix, _per_image(fixed_to_physical))
        shape = ops.shape(moving)
        spatial = self.output_shape_zyx or shape[1:-1]
        index = _affine_index(matrix, spatial)
        sampled = sample_linear(moving, index)
        if self.padding == "constant":
            last = ops.stack([ops.cast(n, "float32") for n in shape[1:-1]]) - 0.5
            inside = ops.all((index >= -0.5) & (index < last), axis=-1, keepdims=True)
            sampled = ops.where(inside, sampled, self.fill_value)
        return ops.reshape(sampled, (shape[0], *spatial, moving.shape[-1]))

    def compute_output_shape(
        self,
        moving_shape: Any,
        transform_shape: Any,
        fixed_to_physical_shape: Any,
        moving_to_physical_shape: Any,
    ) -> tuple[int | None, ...]:
        spatial = self.output_shape_zyx or tuple(moving_shape[1:-1])
        return (moving_shape[0], *spatial, moving_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "output_shape": self.output_shape_zyx,
            "fill_value": self.fill_value,
            "padding": self.padding,
        }


def _per_image(matrix: Any) -> Any:
    """Matrices with a batch axis, which broadcasts if they were given once."""
    matrix = ops.cast(matrix, "float32")
    return matrix if len(matrix.shape) == 3 else matrix[None]


def _affine_index(matrix: Any, spatial: Sequence[Any]) -> Any:
    """Continuous moving index, array axis order, of every fixed voxel: `(batch, voxels, d)`."""
    points = ops.reshape(ops.flip(voxel_indices(spatial), axis=-1), (1, -1, len(spatial)))
    linear = ops.transpose(matrix[:, :-1, :-1], (0, 2, 1))
    return ops.flip(ops.matmul(points, linear) + matrix[:, None, :-1, -1], axis=-1)
