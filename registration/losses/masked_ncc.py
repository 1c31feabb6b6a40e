"""The similarity that alignment is trained on."""

from __future__ import annotations

from typing import Any

import keras

from registration.similarity import normalized_cross_correlation


@keras.saving.register_keras_serializable(package="registration")
class MaskedNCC(keras.losses.Loss):
    """One minus the normalised cross-correlation where two fields of view overlap.

    The masks travel as the second channel: of the fixed image the region of interest, of
    the moved image its field of view. A voxel counts as much as the product of both.

    Args:
        name: Name of the loss.
        reduction: How losses of a batch are reduced.
        **kwargs: Passed to `keras.losses.Loss`.

    Call arguments:
        y_true: Fixed image and region of interest, `(batch, ..., 2)`.
        y_pred: Moved image and its coverage, `(batch, ..., 2)`.

    Output shape:
        `(batch,)` before reduction, from 0 (linearly related) to 2 (inverted); 1 where the
        overlap is empty or one of the images is constant on it.

    Source:
        Similarity of de Vos et al., Medical Image Analysis 2019;52:128-143; masks own.
    """

    def __init__(
        self,
        name: str = "masked_ncc",
        reduction: str = "sum_over_batch_size",
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(name=name, reduction=reduction, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        mask = y_true[..., 1:] * y_pred[..., 1:]
        return 1.0 - normalized_cross_correlation(y_true[..., :1], y_pred[..., :1], mask)
