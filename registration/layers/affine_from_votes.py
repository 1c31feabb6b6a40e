"""An affine transform from many local displacements, each with a weight of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from registration.affine_tensors import homogeneous
from registration.layers.geometric_layer import GeometricLayer
from registration.warping import voxel_indices

_RIDGE = 0.01
"""Weight that holds the linear part to the identity, in shares of the spread of the cells: what a
handful of cells in a plane say nothing about stays as it is."""

_FLOOR = 1e-6


@keras.saving.register_keras_serializable(package="registration")
class AffineFromVotes(GeometricLayer):
    """The affine transform nearest to the displacements of all cells, by weighted least squares.

    A network that gives one displacement per cell of its feature map only has to compare
    what is near; what all of them mean together is solved in closed form. The fit is
    differentiable, and needs no number of cells to be known beforehand.

    Args:
        center_mm: Where the middle of the image lies, (x, y, z), mm; its length sets the dimension.
        spacing: Voxel spacing of the image along (x, y, z), mm.
        cell_vox: Edge of a cell, voxels of the image.
        translation_mm: Displacement per unit of the input, mm.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        votes: Displacements of the cells along (x, y, z), and the logarithm of their weights
            (up to a constant), last axis.
        image: Image that the cells were laid on from its first voxel on; its values do not matter.

    Input shape:
        `(batch, *cells, d + 1)` and `(batch, *shape, channels)`.

    Output shape:
        `(batch, d + 1, d + 1)`, homogeneous pull-backs on points (x, y, z) in mm, float32.

    Raises:
        ValueError: If `spacing` has another number of axes than `center_mm`.

    Source:
        Own; weighted least squares from corresponding points as in Horn, J Opt Soc Am A
        1987;4:629-642, for affine maps.
    """

    def __init__(
        self,
        center_mm: Sequence[float] = (0.0, 0.0, 0.0),
        *,
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
        cell_vox: int = 8,
        translation_mm: float = 10.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.center_mm = tuple(float(c) for c in center_mm)
        self.spacing = tuple(float(s) for s in spacing)
        self.cell_vox = int(cell_vox)
        self.translation_mm = float(translation_mm)
        if len(self.spacing) != len(self.center_mm):
            raise ValueError(
                f"spacing needs {len(self.center_mm)} numbers, as center_mm. "
                f"Received: {self.spacing}"
            )

    @property
    def parameter_count(self) -> int:
        """Channels of the votes."""
        return len(self.center_mm) + 1

    def call(self, votes: Any, image: Any) -> Any:
        d = len(self.center_mm)
        votes = ops.cast(votes, "float32")
        middle = (ops.stack([ops.cast(n, "float32") for n in ops.shape(image)[1:-1]]) - 1.0) / 2.0
        cells = voxel_indices(ops.shape(votes)[1:-1])
        offsets = (cells + 0.5) * self.cell_vox - 0.5 - middle
        # indices count along array axes; points are (x, y, z)
        points = ops.reshape(
            ops.flip(offsets, axis=-1) * np.array(self.spacing, np.float32), (1, -1, d)
        )
        count = ops.shape(points)[1]
        flat = ops.reshape(votes, (-1, count, d + 1))
        moves = flat[..., :d] * self.translation_mm
        weights = ops.softmax(flat[..., d:], axis=1)
        mean_point = ops.sum(weights * points, axis=1, keepdims=True)
        mean_move = ops.sum(weights * moves, axis=1, keepdims=True)
        centered = points - mean_point
        weighted = ops.transpose(weights * centered, (0, 2, 1))
        spread = ops.matmul(weighted, centered)
        shared = ops.matmul(weighted, moves - mean_move)
        size = ops.trace(spread, axis1=1, axis2=2) / d
        eye = ops.eye(d, dtype="float32")
        held = spread + (_RIDGE * size + _FLOOR)[:, None, None] * eye
        linear = ops.transpose(ops.solve(held, shared), (0, 2, 1)) + eye
        center = ops.convert_to_tensor(self.center_mm, dtype="float32")[None, :, None]
        pivot = ops.transpose(mean_point, (0, 2, 1)) + center
        offset = pivot + ops.transpose(mean_move, (0, 2, 1)) - ops.matmul(linear, pivot)
        return homogeneous(linear, offset[..., 0])

    def compute_output_shape(self, votes_shape: Any, image_shape: Any) -> Any:
        return (votes_shape[0], self.parameter_count, self.parameter_count)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "center_mm": self.center_mm,
            "spacing": self.spacing,
            "cell_vox": self.cell_vox,
            "translation_mm": self.translation_mm,
        }
