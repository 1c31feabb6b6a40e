"""The additive direct network: where calcium counts, as an attention map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calcium.networks.slice_inputs import INPUT_CHANNELS

_NORMALIZATION = {"momentum": 0.95, "epsilon": 1e-5}


def attention_unet(
    widths: Sequence[int] = (12, 24, 40, 56),
    *,
    input_channels: int = INPUT_CHANNELS,
    normalized: bool = False,
) -> Any:
    """Small 2.5-D U-Net that gives an attention in [0, 1] per lattice point.

    The score is not an output: it is `sum(density * attention)`, so the picture of the
    attention is the decision itself. The head has one channel and is enlarged bilinearly;
    sub-pixel heads leave dead positions that lower the score.

    Args:
        widths: Kernels per level; the first level works at half resolution.
        input_channels: Channels of the input.
        normalized: Whether features are normalized by batch between convolution and activation.
            For training alone: `fold_normalization` makes of it one that is not.

    Returns:
        A `keras.Model`, input `(n, h, w, input_channels)` with `h` and `w` multiples of
        `2 ** len(widths)`, output `(n, h, w, 1)`.

    Raises:
        ValueError: If fewer than two widths are given.

    Source:
        Own, after Ronneberger et al., MICCAI 2015; additive score own.
    """
    import keras
    from keras import layers

    from calcium.networks.bilinear_doubling import BilinearDoubling

    if len(widths) < 2:
        raise ValueError(f"widths must name at least two levels. Received: {tuple(widths)}")

    def convolution(x: Any, width: int, size: int = 3, **changes: Any) -> Any:
        x = layers.Conv2D(width, size, padding="same", **changes)(x)
        if normalized:
            x = layers.BatchNormalization(**_NORMALIZATION)(x)
        return layers.Activation("elu")(x)

    inputs = keras.Input((None, None, input_channels))
    x = convolution(inputs, widths[0], 4, strides=2)
    skips = []
    for width in widths[1:]:
        skips.append(x)
        x = layers.AveragePooling2D(2)(x)
        x = convolution(x, width)
        x = convolution(x, width)
    for width, skip in zip(reversed(widths[:-1]), reversed(skips), strict=True):
        x = layers.UpSampling2D(2)(x)
        x = layers.Concatenate()([x, skip])
        x = convolution(x, width)
    x = layers.Conv2D(1, 3, padding="same")(x)
    x = BilinearDoubling()(x)
    return keras.Model(inputs, layers.Activation("sigmoid")(x), name="attention_unet")


def fold_normalization(normalized: Any, plain: Any) -> None:
    """Give a U-Net without normalization the weights with which it does what one with it does.

    What a normalization does at inference is linear, so the convolution before it can do it.

    Args:
        normalized: Trained `attention_unet(widths, normalized=True)`.
        plain: `attention_unet(widths)` of the same layout; its weights are replaced.
    """
    import keras

    found: list[list[NDArray[np.float32]]] = []
    for layer in normalized.layers:
        if isinstance(layer, keras.layers.Conv2D):
            found.append(list(layer.get_weights()))
        elif isinstance(layer, keras.layers.BatchNormalization):
            gain, shift, mean, variance = layer.get_weights()
            factor = gain / np.sqrt(variance + layer.epsilon)
            kernel, bias = found[-1]
            found[-1] = [kernel * factor, (bias - mean) * factor + shift]
    convolutions = [layer for layer in plain.layers if isinstance(layer, keras.layers.Conv2D)]
    for layer, weights in zip(convolutions, found, strict=True):
        layer.set_weights(weights)
