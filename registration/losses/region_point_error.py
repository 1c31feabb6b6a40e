"""How far two transforms carry the points of a region apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="registration")
class RegionPointError(keras.losses.Loss):
    """Mean distance between where two affines put the points of a region.

    Args:
        points: Points of the region, mm, shape `(n, d)`.
        unit_mm: Distance that counts as 1, mm.
        name: Name of the loss.
        reduction: How losses of a batch are reduced.
        **kwargs: Passed to `keras.losses.Loss`.

    Call arguments:
        y_true: Known homogeneous matrices, `(batch, d + 1, d + 1)`.
        y_pred: Estimated ones, same shape.

    Output shape:
        `(batch,)` before reduction, in units of `unit_mm`; 0 for equal matrices.
    """

    def __init__(
        self,
        points: Sequence[Sequence[float]],
        *,
        unit_mm: float = 10.0,
        name: str = "region_point_error",
        reduction: str = "sum_over_batch_size",
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(name=name, reduction=reduction, **kwargs)
        self.points = np.asarray(points, dtype=float).tolist()
        self.unit_mm = float(unit_mm)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        difference = ops.cast(y_pred, "float32") - ops.cast(y_true, "float32")
        points = ops.convert_to_tensor(self.points, dtype="float32")
        apart = ops.matmul(points[None], ops.transpose(difference[:, :-1, :-1], (0, 2, 1)))
        apart = apart + difference[:, None, :-1, -1]
        distance = ops.sqrt(ops.sum(apart**2, axis=-1) + 1e-6)
        return ops.mean(distance, axis=-1) / self.unit_mm

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "points": self.points, "unit_mm": self.unit_mm}
