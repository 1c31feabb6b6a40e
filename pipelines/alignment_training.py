"""From a cohort of chest CT to the atlas and the alignment network of a model folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from atlas.results import RECORD_NAME
from pipelines.model import ALIGNMENT_WEIGHTS_NAME, ATLAS_NAME, update_description
from registration.alignment_volume import AlignmentVolume
from registration.file_digest import file_sha256
from registration.geometry import ImageGrid, affine_matrix, affine_transform
from registration.preprocessing import prepare_volume

if TYPE_CHECKING:
    from pipelines.scan import Scan
    from registration.alignment_batches import AlignmentExample
    from registration.geometry import Ellipsoid

ATLAS_GRID = ImageGrid.centered((134, 108, 122), (3.0, 3.0, 3.0), (-30.0, 30.0, 24.0))
"""Lattice of the written atlas; its origin is the middle of the heart."""
ATLAS_PADDING_HU = -2048
"""Value of atlas voxels that too few scans cover [HU]; read as padding, as in any CT."""
_TIGHT_OFFSET_MM = [0.0, 0.0, 12.0]
_LEAST_MEMBERS = 3
_LEAST_PHANTOM_SIMILARITY = 0.75


@dataclass(frozen=True, slots=True)
class AlignmentRecipe:
    """What decides the outcome of `train_alignment`, apart from the scans.

    Args:
        steps: Gradient steps of the network.
        seed: Of weights and augmentation.
        phantoms: Synthetic scans added to the cohort, cardiac and chest in turn.
        phantom_seed: Seed of the first of them.
        hold_out: Names of scans that choose the weights instead of teaching them.
        atlas: Folder of an atlas of chest CT, as `calcium-score atlas build` writes it, that is
            aligned to; by default an affine mean of the scans is built.
    """

    steps: int = 1500
    seed: int = 0
    phantoms: int = 10
    phantom_seed: int = 900_000
    hold_out: tuple[str, ...] = ()
    atlas: Path | None = None


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    volume: AlignmentVolume
    read: Callable[[], Scan]


def train_alignment(
    scans: Sequence[Path],
    out: Path,
    work: Path,
    recipe: AlignmentRecipe,
    *,
    report: Callable[[str], None] = print,
) -> dict[str, float]:
    """Build the atlas, train the network, write both into a model folder.

    Args:
        scans: Folders or files with non-contrast CT of whole chests.
        out: Model folder; receives atlas, weights, and the sections `heart`, `alignment`
            and `training` of `model.json`.
        work: Folder for the checkpoint and the curves; a rerun goes on there.
        recipe: Settings.
        report: Called with lines of plain text.

    Returns:
        Measures of the result by name, mm.

    Raises:
        ValueError: If fewer than two scans are left to build the atlas from, a held-out
            name is not among the scans, or the given atlas cannot be used.
    """
    members = [_prepared(*item) for item in _read_all(scans, report)]
    unknown = set(recipe.hold_out) - {member.name for member in members}
    if unknown:
        raise ValueError(f"hold_out must name scans of the cohort. Received: {sorted(unknown)}")
    teaching = [member for member in members if member.name not in recipe.hold_out]
    out.mkdir(parents=True, exist_ok=True)
    known: dict[str, NDArray[np.float64]] = {}
    similarities: dict[str, float] = {}
    if recipe.atlas is None:
        heart, known, similarities = _build_atlas(teaching, out / ATLAS_NAME, report)
        settings = _offsets(teaching, known)
    else:
        heart, settings = take_atlas(recipe.atlas, out / ATLAS_NAME)
    examples = _examples(members, known, similarities, out / ATLAS_NAME, heart, settings, report)
    examples += _phantom_examples(recipe, out / ATLAS_NAME, heart, settings, report)
    validation = [example for example in examples if example.name in recipe.hold_out]
    training = [example for example in examples if example.name not in recipe.hold_out]
    metrics = _train_network(training, validation, out, work, recipe, heart, settings, report)
    metrics["atlas_similarity"] = float(np.mean([similarities[m.name] for m in teaching]))
    _describe(out, recipe, heart, settings, training, validation, metrics)
    return metrics


def _read_all(
    scans: Sequence[Path], report: Callable[[str], None]
) -> list[tuple[str, Callable[[], Scan]]]:
    """Names and readers of every series; unusable ones are reported and left out."""
    from pipelines.discovery import SeriesCandidate, find_series
    from pipelines.reading import read_scan
    from pipelines.reasons import UnusableSeries

    readers: list[tuple[str, Callable[[], Scan]]] = []
    for candidate in find_series(scans):
        name = Path(candidate.source).name.split(".")[0]

        def read(candidate: SeriesCandidate = candidate) -> Scan:
            return read_scan(candidate)

        try:
            read()
        except UnusableSeries as reason:
            report(f"{name} is left out: {reason}")
            continue
        readers.append((name, read))
    return readers


def _prepared(name: str, read: Callable[[], Scan]) -> _Member:
    return _Member(name, prepare_volume(read().image), read)


def _build_atlas(
    members: Sequence[_Member], path: Path, report: Callable[[str], None]
) -> tuple[Ellipsoid, dict[str, NDArray[np.float64]], dict[str, float]]:
    """Iterate the mean, move its origin into the heart, write it at 3 mm.

    Returns:
        The heart in the atlas, and matrix and similarity of every scan by name.
    """
    from atlas.affine_mean import AffineMeanBuilder
    from atlas.chest_rounds import BUILDING_GRID, CHEST_ROUNDS, HEART
    from atlas.coverage_mean import CoverageMean
    from registration.geometry import Ellipsoid

    builder = AffineMeanBuilder(BUILDING_GRID, least_members=_LEAST_MEMBERS, report=report)
    mean = builder.build([member.volume for member in members], CHEST_ROUNDS)
    shift = np.eye(4)
    shift[:3, 3] = HEART.center_mm
    transforms = [matrix @ shift for matrix in mean.transforms]
    fine = CoverageMean(ATLAS_GRID)
    for member, matrix in zip(members, transforms, strict=True):
        valid = member.volume.grid.to_image(member.volume.valid)
        fine.add_image(member.read().image, valid, affine_transform(matrix))
    covered = fine.coverage >= min(_LEAST_MEMBERS, len(members))
    _write_atlas(np.where(covered, fine.mean(), ATLAS_PADDING_HU), path)
    names = [member.name for member in members]
    return (
        Ellipsoid((0.0, 0.0, 0.0), HEART.radii_mm),
        dict(zip(names, transforms, strict=True)),
        dict(zip(names, mean.similarities, strict=True)),
    )


def take_atlas(atlas: Path, path: Path) -> tuple[Ellipsoid, dict[str, Any]]:
    """Bring the mean of an atlas folder to the lattice of models, its origin into the heart.

    Args:
        atlas: Folder that `calcium-score atlas build` wrote from chest CT.
        path: Receives the image.

    Returns:
        The heart in the written image, and where it lies from the start points of scans.

    Raises:
        ValueError: If the folder holds no finished atlas, or not one of whole chests.
    """
    from atlas.chest_rounds import HEART
    from registration.geometry import Ellipsoid

    source = atlas / ATLAS_NAME
    if not source.is_file():
        raise ValueError(f"{atlas} holds no finished atlas: there is no {ATLAS_NAME}")
    mean = sitk.ReadImage(str(source), sitk.sitkFloat32)
    try:
        middle = heart_middle(mean)
    except ValueError as error:
        raise ValueError(f"{source} {error}") from None
    shift = sitk.TranslationTransform(3, middle)
    reference = ATLAS_GRID.empty_image(sitk.sitkUInt8)
    seen = sitk.Cast(mean > ATLAS_PADDING_HU, sitk.sitkFloat32)
    covered = sitk.Resample(seen, reference, shift, sitk.sitkLinear, 0.0)
    # linear interpolation must not mix padding into tissue
    filled = sitk.Maximum(mean, -1024.0)
    hu = sitk.Resample(filled, reference, shift, sitk.sitkLinear, -1024.0)
    inside = sitk.GetArrayFromImage(covered) > 0.99
    _write_atlas(np.where(inside, sitk.GetArrayFromImage(hu), ATLAS_PADDING_HU), path)
    # wide scans are laid by the centroid of their lungs, as this atlas is
    settings = {"tight_offset_mm": _TIGHT_OFFSET_MM, "wide_offset_mm": list(HEART.center_mm)}
    return Ellipsoid((0.0, 0.0, 0.0), HEART.radii_mm), settings


def heart_middle(mean: sitk.Image) -> tuple[float, float, float]:
    """Where the middle of the heart lies in a mean of whole chests, LPS mm.

    Raises:
        ValueError: If it does not show both lungs, beside whose centroid the heart is.
    """
    from atlas.chest_rounds import HEART

    volume = prepare_volume(mean)
    if not volume.wide:
        raise ValueError("must show both lungs, as whole chests do")
    x, y, z = np.add(volume.start_mm, HEART.center_mm).tolist()
    return x, y, z


def _write_atlas(hu: NDArray[np.floating], path: Path) -> None:
    """Write attenuation on `ATLAS_GRID`, or `ATLAS_PADDING_HU`, by atomic rename."""
    hu = np.where(hu == ATLAS_PADDING_HU, hu, np.clip(hu, -1024, 1500))
    partial = path.with_name("partial." + path.name)
    sitk.WriteImage(ATLAS_GRID.to_image(np.rint(hu).astype(np.int16)), str(partial), True)
    os.replace(partial, path)


def _offsets(
    members: Sequence[_Member], transforms: Mapping[str, NDArray[np.float64]]
) -> dict[str, Any]:
    """Where the heart lies from the start point, on average over the cohort."""
    wide = [
        transforms[member.name][:3, 3] - member.volume.start_mm
        for member in members
        if member.volume.wide
    ]
    settings: dict[str, Any] = {"tight_offset_mm": _TIGHT_OFFSET_MM}
    settings["wide_offset_mm"] = np.round(np.mean(wide, axis=0), 1).tolist() if wide else [0.0] * 3
    return settings


def _examples(
    members: Sequence[_Member],
    known: Mapping[str, NDArray[np.float64]],
    similarities: dict[str, float],
    atlas: Path,
    heart: Ellipsoid,
    settings: dict[str, Any],
    report: Callable[[str], None],
) -> list[AlignmentExample]:
    """Every scan with its place in the atlas; where it is not known, found without the network.

    What is found adds to `similarities`.
    """
    from registration.alignment import ReferenceAligner
    from registration.alignment_batches import AlignmentExample

    aligner = ReferenceAligner(sitk.ReadImage(str(atlas)), heart, **settings)
    examples = []
    for member in members:
        matrix = known.get(member.name)
        if matrix is None:
            alignment = aligner.align_volume(member.volume)
            similarities[member.name] = alignment.similarity
            report(f"{member.name}, aligned to the atlas: similarity {alignment.similarity:.3f}")
            matrix = affine_matrix(alignment.atlas_to_scan)
        examples.append(AlignmentExample.from_volume(member.name, member.volume, matrix))
    return examples


def _phantom_examples(
    recipe: AlignmentRecipe,
    atlas: Path,
    heart: Ellipsoid,
    settings: dict[str, Any],
    report: Callable[[str], None],
) -> list[AlignmentExample]:
    """Synthetic scans that agree with the atlas well enough to teach anything."""
    from pipelines.phantoms import make_phantom
    from registration.alignment import ReferenceAligner
    from registration.alignment_batches import AlignmentExample

    aligner = ReferenceAligner(sitk.ReadImage(str(atlas)), heart, **settings)
    examples = []
    for number in range(recipe.phantoms):
        kind, seed = ("cardiac", "chest")[number % 2], recipe.phantom_seed + number
        volume = prepare_volume(make_phantom(kind, seed).image)
        alignment = aligner.align_volume(volume)
        name = f"phantom-{kind}-{seed}"
        report(f"{name}: similarity {alignment.similarity:.3f}")
        if alignment.similarity >= _LEAST_PHANTOM_SIMILARITY:
            matrix = affine_matrix(alignment.atlas_to_scan)
            examples.append(AlignmentExample.from_volume(name, volume, matrix))
    return examples


def _train_network(
    training: list[AlignmentExample],
    validation: list[AlignmentExample],
    out: Path,
    work: Path,
    recipe: AlignmentRecipe,
    heart: Ellipsoid,
    settings: dict[str, Any],
    report: Callable[[str], None],
) -> dict[str, float]:
    """Train, write the weights, and complete the settings."""
    from registration.alignment_training import AlignmentTrainer, AlignmentTrainingPlan

    plan = AlignmentTrainingPlan(steps=recipe.steps, seed=recipe.seed)
    volume = prepare_volume(sitk.ReadImage(str(out / ATLAS_NAME)))
    trainer = AlignmentTrainer(volume, heart, training, validation, work, plan=plan, report=report)
    network = trainer.train()
    partial = out / f"partial.{ALIGNMENT_WEIGHTS_NAME}"
    network.save_weights(partial)
    os.replace(partial, out / ALIGNMENT_WEIGHTS_NAME)
    settings.update(
        cube_size=plan.cube_size,
        cube_spacing_mm=plan.cube_spacing_mm,
        filters=list(plan.filters),
        dense_units=list(plan.dense_units),
    )
    metrics = {"training_error_mm": trainer.last_training_error_mm}
    if validation:
        metrics["left_out_error_mm"] = trainer.best_error_mm
    return metrics


def _origin(atlas: Path) -> dict[str, Any]:
    """How an atlas was built, as far as its folder says, and its digest; ids of scans stay out."""
    record = atlas / RECORD_NAME
    known = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    told = ("program", "settings", "rounds", "subjects_averaged")
    origin = {key: known[key] for key in told if key in known}
    command = "calcium-score atlas build"
    return {"command": command} | origin | {"sha256": file_sha256(atlas / ATLAS_NAME)}


def _describe(
    out: Path,
    recipe: AlignmentRecipe,
    heart: Ellipsoid,
    settings: dict[str, Any],
    training: Sequence[AlignmentExample],
    validation: Sequence[AlignmentExample],
    metrics: dict[str, float],
) -> None:
    sections: dict[str, Any] = {
        "heart": heart.to_dict(),
        "alignment": settings,
        "training": {
            "alignment": {
                "command": "calcium-score train alignment",
                "recipe": asdict(recipe) | {"atlas": recipe.atlas and recipe.atlas.name},
                "scans": [example.name for example in training],
                "held_out": [example.name for example in validation],
                "metrics": {name: round(value, 4) for name, value in metrics.items()},
            }
        },
    }
    if recipe.atlas is not None:
        sections["training"]["atlas"] = _origin(recipe.atlas)
    update_description(out, sections)
