"""A network that looks at a pair again at what its first look left over."""

from __future__ import annotations

from typing import Any

import keras

from registration.warping import warp


@keras.saving.register_keras_serializable(package="registration")
class RepeatedPasses(keras.Model):
    """Runs one deformable network several times, with one lattice of control points in the end.

    Every pass sees the moving image as the passes before have warped it, and its control points
    are added to theirs. In training there is one pass: a network that has learnt to
    register pairs also registers what little it has left over, and gets nearer that way.

    Args:
        network: Network from `[fixed, moving]` to a dictionary of `control_points` and
            `displacement_field`, voxels, the latter linear in the former.
        passes: How often it runs when it is not trained.
        **kwargs: Arguments of `keras.Model`.

    Call arguments:
        inputs: The pair `[fixed, moving]`.
        training: Whether there is one pass alone.

    Input shape:
        `(batch, *shape, 1)`, twice.

    Output shape:
        As that of the network.

    Source:
        Own; cascades of networks with weights of their own are those of Zhao et al., ICCV 2019
        (arXiv:1907.12353).
    """

    def __init__(self, network: keras.Model, passes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if passes < 1:
            raise ValueError(f"passes must be 1 or more. Received: {passes}")
        self.network = network
        self.passes = passes
        self.built = network.built

    def call(self, inputs: Any, training: bool | None = None) -> dict[str, Any]:
        """Register a batch of pairs."""
        fixed, moving = inputs
        output = self.network([fixed, moving], training=training)
        points, field = output["control_points"], output["displacement_field"]
        for _ in range(0 if training else self.passes - 1):
            more = self.network([fixed, warp(moving, field)], training=training)
            points = points + more["control_points"]
            field = field + more["displacement_field"]
        return {"control_points": points, "displacement_field": field}

    def get_config(self) -> dict[str, Any]:
        network = keras.saving.serialize_keras_object(self.network)
        return {**super().get_config(), "network": network, "passes": self.passes}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        network = keras.saving.deserialize_keras_object(
            config["network"], custom_objects=custom_objects
        )
        return cls(**{**config, "network": network})
