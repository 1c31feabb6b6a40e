"""A whole registration as a configuration: stages, working grid, intensities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import keras

from registration.networks.affine_stage import AffineConfig, affine_stage
from registration.networks.deformable_network import DeformableConfig, deformable_network
from registration.networks.multi_stage import MultiStageRegistration
from registration.networks.stage_run import StageRun
from registration.pair_preparation import Initialization, IntensityScaling

StageConfig = AffineConfig | DeformableConfig

FOLDING_LIMIT = {2: 0.48, 3: 0.4}
"""Displacement of control points, by number of axes and as a share of their spacing, below which a
cubic B-spline cannot fold (Choi, Lee, Graph Models 2000;62:411-427)."""

VOXELS_PER_CONTROL_POINT = 4
"""Voxels to the distance of two control points that steps on a pair need."""


@dataclass(frozen=True, slots=True)
class RegistrationConfig:
    """What a registration by networks consists of; kept beside the weights.

    Args:
        stages: Networks, coarse to fine: as a rule at most one affine one, first.
        spacing_mm: Spacing of the working grid in ITK order (x, y, z), mm. By default the
            networks see the voxels of the fixed image as they are, and all lengths of the
            configuration that are called mm are voxels.
        composition: `"compose"`, or `"add"` as published.
        initialization: `"identity"` takes images as they lie in physical space, `"centers"`
            puts middle on middle first.
        scaling: How intensities become numbers from 0 to 1.
        image_shape: Spatial shape of all images, array order, if they have but one. Worth it
            with a thin plate spline, which is then solved once and not for every image.
    """

    stages: tuple[StageConfig, ...]
    spacing_mm: tuple[float, ...] | None = None
    composition: Literal["compose", "add"] = "compose"
    initialization: Initialization = "identity"
    scaling: IntensityScaling = field(default_factory=IntensityScaling)
    image_shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("stages must name at least one network. Received: none")
        object.__setattr__(self, "stages", tuple(self.stages))
        dimensions = {stage.dimension for stage in self.stages}
        if len(dimensions) != 1:
            raise ValueError(f"all stages must have one dimension. Received: {sorted(dimensions)}")
        if self.spacing_mm is not None:
            if len(self.spacing_mm) != self.dimension or min(self.spacing_mm) <= 0:
                raise ValueError(
                    f"spacing_mm needs {self.dimension} positive values. "
                    f"Received: {self.spacing_mm}"
                )
            object.__setattr__(self, "spacing_mm", tuple(float(s) for s in self.spacing_mm))
        if self.initialization not in ("identity", "centers"):
            raise ValueError(
                f"initialization must be 'identity' or 'centers'. Received: {self.initialization!r}"
            )
        if self.image_shape is not None:
            object.__setattr__(self, "image_shape", tuple(int(n) for n in self.image_shape))

    @property
    def dimension(self) -> int:
        """Number of image axes."""
        return self.stages[0].dimension

    @property
    def network_spacing(self) -> tuple[float, ...]:
        """Voxel spacing that networks and losses reckon with, ITK order: mm, or 1 for voxels."""
        return self.spacing_mm or (1.0,) * self.dimension

    @property
    def network_shape(self) -> tuple[int | None, ...]:
        """Spatial shape that networks are traced for, array order: unknown sizes, as a rule."""
        return self.image_shape or (None,) * self.dimension

    @property
    def least_size(self) -> int:
        """Voxels that an image needs along every axis.

        Of fewer, the poolings of an affine stage leave nothing, and the control points of a thin
        plate spline are a single row.
        """
        needed = [1]
        for stage in self.stages:
            if isinstance(stage, AffineConfig):
                needed.append(stage.cell_vox)
            elif stage.transformer == "thin_plate_spline":
                needed.append(max(stage.control_point_spacing) + 1)
        return max(needed)

    def check_shape(self, shape: Sequence[int], name: str) -> None:
        """Refuse an image that is smaller than `least_size`.

        Args:
            shape: Spatial shape on the working grid, array order.
            name: What the message calls the image.

        Raises:
            ValueError: If an axis is too short.
        """
        for axis, count in zip("xyz", reversed(shape), strict=False):
            if count < self.least_size:
                where = "" if self.spacing_mm is None else " at the networks' working spacing"
                raise ValueError(
                    f"images must have at least {self.least_size} voxels along every axis{where}; "
                    f"{name} has {count} along {axis}"
                )

    def in_passes(self, passes: int) -> RegistrationConfig:
        """The same stages, every deformable one run so often.

        Affine ones keep their passes: a second one of those that have not been trained for it
        turns and stretches too far.

        Raises:
            ValueError: If a stage admits no further passes.
        """
        stages = tuple(
            replace(stage, passes=passes) if isinstance(stage, DeformableConfig) else stage
            for stage in self.stages
        )
        return replace(self, stages=stages)

    def with_affine_steps(self, steps: int) -> RegistrationConfig:
        """The same stages, every affine one followed by so many steps on the pair.

        Raises:
            ValueError: If no stage is affine.
        """
        if not any(isinstance(stage, AffineConfig) for stage in self.stages):
            raise ValueError("affine steps need an affine stage. Received: none of that kind")
        stages = tuple(
            replace(stage, steps=steps) if isinstance(stage, AffineConfig) else stage
            for stage in self.stages
        )
        return replace(self, stages=stages)

    def with_deformable_steps(self, steps: int) -> RegistrationConfig:
        """The same stages, every deformable one followed by so many steps on the pair.

        Stages that took none before take them on averages that leave four voxels to the distance of
        two control points. Those without a limit of their own (`pass_limit`) get the one below
        which a cubic B-spline cannot fold, where the network itself goes no further.

        Raises:
            ValueError: If no stage is deformable, or one admits no steps.
        """
        if not any(isinstance(stage, DeformableConfig) for stage in self.stages):
            raise ValueError(
                "deformable steps need a deformable stage. Received: affine ones alone"
            )
        stages = tuple(
            _stepping(stage, steps) if isinstance(stage, DeformableConfig) else stage
            for stage in self.stages
        )
        return replace(self, stages=stages)

    def unfolding(self) -> RegistrationConfig:
        """The same stages, every deformable one smoothed where its spline folds.

        Raises:
            ValueError: If no stage is deformable, or one is no B-spline of displacements.
        """
        if not any(isinstance(stage, DeformableConfig) for stage in self.stages):
            raise ValueError("unfolding needs a deformable stage. Received: affine ones alone")
        stages = tuple(
            replace(stage, unfold=True) if isinstance(stage, DeformableConfig) else stage
            for stage in self.stages
        )
        return replace(self, stages=stages)

    def deformable_only(self) -> RegistrationConfig:
        """The deformable stages alone, of images as they lie.

        Raises:
            ValueError: If there is none.
        """
        stages = tuple(stage for stage in self.stages if isinstance(stage, DeformableConfig))
        if not stages:
            raise ValueError("there must be a deformable stage. Received: affine ones alone")
        return replace(self, stages=stages, initialization="identity")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        kinds = {AffineConfig: "affine", DeformableConfig: "deformable"}
        return {
            "stages": [{"kind": kinds[type(stage)], **stage.to_dict()} for stage in self.stages],
            "spacing_mm": self.spacing_mm,
            "composition": self.composition,
            "initialization": self.initialization,
            "scaling": self.scaling.to_dict(),
            "image_shape": self.image_shape,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RegistrationConfig:
        """Inverse of `to_dict`; what is left out takes its default.

        Raises:
            ValueError: If a stage is of no known kind.
            TypeError: If there is a setting of another name.
        """
        settings = dict(values)
        kinds: dict[str, Any] = {"affine": AffineConfig, "deformable": DeformableConfig}
        stages = []
        for stage in settings.pop("stages", ()):
            options = dict(stage)
            kind = options.pop("kind", "deformable")
            if kind not in kinds:
                raise ValueError(f"kind must be one of {tuple(kinds)}. Received: {kind!r}")
            stages.append(kinds[kind](**options))
        scaling = settings.pop("scaling", None) or {}
        scaling = IntensityScaling(**{k: v and tuple(v) for k, v in scaling.items()})
        for name in ("spacing_mm", "image_shape"):
            if settings.get(name) is not None:
                settings[name] = tuple(settings[name])
        return cls(stages=tuple(stages), scaling=scaling, **settings)


def _stepping(stage: DeformableConfig, steps: int) -> DeformableConfig:
    """A deformable stage with so many steps on the pair, and settings for them if it has none."""
    if stage.steps or not steps:
        return replace(stage, steps=steps)
    limit = stage.pass_limit or FOLDING_LIMIT[stage.dimension]
    shrink = max(1, min(stage.control_point_spacing) // VOXELS_PER_CONTROL_POINT)
    return replace(stage, steps=steps, step_shrink=shrink, pass_limit=limit)


def build_registration(config: RegistrationConfig) -> MultiStageRegistration:
    """Networks of a configuration, untrained: every stage starts at the identity."""
    stages = [
        affine_stage(stage, spacing=config.network_spacing)
        if isinstance(stage, AffineConfig)
        else deformable_network(stage, image_shape=config.image_shape)
        for stage in config.stages
    ]
    return registration_of(stages, config)


def registration_of(
    networks: Sequence[keras.Model], config: RegistrationConfig
) -> MultiStageRegistration:
    """The networks in a row, run as a configuration says.

    Args:
        networks: One per stage of the configuration, trained or not.
        config: Settings that need no other weights: composition, passes and steps.
    """
    return MultiStageRegistration(
        networks,
        composition=config.composition,
        runs=[
            StageRun(stage.passes, steps=stage.steps, step_shrink=stage.step_shrink or stage.shrink)
            if isinstance(stage, AffineConfig)
            else StageRun(
                stage.passes,
                stage.pass_limit,
                steps=stage.steps,
                step_shrink=stage.step_shrink,
                step_bending=stage.step_bending,
                spacing_mm=config.network_spacing[::-1] if stage.steps else None,
                unfold=stage.unfold,
            )
            for stage in config.stages
        ],
    )
