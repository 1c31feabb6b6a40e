"""An affine transform as a displacement field, so that it can be composed with others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from registration.affine_tensors import reversed_axes
from registration.layers.geometric_layer import GeometricLayer
from registration.warping import voxel_indices


@keras.saving.register_keras_serializable(package="registration")
class AffineField(GeometricLayer):
    """Displacement field of a homogeneous matrix, on the voxels of the fixed image.

    The matrix acts on points in mm along the image axes, measured from the middle of the
    image: the frame in which a network that sees only voxels can think.

    Args:
        spacing: Voxel spacing in ITK order (x, y, z), mm.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        matrix: Homogeneous pull-back from fixed to moving points, (x, y, z), mm.
        fixed: Image whose spatial shape the field takes; its values do not matter.

    Input shape:
        `(batch, d + 1, d + 1)` and `(batch, *shape, channels)`.

    Output shape:
        `(batch, *shape, d)`, voxels, array axis order.
    """

    def __init__(self, spacing: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spacing = tuple(float(s) for s in spacing)

    def call(self, matrix: Any, fixed: Any) -> Any:
        shape = ops.shape(fixed)[1:-1]
        d = len(self.spacing)
        spacing = np.array(self.spacing[::-1], np.float32)
        matrix = reversed_axes(matrix)  # points in array axis order
        linear, offset = matrix[:, :d, :d], matrix[:, :d, d]
        middle = (ops.stack([ops.cast(n, "float32") for n in shape]) - 1.0) / 2.0
        points = ops.reshape((voxel_indices(shape) - middle) * spacing, (1, -1, d))
        moved = ops.matmul(points, ops.transpose(linear, (0, 2, 1))) + offset[:, None]
        field = (moved - points) / spacing
        return ops.reshape(field, (-1, *shape, d))

    def compute_output_shape(self, matrix_shape: Any, fixed_shape: Any) -> Any:
        return (*fixed_shape[:-1], len(self.spacing))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "spacing": self.spacing}
