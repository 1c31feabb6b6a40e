"""Stages in a row: each registers what the earlier ones left over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from registration.networks.stage_run import StageRun, run_network
from registration.pair_masks import Masks
from registration.warping import compose, warp


@keras.saving.register_keras_serializable(package="registration")
class MultiStageRegistration(keras.Model):
    """Registers a pair through successive networks, the moving image interpolated once.

    Every stage sees the fixed image and the moving image as warped so far. Its field is
    composed with (or, as published, added to) the accumulated one, and the *original*
    moving image is warped by the result.

    Args:
        stages: Networks from `[fixed, moving]` to a dictionary with `displacement_field`,
            voxels, coarse to fine.
        composition: `"compose"` is exact up to interpolation, `"add"` is what the paper
            does, an approximation for small later fields.
        runs: How every stage is run on a pair; one look each by default.
        **kwargs: Arguments of `keras.Model`.

    Call arguments:
        inputs: The pair `[fixed, moving]`.

    Input shape:
        `(batch, *shape, 1)`, twice.

    Output shape:
        Dictionary of `moved` `(batch, *shape, 1)`, `displacement_field`
        `(batch, *shape, d)`, `stage_fields` (the accumulated field after every stage),
        `stages` (what every stage gave) and `stage_moving` (the moving image it was given).

    Raises:
        ValueError: If there is no stage, the composition is not known, or not every stage has a
            run.

    Source:
        de Vos et al., Med Image Anal 2019;52:128-143.
    """

    def __init__(
        self,
        stages: Sequence[keras.Model],
        *,
        composition: str = "compose",
        runs: Sequence[StageRun] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not stages:
            raise ValueError("stages must name at least one network. Received: none")
        if composition not in ("compose", "add"):
            raise ValueError(f"composition must be 'compose' or 'add'. Received: {composition!r}")
        self.stages = list(stages)
        self.composition = composition
        self.runs = [StageRun()] * len(self.stages) if runs is None else list(runs)
        if len(self.runs) != len(self.stages):
            raise ValueError(
                f"runs must name one for each of {len(self.stages)} stages. Received: {self.runs}"
            )
        # stages made of known layers need no first call before weights can be read
        self.built = all(stage.built for stage in self.stages)

    def get_config(self) -> dict[str, Any]:
        stages = [keras.saving.serialize_keras_object(stage) for stage in self.stages]
        own = {
            "stages": stages,
            "composition": self.composition,
            "runs": [run.to_dict() for run in self.runs],
        }
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        stages = [
            keras.saving.deserialize_keras_object(stage, custom_objects=custom_objects)
            for stage in config["stages"]
        ]
        runs = [StageRun.from_dict(run) for run in config["runs"]]
        return cls(**{**config, "stages": stages, "runs": runs})

    def call(self, inputs: Any) -> dict[str, Any]:
        """Register a batch of pairs."""
        fixed, moving = inputs
        return self.run(fixed, moving, len(self.stages))

    def run(self, fixed: Any, moving: Any, count: int, masks: Masks = None) -> dict[str, Any]:
        """Register with the first `count` stages; none gives the moving image as it is.

        Args:
            fixed: Shape `(batch, *shape, 1)`.
            moving: Same shape.
            count: Number of stages.
            masks: What steps on the pair may compare of the fixed and of the moving image; see
                `run_network`. That of the moving image moves with it.
        """
        field = None
        moved = moving
        shown = masks
        fields, outputs, seen = [], [], []
        for number in range(count):
            seen.append(moved)
            output = self.run_stage(number, fixed, moved, shown)
            update = output["displacement_field"]
            if field is None:
                field = update
            else:
                field = field + update if self.composition == "add" else compose(field, update)
            moved = warp(moving, field)
            if masks is not None:
                shown = masks[0], warp(masks[1], field)
            fields.append(field)
            outputs.append(output)
        return {
            "moved": moved,
            "displacement_field": field,
            "stage_fields": fields,
            "stages": outputs,
            "stage_moving": seen,
        }

    def run_stage(
        self, number: int, fixed: Any, moving: Any, masks: Masks = None
    ) -> dict[str, Any]:
        """Output of one stage, run as its settings say.

        Args:
            number: Index of the stage.
            fixed: Shape `(batch, *shape, 1)`.
            moving: Same shape, as the earlier stages leave it.
            masks: What its steps may compare; that of the moving image as they leave it, too.
        """
        return run_network(self.stages[number], fixed, moving, self.runs[number], masks)

    def freeze_all_but(self, number: int) -> None:
        """Leave one stage trainable, as each is trained on what the earlier ones give.

        Args:
            number: Index of the stage to train.

        Raises:
            ValueError: If there is no such stage.
        """
        if not 0 <= number < len(self.stages):
            raise ValueError(f"there are {len(self.stages)} stages. Received: number={number}")
        for index, stage in enumerate(self.stages):
            stage.trainable = index == number
