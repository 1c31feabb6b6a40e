"""A scoring network with its weights, ready to be shown slices."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calcium.networks.slice_inputs import INPUT_CHANNELS

NETWORKS = ("additive", "plain")
"""Names of the networks behind the one interface."""


def build_network(
    name: str, widths: Sequence[int], members: int = 1, *, anatomy: bool = False
) -> Any:
    """Untrained network of a name.

    Args:
        name: `"additive"` (attention U-Net) or `"plain"` (slice regression).
        widths: Kernels per level.
        members: Additive networks whose mean logit counts.
        anatomy: Whether an additive network draws the anatomy, too, for its training.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: If there is no network of that name, or several plain ones are asked for, or
            a plain one that draws the anatomy.
    """
    if name == "additive":
        from calcium.networks.attention_unet import attention_unet

        return attention_unet(widths, members=members, anatomy=anatomy)
    if name == "plain":
        if members != 1:
            raise ValueError(f"the plain network has one member. Received: {members}")
        if anatomy:
            raise ValueError("the plain network draws no anatomy. Received: anatomy=True")
        from calcium.networks.slice_regression import slice_regression

        return slice_regression(widths)
    raise ValueError(f"network must be one of {', '.join(NETWORKS)}. Received: {name}")


class Predictor:
    """Runs one network on any number of slices of any size; traced at the first prediction.

    Args:
        network_name: `"additive"` or `"plain"`.
        widths: Kernels per level.
        weights: `.weights.h5` file; `None` keeps the random weights of construction.
        members: Additive networks whose mean logit counts.

    Raises:
        ValueError: If there is no network of that name, or the weights do not fit it.
    """

    def __init__(
        self,
        network_name: str,
        widths: tuple[int, ...],
        weights: Path | None = None,
        *,
        members: int = 1,
    ) -> None:
        self.network_name = network_name
        self.network = build_network(network_name, widths, members)
        self._call: Any = None
        if weights is not None:
            self._load(weights, widths)

    def _load(self, weights: Path, widths: tuple[int, ...]) -> None:
        with warnings.catch_warnings():
            # Keras loads what it finds and only warns of the rest, which would stay random
            warnings.simplefilter("error", UserWarning)
            try:
                self.network.load_weights(weights)
            except (ValueError, UserWarning) as error:
                raise ValueError(
                    f"the weights must fit the network {self.network_name} {widths}. "
                    f"Received: {weights.name}"
                ) from error

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], weights: Path) -> Predictor:
        """Predictor of a model folder's scoring section.

        Args:
            settings: `network`, `widths` and, if there are several, `members`.
            weights: `.weights.h5` file, already verified.

        Raises:
            ValueError: If there is no network of that name, or the weights do not fit it.
            KeyError: If `network` or `widths` is missing.
        """
        name, widths = str(settings["network"]), tuple(settings["widths"])
        return cls(name, widths, weights, members=int(settings.get("members", 1)))

    def predict(self, inputs: NDArray[np.float32], *, batch_size: int) -> NDArray[np.float32]:
        """Network output of slices.

        Args:
            inputs: Shape `(n, h, w, 10)`, `n` at least one.
            batch_size: Slices per call.

        Returns:
            `(n, h, w, 1)` attention, or `(n, 1)` logarithmic scores.
        """
        import tensorflow as tf

        if self._call is None:
            network = self.network
            signature = [tf.TensorSpec((None, None, None, INPUT_CHANNELS), tf.float32)]
            self._call = tf.function(
                lambda x: network(x, training=False), input_signature=signature
            )
        starts = range(0, len(inputs), batch_size)
        parts = [self._call(tf.constant(inputs[s : s + batch_size])).numpy() for s in starts]
        return np.concatenate(parts)
