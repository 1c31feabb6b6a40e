"""The work of a build in pieces that any process can do, in any order, more than once.

A task holds paths, never images. What it makes is put in place whole, and a task whose result is
there is done: that is what lets a build go on after any interruption.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from atlas.atlas_mean import PLANES, middle_planes
from atlas.averaging import UNCOVERED, move_member, write_moved
from atlas.dense_deformation import deformation_field_vox, dense_transform
from atlas.inverse_error import carried_back_error_mm
from atlas.label_fusion import MAX_LABEL, moved_label
from atlas.member import Member, read_member
from atlas.network_method import register_by_network, train_network
from atlas.registration_methods import (
    Regions,
    compared_mean,
    judged_mean,
    register_affine,
    register_by_elastix,
    register_by_steps,
    registration_grid,
    similarity,
    starts_around,
)
from atlas.settings import AtlasSettings, Stage
from atlas.subject_transform import (
    SubjectTransform,
    Warp,
    read_subject_transform,
    write_subject_transform,
)
from atlas.trained_method import register_by_trained
from registration.atomic_files import placing
from registration.dense_inverse import inverse_of_warps
from registration.geometry import ImageGrid, affine_transform
from registration.metrics import folding_fraction, jacobian_determinant
from registration.transforms import write_transform

NETWORK_POLISH = 0.5
"""Share of a stage's steps taken from the output of a network."""


@dataclass(frozen=True, slots=True)
class RegisterTask:
    """Register one subject to the mean of the round before.

    Args:
        subject_id: Who.
        member: Prepared subject.
        mean: Mean of the round before.
        before: The subject's transform after the round before.
        out: Where its new transform goes.
        stage: Degrees of freedom.
        stage_number: Place of the stage among all.
        regions: Where images are compared.
        settings: Of the build.
        is_first: Whether this is the first registration of all.
        network: Folder of the network trained in this round, or of the registration that was
            trained before, for these methods.
    """

    subject_id: str
    member: Path
    mean: Path
    before: Path
    out: Path
    stage: Stage
    stage_number: int
    regions: Regions
    settings: AtlasSettings
    is_first: bool = False
    network: Path | None = None


@dataclass(frozen=True, slots=True)
class NetworkTask:
    """Train the network of a round; see `train_network`."""

    folder: Path
    mean: Path
    members: tuple[tuple[str, Path, Path], ...]
    stage: Stage
    stage_number: int
    settings: AtlasSettings
    before: Path | None = None


@dataclass(frozen=True, slots=True)
class MoveTask:
    """Bring one subject onto the lattice of the atlas."""

    subject_id: str
    member: Path
    transform: Path
    grid: ImageGrid
    out: Path


@dataclass(frozen=True, slots=True)
class FinishTask:
    """Write what the atlas gives of one subject.

    Args:
        subject_id: Who.
        member: Prepared subject.
        transform: The final transform.
        grid: Lattice of the atlas.
        out: Folder of the atlas.
        facts: Receives what is known of the subject; written last, so it vouches for the rest.
        view: Receives planes for the report.
        displacement: Receives the displacement by the warps on the registration grid, mm.
        label: Copy of the subject's label image, if it has one.
    """

    subject_id: str
    member: Path
    transform: Path
    grid: ImageGrid
    out: Path
    facts: Path
    view: Path
    displacement: Path
    label: Path | None = None


def register(task: RegisterTask) -> None:
    """Find a subject's transform and write it, or write why there is none."""
    if task.out.exists():
        return
    before = read_subject_transform(task.before)
    try:
        found = _registered(task, before)
    except (RuntimeError, ValueError, np.linalg.LinAlgError) as error:
        reason = f"its registration failed ({type(error).__name__})"
        write_subject_transform(failed_transform(before, reason, task.stage_number), task.out)
        return
    member = read_member(task.member)
    mean = judged_mean(task.mean, task.regions.judged(task.stage))
    ncc, covered = similarity(mean, member, dense_transform(found, mean.grid))
    folding = 0.0
    if found.warps:
        # what earlier stages found was judged in their rounds; of a trained one all is new
        own = found if task.stage.trained else replace(found, warps=found.warps[-1:])
        field = deformation_field_vox(own, mean.grid)
        folding = folding_fraction(jacobian_determinant(field, spacing=(1.0, 1.0, 1.0)))
    facts = {
        "similarity": ncc,
        "covered": covered,
        "folding": folding,
        "stage": task.stage_number,
        "wide": member.volume.wide,
    }
    write_subject_transform(SubjectTransform(found.matrix, found.warps, facts), task.out)


def failed_transform(before: SubjectTransform, reason: str, stage: int) -> SubjectTransform:
    """The transform of the round before, marked as not found anew."""
    facts = {"similarity": 0.0, "covered": 0.0, "folding": 0.0, "stage": stage, "failed": reason}
    frozen, start = earlier_stages(before, stage)
    warps = (*frozen.warps, start) if start is not None else frozen.warps
    return SubjectTransform(before.matrix, warps, facts)


def earlier_stages(before: SubjectTransform, stage: int) -> tuple[SubjectTransform, Warp | None]:
    """What earlier stages found, and where this one left off: its warp with the update in it.

    Every round of a deformable stage leaves two warps: what was found, and the update of the
    mean shape. To first order both together are their sum, on one lattice.
    """
    if not before.warps or before.facts.get("stage") != stage:
        return SubjectTransform(before.matrix, before.warps), None
    *frozen, found, update = before.warps
    start = Warp(found.fixed_parameters, found.parameters + update.parameters, found.order)
    return SubjectTransform(before.matrix, tuple(frozen)), start


def train(task: NetworkTask) -> None:
    """Train the network of a round, or go on with it."""
    members = []
    for name, member, before in task.members:
        frozen, _ = earlier_stages(read_subject_transform(before), task.stage_number)
        members.append((name, member, frozen))
    train_network(
        task.folder,
        task.mean,
        members,
        task.stage,
        task.settings,
        before=task.before,
        report=lambda line: None,
    )


def move(task: MoveTask) -> None:
    """Write a subject's values on the lattice of the atlas."""
    if task.out.exists():
        return
    # warps live on the registration grid; between its voxels their field is straight enough
    coarse = registration_grid(task.grid)
    transform = dense_transform(read_subject_transform(task.transform), coarse)
    write_moved(move_member(read_member(task.member), transform, task.grid), task.out)


def finish(task: FinishTask) -> None:
    """Write transform, inverse, log-Jacobian map, moved labels and a view of one subject."""
    if all(path.exists() for path in (task.facts, task.view, task.displacement)):
        return
    found = read_subject_transform(task.transform)
    member = read_member(task.member)
    name = task.subject_id
    with placing(task.out / "transforms" / f"{name}.tfm") as part:
        write_transform(found.to_transform(), part)
    coarse = registration_grid(task.grid)
    deformation = deformation_field_vox(found, coarse)
    error_mm = _write_inverse(
        found, deformation, coarse, member, task.out / "transforms" / f"{name}.inverse.h5"
    )
    field = deformation
    if coarse != task.grid:
        field = deformation_field_vox(found, task.grid)
    # the determinant of a product: the affine map and the warps
    determinant = float(np.linalg.det(found.matrix[:3, :3])) * jacobian_determinant(
        field, spacing=(1.0, 1.0, 1.0)
    )
    logarithm = np.log(np.maximum(determinant, 1e-3)).astype(np.float32)
    _write_image(
        task.grid.to_image(logarithm), task.out / "jacobians" / f"{name}.log-jacobian.nii.gz"
    )
    transform = dense_transform(found, coarse)
    moved = move_member(member, transform, task.grid)
    if task.label is not None:
        _write_label(task, transform, moved)
    # the grids have the axes of space, so voxels times spacing are mm
    shifts_mm = (deformation[..., ::-1] * np.array(coarse.spacing)).astype(np.float32)
    with placing(task.displacement) as part, part.open("wb") as stream:
        np.save(stream, shifts_mm)
    _write_view(task, moved, field, logarithm)
    facts = {
        **found.facts,
        "inverse_error_mm": error_mm,
        "folding": folding_fraction(determinant),
        "log_jacobian_sd": float(logarithm.std()),
        "moved_mm": float(np.linalg.norm(shifts_mm, axis=-1).mean()),
    }
    write_subject_transform(SubjectTransform(found.matrix, (), facts), task.facts)


def _registered(task: RegisterTask, before: SubjectTransform) -> SubjectTransform:
    member = read_member(task.member)
    if task.stage.kind != "deformable":
        starts = [before.matrix]
        if task.is_first and task.regions.tight is not None and not member.volume.wide:
            starts = starts_around(before.matrix, task.regions.tight.radii_mm)
        return register_affine(task.mean, member, starts, task.stage, task.regions)
    if task.stage.trained:
        assert task.network is not None
        warps = register_by_trained(task.network, task.mean, member, before.matrix)
        return SubjectTransform(before.matrix, warps)
    mean = compared_mean(task.mean, task.stage.shrink)
    frozen, start = earlier_stages(before, task.stage_number)
    stage, weight = task.stage, task.settings.bending_weight
    if task.settings.method == "elastix":
        warp = register_by_elastix(mean, member, frozen, stage, weight)
    elif task.settings.method == "network" and task.network is not None:
        start = register_by_network(task.network, mean, member, frozen)
        polish = replace(stage, warm_steps=round(NETWORK_POLISH * stage.steps))
        warp = register_by_steps(mean, member, frozen, start, polish, bending_weight=weight)
    else:
        warp = register_by_steps(mean, member, frozen, start, stage, bending_weight=weight)
    return SubjectTransform(frozen.matrix, (*frozen.warps, warp))


def _write_inverse(
    found: SubjectTransform,
    deformation: NDArray[np.float64],
    grid: ImageGrid,
    member: Member,
    path: Path,
) -> float:
    """Write the map from subject to atlas; its error, see `carried_back_error_mm`.

    The affine part is exact. The warps are undone on the registration grid, where they live;
    there their dense field stands in for them, which is looked up a hundred times faster.
    """
    backward = affine_transform(np.linalg.inv(found.matrix))
    if not found.warps:
        with placing(path) as part:
            write_transform(backward, part)
        return 0.0
    # the subject's points go through the affine map first
    inverse = sitk.CompositeTransform([inverse_of_warps(deformation, grid), backward])
    with placing(path) as part:
        write_transform(inverse, part)
    seen = member.grid.to_image((member.volume.valid > 0).astype(np.uint8))
    return carried_back_error_mm(found.to_transform(), inverse, grid, seen)


def _write_image(image: sitk.Image, path: Path) -> None:
    with placing(path) as part:
        sitk.WriteImage(image, str(part), True)


def _write_label(task: FinishTask, transform: sitk.Transform, moved: NDArray[np.int16]) -> None:
    label = moved_label(sitk.ReadImage(str(task.label)), transform, task.grid, moved != UNCOVERED)
    kind = np.int16 if label.max() < MAX_LABEL else np.int32
    path = task.out / "labels" / f"{task.subject_id}.nii.gz"
    _write_image(task.grid.to_image(label.astype(kind)), path)


def _write_view(
    task: FinishTask,
    moved: NDArray[np.int16],
    field: NDArray[np.float64],
    logarithm: NDArray[np.float32],
) -> None:
    """Three middle planes of the moved subject, and of how it was deformed."""
    shown = np.where(moved == UNCOVERED, np.float32(np.nan), moved).astype(np.float32)
    planes: dict[str, Any] = dict(middle_planes(shown))
    planes |= {f"{name}_jacobian": plane for name, plane in middle_planes(logarithm).items()}
    for axis, name in enumerate(PLANES):
        in_plane = [other for other in range(3) if other != axis]
        planes[f"{name}_field"] = middle_planes(field[..., in_plane])[name].astype(np.float32)
    with placing(task.view) as part, part.open("wb") as stream:
        np.savez_compressed(stream, **planes)
