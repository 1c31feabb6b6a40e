"""The additive direct network: where calcium counts, as an attention map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from calcium.networks.slice_inputs import INPUT_CHANNELS


def attention_unet(
    widths: Sequence[int] = (12, 24, 40, 56), *, input_channels: int = INPUT_CHANNELS
) -> Any:
    """Small 2.5-D U-Net that gives an attention in [0, 1] per lattice point.

    The score is not an output: it is `sum(density * attention)`, so the picture of the
    attention is the decision itself. The head has one channel and is enlarged bilinearly;
    sub-pixel heads leave dead positions that lower the score.

    Args:
        widths: Kernels per level; the first level works at half resolution.
        input_channels: Channels of the input.

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
    inputs = keras.Input((None, None, input_channels))
    x = layers.Conv2D(widths[0], 4, strides=2, padding="same", activation="elu")(inputs)
    skips = []
    for width in widths[1:]:
        skips.append(x)
        x = layers.AveragePooling2D(2)(x)
        x = layers.Conv2D(width, 3, padding="same", activation="elu")(x)
        x = layers.Conv2D(width, 3, padding="same", activation="elu")(x)
    for width, skip in zip(reversed(widths[:-1]), reversed(skips), strict=True):
        x = layers.UpSampling2D(2)(x)
        x = layers.Concatenate()([x, skip])
        x = layers.Conv2D(width, 3, padding="same", activation="elu")(x)
    x = layers.Conv2D(1, 3, padding="same")(x)
    x = BilinearDoubling()(x)
    return keras.Model(inputs, layers.Activation("sigmoid")(x), name="attention_unet")
