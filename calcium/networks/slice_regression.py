"""The published baseline: one number per slice, regressed directly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calcium.networks.slice_inputs import INPUT_CHANNELS

SMALLEST_SCORE = 1.0
"""Score of the smallest lesion that is counted at all: 1 mm² below 200 HU, slices every 3 mm."""


def slice_scores(output: NDArray[np.float32]) -> NDArray[np.float64]:
    """Scores of slices from what `slice_regression` gives for them.

    Args:
        output: Shape `(n, 1)`, logarithm of one plus the score.

    Returns:
        Shape `(n,)`. Less than the smallest lesion is none: otherwise what is left over in dozens
        of empty slices would add up to a category.
    """
    score = np.expm1(np.asarray(output[:, 0], float))
    return np.where(score < SMALLEST_SCORE, 0.0, score)


def slice_regression(
    widths: Sequence[int] = (12, 16, 24, 32, 48), *, input_channels: int = INPUT_CHANNELS
) -> Any:
    """ConvNet that regresses `log1p` of the Agatston score of one slice.

    The output is linear: a softplus at a high learning rate collapses to zero. Features are
    normalized after every halving; without that the network finds no calcium in 6,000 steps.

    Args:
        widths: Kernels per level, each level at half the resolution of the one before.
        input_channels: Channels of the input.

    Returns:
        A `keras.Model`, input `(n, h, w, input_channels)`, output `(n, 1)`, the natural
        logarithm of one plus the slice's score.

    Source:
        After de Vos et al., IEEE TMI 2019;38:2127-2138; sizes own.
    """
    import keras
    from keras import layers

    inputs = keras.Input((None, None, input_channels))
    x = layers.Conv2D(widths[0], 4, strides=2, padding="same", activation="elu")(inputs)
    x = layers.BatchNormalization()(x)
    for width in widths[1:]:
        x = layers.Conv2D(width, 3, padding="same", activation="elu")(x)
        x = layers.AveragePooling2D(2)(x)
        x = layers.BatchNormalization()(x)
    x = layers.Conv2D(widths[-1], 3, padding="same", activation="elu")(x)
    pooled = layers.Concatenate()(
        [layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)]
    )
    x = layers.Dense(32, activation="elu")(pooled)
    return keras.Model(inputs, layers.Dense(1)(x), name="slice_regression")
