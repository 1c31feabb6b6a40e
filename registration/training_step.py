"""One optimizer step of one stage, compiled once for images of every size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from registration.augmentation import Augmentation
from registration.networks.affine_stage import AffineConfig
from registration.networks.multi_stage import MultiStageRegistration
from registration.networks.registration_network import RegistrationConfig
from registration.objective import Objective
from registration.training_pairs import Batch
from registration.warping import compose, warp


@dataclass(frozen=True, slots=True)
class StageObjective:
    """What one stage is trained on.

    Args:
        objective: Similarity and smoothness.
        symmetric: Train on both directions of every pair.
        inverse_weight: Weight of the inverse-consistency loss: the mean square of where a
            voxel comes back to through both directions, mm² (voxel²). Implies both directions.
        patch_shape: Spatial shape of the patches that the stage is trained on, array order;
            earlier stages see whole images. Whole images by default.
        second_looks: Share of the batches of which the stage is shown what a first pass of its own
            leaves over, as it will be in later passes.
    """

    objective: Objective
    symmetric: bool = False
    inverse_weight: float = 0.0
    patch_shape: tuple[int, ...] | None = None
    second_looks: float = 0.0

    @property
    def both_ways(self) -> bool:
        """Whether every pair is registered in both directions."""
        return self.symmetric or self.inverse_weight > 0


class StageStep:
    """Loss and update of one stage, the earlier ones frozen.

    Args:
        network: All stages.
        config: Their configuration.
        stage: Index of the stage that is trained.
        goal: What it is trained on.
        augmentation: How images are changed beforehand.
        optimizer: Optimizer of the stage's weights; `None` if only losses are wanted.
    """

    def __init__(
        self,
        network: MultiStageRegistration,
        config: RegistrationConfig,
        stage: int,
        goal: StageObjective,
        augmentation: Augmentation,
        optimizer: keras.optimizers.Optimizer | None = None,
    ) -> None:
        self.network = network
        self.config = config
        self.stage = stage
        self.goal = goal
        self.augmentation = augmentation
        self.optimizer = optimizer
        self._update = self._compiled_update()
        self._judge = self._compiled_judge()

    def update(self, batch: Batch, seed: tuple[int, int]) -> float:
        """One optimizer step; the loss before it.

        Args:
            batch: What a `PairSampler` gave.
            seed: Of the noise.
        """
        import tensorflow as tf

        tensors = {name: tf.constant(values) for name, values in batch.items()}
        return float(self._update(tensors, tf.constant(seed, tf.int32)))

    def judge(self, batch: Batch) -> tuple[float, float]:
        """Loss, and similarity, of whole images without augmentation; nothing changes."""
        import tensorflow as tf

        loss, similarity = self._judge(tf.constant(batch["fixed"]), tf.constant(batch["moving"]))
        return float(loss), float(similarity)

    def losses(self, fixed: Any, moving: Any, *, training: bool) -> tuple[Any, Any]:
        """Loss and dissimilarity of every pair.

        Args:
            fixed: Intensities and mask, shape `(batch, *shape, 2)`.
            moving: Same, as the earlier stages leave it.
            training: Whether the stage is being trained.

        Returns:
            Two tensors of shape `(batch,)`; both directions in a row if there are two.
        """
        if self.goal.both_ways:
            fixed, moving = (
                ops.concatenate([fixed, moving], axis=0),
                ops.concatenate([moving, fixed], axis=0),
            )
        pair = fixed[..., :1], moving[..., :1]
        if training:  # on one pass, and judged as it will be used
            output = self.network.stages[self.stage]([*pair], training=True)
        else:
            output = self.network.run_stage(self.stage, *pair)
        field = output["displacement_field"]
        moved = warp(moving, field)
        weight = fixed[..., 1:] * ops.stop_gradient(moved[..., 1:])
        similarity = self.goal.objective.dissimilarity(fixed[..., :1], moved[..., :1], weight)
        loss = similarity + self._roughness(output)
        if self.goal.inverse_weight > 0:
            loss = loss + self.goal.inverse_weight * self._inconsistency(field)
        return loss, similarity

    def _roughness(self, output: dict[str, Any]) -> Any:
        stage = self.config.stages[self.stage]
        field = output["displacement_field"]
        spacing_mm = self.config.network_spacing[::-1]
        if isinstance(stage, AffineConfig):
            return 0.0
        if stage.diffeomorphic or stage.transformer == "thin_plate_spline":
            return self.goal.objective.roughness(field, spacing_mm=spacing_mm)
        return self.goal.objective.roughness(
            field,
            output["control_points"],
            spacing=stage.control_point_spacing,
            spacing_mm=spacing_mm,
            border=stage.border,
            order=int(stage.transformer[-1]),
        )

    def _inconsistency(self, field: Any) -> Any:
        """Mean square distance to where both directions in a row bring a voxel, per direction."""
        half = ops.shape(field)[0] // 2
        forward, backward = field[:half], field[half:]
        spacing = ops.convert_to_tensor(self.config.network_spacing[::-1], dtype="float32")
        distances = [
            ops.mean(
                ops.sum((compose(first, second) * spacing) ** 2, axis=-1),
                axis=tuple(range(1, len(field.shape) - 1)),
            )
            for first, second in ((backward, forward), (forward, backward))
        ]
        return ops.concatenate(distances, axis=0)

    def _earlier(self, fixed: Any, moving: Any) -> Any:
        """Moving image and mask as the earlier stages leave them."""
        if self.stage == 0:
            return moving
        results = self.network.run(fixed[..., :1], moving[..., :1], self.stage)
        return ops.stop_gradient(warp(moving, results["displacement_field"]))

    def _looked(self, fixed: Any, moving: Any) -> Any:
        """Moving image and mask as a pass of the stage itself leaves them, without gradient."""
        stage = self.network.stages[self.stage]
        output = stage([fixed[..., :1], moving[..., :1]], training=False)
        return ops.stop_gradient(warp(moving, output["displacement_field"]))

    def _augmented(self, batch: dict[str, Any], seed: Any) -> list[Any]:
        import tensorflow as tf

        changed = []
        for which, name in enumerate(("fixed", "moving")):
            noise = None
            if self.augmentation.noise > 0:
                shape = tf.shape(batch[name][..., :1])
                noise = tf.random.stateless_normal(shape, seed + which * 7919)
            changed.append(self.augmentation.apply(batch[name], batch, which, noise))
        return changed

    def _compiled_update(self) -> Any:
        import tensorflow as tf

        stage = self.network.stages[self.stage]

        @tf.function(autograph=False, input_signature=_signature(self.config))
        def update(batch: dict[str, Any], seed: Any) -> Any:
            fixed, moving = self._augmented(batch, seed)
            moving = self._earlier(fixed, moving)
            if self.goal.second_looks > 0:
                again = tf.random.stateless_uniform((), seed + 104729) < self.goal.second_looks
                moving = tf.cond(again, lambda: self._looked(fixed, moving), lambda: moving)
            if self.goal.patch_shape is not None:
                fixed, moving = _patches(fixed, moving, batch["corner"], self.goal.patch_shape)
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(self.losses(fixed, moving, training=True)[0])
            gradients = tape.gradient(loss, stage.trainable_variables)
            assert self.optimizer is not None
            self.optimizer.apply_gradients(zip(gradients, stage.trainable_variables, strict=True))
            return loss

        return update

    def _compiled_judge(self) -> Any:
        import tensorflow as tf

        images = tf.TensorSpec((None, *self.config.network_shape, 2), tf.float32)

        @tf.function(autograph=False, input_signature=[images, images])
        def judge(fixed: Any, moving: Any) -> Any:
            moving = self._earlier(fixed, moving)
            loss, dissimilarity = self.losses(fixed, moving, training=False)
            return tf.reduce_mean(loss), -tf.reduce_mean(dissimilarity)

        return judge


def _signature(config: RegistrationConfig) -> tuple[dict[str, Any], Any]:
    """Batches of every size, so that one trace serves all; the last is the seed of noise."""
    import tensorflow as tf

    d = config.dimension
    image = (None, *config.network_shape, 2)
    shapes = {
        "fixed": image,
        "moving": image,
        "linear": (None, 2, d, d),
        "shift": (None, 2, d),
        "elastic": (None, 2, *(None,) * d, d),
        "gamma": (None, 2),
        "noise": (None, 2),
        "box": (None, 2, 2, d),
        "corner": (None, d),
    }
    batch = {name: tf.TensorSpec(shape, tf.float32) for name, shape in shapes.items()}
    return batch, tf.TensorSpec((2,), tf.int32)


def _patches(fixed: Any, moving: Any, corner: Any, patch_shape: Sequence[int]) -> tuple[Any, Any]:
    """The same random box of both images of every pair; axes that are shorter stay whole.

    Args:
        fixed: Shape `(batch, *shape, channels)`.
        moving: Same shape.
        corner: Where the box lies, 0 to 1 per axis, shape `(batch, d)`.
        patch_shape: Spatial shape of the box.
    """
    import tensorflow as tf

    both = tf.concat([fixed, moving], axis=-1)
    shape = tf.shape(both)[1:-1]
    size = tf.minimum(shape, tf.constant(list(patch_shape), tf.int32))
    room = tf.cast(shape - size + 1, tf.float32)
    start = tf.minimum(tf.cast(tf.floor(corner * room), tf.int32), shape - size)
    channels = int(both.shape[-1])

    def cut(inputs: Any) -> Any:
        image, first = inputs
        begin = tf.concat([first, [0]], axis=0)
        return tf.slice(image, begin, tf.concat([size, [channels]], axis=0))

    specification = tf.TensorSpec((*(None,) * len(patch_shape), channels), tf.float32)
    patches = tf.map_fn(cut, (both, start), fn_output_signature=specification)
    return patches[..., : channels // 2], patches[..., channels // 2 :]
