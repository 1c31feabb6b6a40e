"""From a folder of annotated CT to trained scoring weights in a model folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import SimpleITK as sitk

from calcium.heart_field import HeartEllipsoid
from calcium.labeled_scan import LabeledScan
from calcium.simulation.anatomy import Anatomy
from calcium.simulation.annotations import component_masks, read_annotations
from calcium.simulation.background import Background
from calcium.simulation.generator import GeneratorOptions, simulate_scan
from calcium.training_data import (
    LatticeScan,
    lattice_scan,
    load_lattice_scan,
    save_lattice_scan,
)
from pipelines.discovery import find_series
from pipelines.phantoms import make_phantom
from pipelines.reading import read_scan
from registration.geometry import ImageGrid, affine_matrix

if TYPE_CHECKING:
    from registration.alignment import ReferenceAligner

LOGGER = logging.getLogger(__name__)

FIRST_TRAINING_PHANTOM = 1_000_000
"""Phantom seeds from here on are for training; benchmarks stay below."""


SCORING_OFFSET_MM = (1.5, -13.0, -4.0)
"""From the middle of the alignment's region to that of seven annotated heart boxes [mm]."""

SCORING_RADII_MM = (74.0, 66.0, 64.0)
"""Half axes that hold 95 % of the annotated coronary courses within 1.2 radii [mm]."""


@dataclass(frozen=True, slots=True)
class ScoringRecipe:
    """Everything that decides the weights, besides the scans.

    Args:
        network: `"additive"` or `"plain"`.
        widths: Kernels per level.
        simulated: Semi-synthetic scans per background.
        phantoms: Phantoms, half of each kind.
        steps: Training steps.
        batch_size: Crops per step.
        learning_rate: Peak of the schedule.
        seed: Seed of data and weights.
        hold_out: Names of backgrounds kept for validation.
    """

    network: str = "additive"
    widths: tuple[int, ...] = (12, 24, 40, 56)
    simulated: int = 45
    phantoms: int = 80
    steps: int = 3000
    batch_size: int = 16
    learning_rate: float = 2e-3
    seed: int = 20261123
    hold_out: tuple[str, ...] = field(default=())


def load_aligner(folder: Path) -> tuple[ReferenceAligner, HeartEllipsoid]:
    """Aligner of a model that may have no scoring yet, and the heart to score in.

    The ellipsoid of the alignment says where images are compared; courses of coronary
    arteries reach further forward, so scoring has an ellipsoid of its own.
    """
    from pipelines.model import ALIGNMENT_WEIGHTS_NAME, ATLAS_NAME, read_description
    from registration.alignment import ReferenceAligner
    from registration.ellipsoid import Ellipsoid

    description = read_description(folder)
    region = Ellipsoid.from_dict(description["heart"])
    aligner = ReferenceAligner.from_settings(
        sitk.ReadImage(str(folder / ATLAS_NAME)),
        region,
        description["alignment"],
        folder / ALIGNMENT_WEIGHTS_NAME,
    )
    x, y, z = (float(a) + b for a, b in zip(region.center_mm, SCORING_OFFSET_MM, strict=True))
    return aligner, HeartEllipsoid((x, y, z), SCORING_RADII_MM)


def read_backgrounds(
    folders: Sequence[Path], annotations: Path, aligner: ReferenceAligner
) -> Iterator[Background]:
    """Annotated scans of some folders, aligned to the atlas.

    A scan belongs to the annotation whose name is part of its path.

    Args:
        folders: Folders, archives or files with CT.
        annotations: Folder of annotation files.
        aligner: Finds the heart.
    """
    known = read_annotations(annotations)
    for candidate in find_series(list(folders)):
        path = str(candidate.files[0]) + candidate.source
        names = [name for name in known if name in path]
        if not names:
            continue
        scan = read_scan(candidate)
        volume = sitk.GetArrayFromImage(scan.image)
        coronary, unknown = component_masks(known[names[0]], volume)
        matrix = affine_matrix(aligner.align(scan.image).atlas_to_scan)
        yield Background(
            names[0],
            volume,
            scan.grid,
            matrix,
            Anatomy.from_annotation(known[names[0]]),
            coronary,
            unknown,
            scan.acquisition.slice_thickness_mm or scan.slice_spacing_mm,
        )


def simulated_scans(
    background: Background, heart: HeartEllipsoid, recipe: ScoringRecipe, cache: Path
) -> Iterator[LatticeScan]:
    """Semi-synthetic scans of one background, from the cache where it has them."""
    patient = crc32(background.name.encode())
    for number in range(recipe.simulated):
        path = cache / f"{background.name}-{recipe.seed}-{number:04d}.npz"
        if not path.exists():
            options = GeneratorOptions(spline_order=3 if number % 3 == 0 else 1)
            scan = simulate_scan(background, heart, (recipe.seed, patient, number), options)
            save_lattice_scan(path, lattice_scan(scan, heart))
        yield load_lattice_scan(path)


def phantom_scans(
    aligner: ReferenceAligner, heart: HeartEllipsoid, recipe: ScoringRecipe, cache: Path
) -> Iterator[LatticeScan]:
    """Phantoms, aligned as scans are, from the cache where it has them."""
    for number in range(recipe.phantoms):
        seed = FIRST_TRAINING_PHANTOM + number
        path = cache / f"phantom-{seed}.npz"
        if not path.exists():
            kind = "cardiac" if number % 2 else "chest"
            save_lattice_scan(path, lattice_scan(labeled_phantom(kind, seed, aligner), heart))
        yield load_lattice_scan(path)


def labeled_phantom(kind: str, seed: int, aligner: ReferenceAligner) -> LabeledScan:
    """A phantom with its coronary calcium known."""
    phantom = make_phantom(kind, seed)
    return LabeledScan(
        f"phantom-{seed}",
        f"phantom-{seed}",
        kind,
        sitk.GetArrayFromImage(phantom.image),
        ImageGrid.from_image(phantom.image),
        affine_matrix(aligner.align(phantom.image).atlas_to_scan),
        sitk.GetArrayFromImage(phantom.calcium_mask) > 0,
    )


def train_scoring(
    scans: Sequence[LatticeScan], recipe: ScoringRecipe, folder: Path
) -> tuple[Path, dict[str, float]]:
    """Train one scoring network, or go on where a killed training stopped.

    Args:
        scans: Training and held-out scans, told apart by their group.
        recipe: What to train.
        folder: Receives checkpoint, curve and weights.

    Returns:
        Path of the weights, and the last validation (empty without held-out scans).
    """
    import keras

    from calcium.networks.predictor import build_network
    from calcium.training import (
        TrainingOptions,
        attention_loss,
        regression_loss,
        train_network,
    )
    from calcium.training_data import BLOCK_SIZES, CROP_SIZE, CropSampler

    keras.utils.set_random_seed(recipe.seed % 2**31)
    network = build_network(recipe.network, recipe.widths)
    additive = recipe.network == "additive"
    sampler = CropSampler(
        [s for s in scans if s.group not in recipe.hold_out],
        seed=recipe.seed,
        batch_size=recipe.batch_size,
        crop_size=CROP_SIZE if additive else 256,
        block_sizes=BLOCK_SIZES if additive else (256,),
    )
    held_out = [s for s in scans if s.group in recipe.hold_out]
    last: dict[str, float] = {}

    def evaluate(trained: Any, step: int) -> dict[str, float]:
        last.update(validate(trained, held_out, recipe.network))
        LOGGER.info("step %d: %s", step, {k: round(v, 3) for k, v in last.items()})
        return last

    weights = train_network(
        network,
        sampler,
        attention_loss if additive else regression_loss,
        folder,
        TrainingOptions(steps=recipe.steps, learning_rate=recipe.learning_rate),
        evaluate=evaluate if held_out else None,
    )
    return weights, last


def validate(network: Any, scans: Sequence[LatticeScan], name: str) -> dict[str, float]:
    """Agreement of a network on held-out lattice scans."""
    from calcium.validation import (
        additive_outcome,
        lattice_attention,
        regressed_outcome,
        summary,
    )

    def predict(inputs: Any) -> Any:
        return np.asarray(network(inputs, training=False))

    if name == "plain":
        return summary([regressed_outcome(predict, scan) for scan in scans])
    return summary([additive_outcome(s, lattice_attention(predict, s), "lesion") for s in scans])


def model_sections(
    recipe: ScoringRecipe,
    heart: HeartEllipsoid,
    scans: Sequence[str],
    validation: Mapping[str, float],
    command: str,
) -> dict[str, Any]:
    """The sections of `model.json` that a scoring training sets.

    Args:
        recipe: What was trained.
        heart: Ellipsoid that the network was trained with.
        scans: Names of the backgrounds.
        validation: Agreement on held-out scans.
        command: The command that was given.
    """
    return {
        "scoring": {
            "network": recipe.network,
            "widths": list(recipe.widths),
            "decision": "lesion",
            "preset": "agatston-1990",
            "heart": {"center_mm": list(heart.center_mm), "radii_mm": list(heart.radii_mm)},
        },
        "training": {
            "scoring": {
                "command": command,
                "recipe": {
                    "seed": recipe.seed,
                    "steps": recipe.steps,
                    "batch_size": recipe.batch_size,
                    "learning_rate": recipe.learning_rate,
                    "simulated_per_background": recipe.simulated,
                    "phantoms": recipe.phantoms,
                },
                "scans": list(scans),
                "held_out": list(recipe.hold_out),
                "metrics": {k: round(v, 4) for k, v in validation.items()},
            }
        },
    }


def train_model(
    folders: Sequence[Path],
    annotations: Path,
    model: Path,
    recipe: ScoringRecipe,
    work: Path,
) -> dict[str, float]:
    """Simulate, train, and put weights and settings into a model folder.

    Args:
        folders: Folders, archives or files with CT.
        annotations: Folder of annotation files.
        model: Model folder that holds atlas and alignment.
        recipe: What to train.
        work: Folder of the cache and the checkpoints.

    Returns:
        The last validation, empty without held-out scans.

    Raises:
        ValueError: If no scan has an annotation.
    """
    import shutil

    from pipelines.model import SCORING_WEIGHTS_NAME, update_description

    aligner, heart = load_aligner(model)
    cache = work / "scans"
    cache.mkdir(parents=True, exist_ok=True)
    scans: list[LatticeScan] = []
    for background in read_backgrounds(folders, annotations, aligner):
        LOGGER.info("simulating %d scans in %s", recipe.simulated, background.name)
        scans.extend(simulated_scans(background, heart, recipe, cache))
    if not scans:
        raise ValueError(f"no scan has an annotation of its name. Received: {annotations}")
    scans.extend(phantom_scans(aligner, heart, recipe, cache))
    weights, validation = train_scoring(scans, recipe, work / recipe.network)
    shutil.copyfile(weights, model / SCORING_WEIGHTS_NAME)
    command = f"calcium-score train scoring --network {recipe.network} --steps {recipe.steps}"
    names = sorted({scan.group for scan in scans if not scan.group.startswith("phantom")})
    update_description(model, model_sections(recipe, heart, names, validation, command))
    return validation
