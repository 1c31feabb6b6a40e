"""The additive direct network: where calcium counts, as an attention map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from calcium.anatomy_maps import STRUCTURES
from calcium.networks.slice_inputs import INPUT_CHANNELS


def attention_unet(
    widths: Sequence[int] = (12, 24, 40, 56),
    *,
    members: int = 1,
    anatomy: bool = False,
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
        anatomy: Give logits of maps of the anatomy, too, for a training (`calcium.anatomy_maps`).
        input_channels: Channels of the input.

    Returns:
        A `keras.Model`, input `(n, h, w, input_channels)` with `h` and `w` multiples of
        `2 ** len(widths)`, output `(n, h, w, 1)`; with `anatomy` a second one,
        `(n, h / 4, w / 4, structures)`.

    Raises:
        ValueError: If fewer than two widths, no members, or anatomy of several are asked for.

    Source:
        Own, after Ronneberger et al., MICCAI 2015; additive score own.
    """
    import keras
    from keras import layers

    if len(widths) < 2:
        raise ValueError(f"widths must name at least two levels. Received: {tuple(widths)}")
    if members < 1:
        raise ValueError(f"members must be 1 or more. Received: {members}")
    if anatomy and members > 1:
        raise ValueError(f"anatomy is drawn by one member. Received: {members}")
    inputs = keras.Input((None, None, input_channels))
    if members == 1:
        x, drawn = _logits(inputs, widths)
        if anatomy:
            attention = layers.Activation("sigmoid")(x)
            return keras.Model(inputs, [attention, _anatomy_logits(drawn)], name="anatomy_unet")
    else:
        parts = []
        for number in range(members):
            own = keras.Input((None, None, input_channels))
            logits, _ = _logits(own, widths)
            parts.append(keras.Model(own, logits, name=member_name(number))(inputs))
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


def attention_alone(network: Any) -> Any:
    """The part of a network that gives the attention; the same network if it gives nothing else."""
    import keras

    if len(network.outputs) == 1:
        return network
    return keras.Model(network.inputs, network.outputs[0], name="attention_unet")


def _anatomy_logits(features: Sequence[Any]) -> Any:
    """Maps of what lies where, from features at half and, if there are any, quarter resolution."""
    from keras import layers

    *coarse, fine = features
    seen = [*coarse[-1:], layers.AveragePooling2D(2)(fine)]
    x = layers.Concatenate()(seen) if len(seen) > 1 else seen[0]
    return layers.Conv2D(len(STRUCTURES), 3, padding="same", name="anatomy")(x)


def _logits(inputs: Any, widths: Sequence[int]) -> tuple[Any, list[Any]]:
    """Logits of the attention, and the features of every level on the way up."""
    from keras import layers

    from calcium.networks.bilinear_doubling import BilinearDoubling

    x = layers.Conv2D(widths[0], 4, strides=2, padding="same", activation="elu")(inputs)
    skips = []
    for width in widths[1:]:
        skips.append(x)
        x = layers.AveragePooling2D(2)(x)
        x = layers.Conv2D(width, 3, padding="same", activation="elu")(x)
        x = layers.Conv2D(width, 3, padding="same", activation="elu")(x)
    features = []
    for width, skip in zip(reversed(widths[:-1]), reversed(skips), strict=True):
        x = layers.UpSampling2D(2)(x)
        x = layers.Concatenate()([x, skip])
        x = layers.Conv2D(width, 3, padding="same", activation="elu")(x)
        features.append(x)
    x = layers.Conv2D(1, 3, padding="same")(x)
    return BilinearDoubling()(x), features
