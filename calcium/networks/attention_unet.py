"""The additive direct network: where calcium counts, as an attention map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from calcium.networks.slice_inputs import INPUT_CHANNELS


def attention_unet(
    widths: Sequence[int] = (12, 24, 40, 56),
    *,
    members: int = 1,
    input_channels: int = INPUT_CHANNELS,
) -> Any:
    """Small 2.5-D U-Net that gives an attention in [0, 1] per lattice point.

    The score is not an output: it is `sum(density * attention)`, so the picture of the
    attention is the decision itself. The head has one channel and is enlarged bilinearly;
    sub-pixel heads leave dead positions that lower the score.

    Args:
        widths: Kernels per level; the first level works at half resolution.
        members: Networks of one layout side by side, whose mean logit is what counts: what one of
            them takes for calcium of the coronary arteries the others seldom do, too.
        input_channels: Channels of the input.

    Returns:
        A `keras.Model`, input `(n, h, w, input_channels)` with `h` and `w` multiples of
        `2 ** len(widths)`, output `(n, h, w, 1)`.

    Raises:
        ValueError: If fewer than two widths, or no members, are asked for.

    Source:
        Own, after Ronneberger et al., MICCAI 2015; additive score own.
    """
    import keras
    from keras import layers

    if len(widths) < 2:
        raise ValueError(f"widths must name at least two levels. Received: {tuple(widths)}")
    if members < 1:
        raise ValueError(f"members must be 1 or more. Received: {members}")
    inputs = keras.Input((None, None, input_channels))
    if members == 1:
        x = _logits(inputs, widths)
    else:
        parts = []
        for number in range(members):
            own = keras.Input((None, None, input_channels))
            parts.append(keras.Model(own, _logits(own, widths), name=member_name(number))(inputs))
        x = layers.Average()(parts)
    return keras.Model(inputs, layers.Activation("sigmoid")(x), name="attention_unet")


def member_name(number: int) -> str:
    """Name of a member's layer, counted from 0."""
    return f"member_{number + 1}"


def join_members(networks: Sequence[Any], widths: Sequence[int]) -> Any:
    """One network of some that were trained apart, in their order.

    Args:
        networks: Attention networks of one member each, at least one.
        widths: Kernels per level of all.
    """
    if len(networks) == 1:
        return networks[0]
    joined = attention_unet(widths, members=len(networks))
    for number, network in enumerate(networks):
        joined.get_layer(member_name(number)).set_weights(network.get_weights())
    return joined


def _logits(inputs: Any, widths: Sequence[int]) -> Any:
    from keras import layers

    from calcium.networks.bilinear_doubling import BilinearDoubling

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
    return BilinearDoubling()(x)
