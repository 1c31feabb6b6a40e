"""The B-spline transformer: control points in, dense displacement field out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from registration.bsplines import SUPPORTED_ORDERS, bspline_field
from registration.layers.geometric_layer import GeometricLayer


@keras.saving.register_keras_serializable(package="registration")
class BSplineField(GeometricLayer):
    """Dense displacement field of a lattice of control points.

    The lattice begins in the middle of the first `spacing` voxels, where repeated average
    pooling puts its first output, or `border` control points earlier, and is continued past its
    end by its outermost values.

    Args:
        spacing: Control point spacing per array axis (z, y, x), voxels.
        order: Degree of the spline: 3, 2 or 1.
        border: Control points beyond the image at every end of the lattice.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        control_points: Displacements of the control points, voxels.
        fixed: Image whose spatial shape the field takes; its values do not matter.

    Input shape:
        `(batch, *lattice, d)` and `(batch, *shape, channels)`.

    Output shape:
        `(batch, *shape, d)`, voxels, array axis order.

    Raises:
        ValueError: If the order is not supported.

    Source:
        de Vos et al., DLMIA 2017 (arXiv:1704.06065); evaluation by products per axis: own.
    """

    def __init__(
        self, spacing: Sequence[float], order: int = 3, border: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if order not in SUPPORTED_ORDERS:
            raise ValueError(f"order must be one of {SUPPORTED_ORDERS}. Received: order={order}")
        self.spacing = tuple(float(s) for s in spacing)
        self.order = order
        self.border = int(border)

    def call(self, control_points: Any, fixed: Any) -> Any:
        shape = keras.ops.shape(fixed)[1:-1]
        return bspline_field(
            control_points, shape, spacing=self.spacing, border=self.border, order=self.order
        )

    def compute_output_shape(self, control_points_shape: Any, fixed_shape: Any) -> Any:
        return (*fixed_shape[:-1], control_points_shape[-1])

    def get_config(self) -> dict[str, Any]:
        lattice = {"spacing": self.spacing, "order": self.order, "border": self.border}
        return {**super().get_config(), **lattice}
