"""Everything that decides an atlas, besides the cohort."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from atlas.averaging import AverageKind
from atlas.member import Modality

MethodName = Literal["gradient", "network", "trained", "elastix"]
StageKind = Literal["rigid", "affine", "deformable"]
Pose = Literal["scanner", "principal"]

FORMAT = 2
"""Version of the settings of a build: from the second on, steps are Gauss-Newton steps."""

STEPS_OF_FORMAT_1 = 4
"""Optimizer steps of the first format that one Gauss-Newton step stands for."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Rounds with the same degrees of freedom.

    Args:
        kind: What may move.
        rounds: Most rounds; fewer where `stage_verdict` ends it.
        control_point_spacing_vox: Distance of control points, voxels of the registration
            grid; deformable stages only.
        steps: Gauss-Newton steps per subject and round; deformable stages only.
        warm_steps: The same in rounds that begin with the last round's result; `steps` if 0.
        shrink: Voxels of the registration grid per voxel at which images are compared: what
            moves coarsely is seen well enough coarsely, eight times faster.
        focused: Compare only what the tight scans of a mixed cohort show.
        trained: Take all control points from one pass of a trained registration, which also
            decides their distance, in place of steps; deformable stages only.
    """

    kind: StageKind
    rounds: int
    control_point_spacing_vox: float = 0.0
    steps: int = 0
    warm_steps: int = 0
    shrink: int = 1
    focused: bool = False
    trained: bool = False

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"a stage needs at least one round. Received: {self.rounds}")
        needs_spacing = self.kind == "deformable" and not self.trained
        if needs_spacing != (self.control_point_spacing_vox > 0):
            raise ValueError(
                "control_point_spacing_vox belongs to deformable stages, and they need it, unless "
                "a trained registration has its own. "
                f"Received: {self.control_point_spacing_vox} for {self.name!r}"
            )
        if self.trained and self.kind != "deformable":
            raise ValueError(f"trained belongs to deformable stages. Received: {self.kind!r}")

    @property
    def name(self) -> str:
        """Name for tables."""
        if self.trained:
            return "deformable, trained"
        if self.kind == "deformable":
            return f"deformable, {self.control_point_spacing_vox:g} voxels"
        return f"{self.kind}, focused" if self.focused else self.kind


_DEFORMABLE = (
    Stage("deformable", 3, control_point_spacing_vox=16.0, steps=12, warm_steps=6, shrink=2),
    Stage("deformable", 3, control_point_spacing_vox=8.0, steps=10, warm_steps=5, shrink=2),
    Stage("deformable", 4, control_point_spacing_vox=4.0, steps=8, warm_steps=4),
)

DEFAULT_STAGES = (Stage("rigid", 1), Stage("affine", 4), *_DEFORMABLE)
"""Degrees of freedom grow: six, twelve, then B-splines of ever closer control points."""

CT_STAGES = (
    Stage("rigid", 1),
    Stage("affine", 4),
    Stage("affine", 5, focused=True),
    *_DEFORMABLE,
)
"""The same for CT: where tight cardiac scans are among chests, affine maps end on the heart."""

TRAINED_STAGES = (Stage("deformable", 2, trained=True),)
"""One pass of trained networks on every subject, and a second one to the better mean."""


def default_stages(modality: Modality, method: MethodName = "gradient") -> tuple[Stage, ...]:
    """Stages for a kind of images and what finds their deformations."""
    stages = CT_STAGES if modality == "ct" else DEFAULT_STAGES
    if method != "trained":
        return stages
    before = (stage for stage in stages if stage.kind != "deformable")
    return (*before, *TRAINED_STAGES)


@dataclass(frozen=True, slots=True)
class AtlasSettings:
    """How an atlas is built.

    Args:
        modality: `"ct"` for HU, `"other"` for arbitrary intensities.
        spacing_mm: Edge of the atlas' cubic voxels.
        start: `"mean"` of the subjects laid middle on middle, `"medoid"` for the subject most
            like the others, or the id of a subject.
        method: What finds the deformable stages: `"gradient"` for Gauss-Newton steps on each
            subject, a `"network"` trained on the cohort, a registration `"trained"` before on
            images like these, or `"elastix"`.
        stages: Rounds and degrees of freedom, in order.
        average: How the moved subjects are averaged.
        shape_step: Share of the mean displacement that a deformable round takes out of the
            atlas; the last round of every stage takes out all of it.
        sharpen: Weight of an unsharp mask on every average; 0 for none.
        pose: `"scanner"` keeps the mean pose of the subjects, `"principal"` turns the atlas to
            its axes of inertia, so that it does not follow a pose all subjects share.
        tolerance: Gain in similarity below which a stage may be over; see `stage_verdict`.
        held_out_share: Share of the subjects that are not averaged but judged by.
        outlier_z: Robust z-score of the similarity below which a subject is left out.
        bending_weight: Weight of the bending energy beside the correlation, in squared
            distances of the control points, so that one number suits every stage.
        network_steps: Training steps of the network in every round; the first takes three
            times as many.
        seed: Of the split and of networks.
        registration_sha256: Digest of the description of the trained registration, for that
            method; empty for the others.
    """

    modality: Modality
    spacing_mm: float
    start: str = "mean"
    method: MethodName = "gradient"
    stages: tuple[Stage, ...] = field(default=DEFAULT_STAGES)
    average: AverageKind = "mean"
    shape_step: float = 0.25
    sharpen: float = 0.0
    pose: Pose = "scanner"
    tolerance: float = 0.002
    held_out_share: float = 0.1
    outlier_z: float = 5.0
    bending_weight: float = 0.02
    network_steps: int = 150
    seed: int = 0
    registration_sha256: str = ""

    def __post_init__(self) -> None:
        if not self.spacing_mm > 0:
            raise ValueError(f"spacing_mm must be positive. Received: {self.spacing_mm}")
        if not self.stages:
            raise ValueError("stages must hold at least one stage. Received: none")
        if not 0.0 < self.shape_step <= 1.0:
            raise ValueError(f"shape_step must lie in (0, 1]. Received: {self.shape_step}")
        if not 0.0 <= self.held_out_share < 0.9:
            raise ValueError(
                f"held_out_share must lie in [0, 0.9). Received: {self.held_out_share}"
            )
        kinds = [stage.kind for stage in self.stages]
        order = {"rigid": 0, "affine": 1, "deformable": 2}
        if kinds != sorted(kinds, key=order.__getitem__):
            raise ValueError(
                f"stages must go from rigid to affine to deformable. Received: {kinds}"
            )

        trained = self.method == "trained"
        if any(s.trained != trained for s in self.stages if s.kind == "deformable"):
            raise ValueError(
                "trained stages belong to the method of that name. "
                f"Received: {self.method!r} with {[stage.name for stage in self.stages]}"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], written_as: int = FORMAT) -> AtlasSettings:
        """Inverse of `to_dict`; what is left out takes its default.

        Args:
            values: Plain values.
            written_as: Format that they were written in.
        """
        stages = tuple(Stage(**stage) for stage in values["stages"])
        if written_as == 1:
            stages = tuple(
                replace(
                    stage,
                    steps=-(-stage.steps // STEPS_OF_FORMAT_1),
                    warm_steps=-(-stage.warm_steps // STEPS_OF_FORMAT_1),
                )
                for stage in stages
            )
        return cls(**{**values, "stages": stages})

    @property
    def most_rounds(self) -> int:
        """Rounds at which the build ends in any case."""
        return sum(stage.rounds for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)
