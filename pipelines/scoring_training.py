"""From a folder of annotated CT to trained scoring weights in a model folder."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calcium.counting_rule import CountingRule
from calcium.lattice_scan import LatticeScan
from calcium.networks.slice_inputs import INPUT_CHANNELS
from calcium.training_data import (
    ANYWHERE_SHARE,
    BLOCK_SIZES,
    CORONARY_SHARE,
    CROP_SIZE,
    CropSampler,
    shared_weights,
)
from pipelines.scoring_recipe import ScoringRecipe
from pipelines.scoring_scans import (
    FIRST_TRAINING_PHANTOM,
    FIRST_VALIDATION_PHANTOM,
    PHANTOM_GROUP,
    Task,
    cached_scans,
    find_backgrounds,
    load_aligner,
    phantom_tasks,
    simulated_tasks,
    unchanged_task,
    vessel_atlas,
)
from registration.geometry import Ellipsoid

if TYPE_CHECKING:
    from calcium.validation import ScanOutcome

LOGGER = logging.getLogger(__name__)

HELD_OUT_NAME = "held_out.csv"
"""Scores of scans that took part neither in the training nor in any choice."""

ATTENTION_NAME = "attention.weights.h5"
"""Weights of a network that drew the anatomy in its training, without that part."""

JOINED_NAME = "joined.weights.h5"
"""Weights of all members in one file."""


@dataclass(frozen=True, slots=True)
class Validation:
    """How a network does on scans that it was not trained on.

    Args:
        metrics: Agreement by name, empty without scans.
        rule: Attention that lesions need to count, fitted to these scans.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    rule: CountingRule = field(default_factory=CountingRule)


def train_scoring(
    scans: Sequence[LatticeScan],
    recipe: ScoringRecipe,
    folder: Path,
    *,
    validation: Sequence[LatticeScan] = (),
) -> tuple[Path, Validation]:
    """Train the members of a scoring network, or go on where a killed training stopped.

    Args:
        scans: Training scans, and those of held-out groups.
        recipe: What to train.
        folder: Receives checkpoint, curve and weights; those of further members in folders of
            their own.
        validation: Further scans, to which the counting rule is fitted.

    Returns:
        Path of the weights, and how they do on the scans the rule was fitted to: those of
        `validation`, or held-out ones without any. Scores of the latter go to `HELD_OUT_NAME`.
    """
    from calcium.networks.attention_unet import join_members

    training = [s for s in scans if s.group not in recipe.hold_out]
    left_out = [s for s in scans if s.group in recipe.hold_out]
    # whoever is left out must not choose the counting rule either, if anybody else can
    judges = list(validation) or left_out
    trained = []
    for number in range(recipe.members):
        own = folder / f"member-{number + 1}" if number else folder
        trained.append(_train_member(number, training, judges, recipe, own))
    networks = [network for network, _ in trained]
    network, weights = networks[0], trained[0][1]
    if recipe.members > 1:
        network = join_members(networks, recipe.widths)
        weights = folder / JOINED_NAME
        network.save_weights(weights)
    found = validate(network, judges, recipe.network)
    if left_out:
        scored = outcomes(network, left_out, recipe, found)
        write_outcomes(folder / HELD_OUT_NAME, left_out, scored)
    return weights, found


def _train_member(
    number: int,
    scans: Sequence[LatticeScan],
    judges: Sequence[LatticeScan],
    recipe: ScoringRecipe,
    folder: Path,
) -> tuple[Any, Path]:
    """One network with the weights of its last step, and where these are."""
    import keras

    from calcium.networks.attention_unet import attention_alone
    from calcium.networks.predictor import build_network
    from calcium.training import (
        TrainingOptions,
        attention_loss,
        regression_loss,
        train_network,
    )

    seed = recipe.seed + number
    keras.utils.set_random_seed(seed % 2**31)
    network = build_network(recipe.network, recipe.widths, anatomy=recipe.draws_anatomy)

    def evaluate(trained: Any, step: int) -> dict[str, float]:
        found = dict(validate(attention_alone(trained), judges, recipe.network).metrics)
        told = {k: round(v, 3) for k, v in found.items()}
        LOGGER.info("network %d of %d, step %d: %s", number + 1, recipe.members, step, told)
        return found

    weights = train_network(
        network,
        _sampler(scans, recipe, seed),
        attention_loss if recipe.network == "additive" else regression_loss,
        folder,
        TrainingOptions(
            steps=recipe.steps,
            learning_rate=recipe.learning_rate,
            # it takes as long as some hundred steps
            evaluate_every=max(2000, recipe.steps // 4),
        ),
        evaluate=evaluate if judges else None,
    )
    if recipe.draws_anatomy:
        # what it draws was for its training
        alone = build_network(recipe.network, recipe.widths)
        alone.set_weights(attention_alone(network).get_weights())
        network, weights = alone, folder / ATTENTION_NAME
        network.save_weights(weights)
    return network, weights


def _sampler(scans: Sequence[LatticeScan], recipe: ScoringRecipe, seed: int) -> CropSampler:
    """Crops for the additive network, whole slices for the plain one."""
    additive = recipe.network == "additive"
    return CropSampler(
        scans,
        weights=shared_weights(
            [scan.group.startswith(PHANTOM_GROUP) for scan in scans], recipe.phantom_share
        ),
        seed=seed,
        batch_size=recipe.batch_size,
        crop_size=CROP_SIZE if additive else 256,
        block_sizes=BLOCK_SIZES if additive else (256,),
        # a sum over slices needs empty ones about as often as they occur; with these alone,
        # calcium is too rare to be learnt
        coronary_share=CORONARY_SHARE if additive else 0.25,
        anywhere_share=ANYWHERE_SHARE if additive else 0.5,
        anatomy=recipe.draws_anatomy,
    )


def validate(network: Any, scans: Sequence[LatticeScan], name: str) -> Validation:
    """Fit the counting rule of a network to held-out scans and measure the agreement."""
    from calcium.validation import (
        additive_outcome,
        counting_rule_of,
        lattice_attention,
        regressed_outcome,
        summary,
    )

    if not scans:
        return Validation()
    predict = _traced(network)
    if name == "plain":
        return Validation(summary([regressed_outcome(predict, scan) for scan in scans]))
    seen = [lattice_attention(predict, scan) for scan in scans]
    rule = counting_rule_of(scans, seen)
    found = [
        additive_outcome(scan, attention, "lesion", rule)
        for scan, attention in zip(scans, seen, strict=True)
    ]
    return Validation(summary(found), rule)


def outcomes(
    network: Any, scans: Sequence[LatticeScan], recipe: ScoringRecipe, validation: Validation
) -> list[ScanOutcome]:
    """Scores of scans that chose nothing, under the rule that others chose."""
    from calcium.validation import additive_outcome, lattice_attention, regressed_outcome

    predict = _traced(network)
    if recipe.network == "plain":
        return [regressed_outcome(predict, scan) for scan in scans]
    return [
        additive_outcome(scan, lattice_attention(predict, scan), "lesion", validation.rule)
        for scan in scans
    ]


def write_outcomes(path: Path, scans: Sequence[LatticeScan], found: Sequence[ScanOutcome]) -> None:
    """Write scores as CSV: `scan_id, group, kind, truth, agatston, found`, one row per scan."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["scan_id", "group", "kind", "truth", "agatston", "found"])
        for scan, o in zip(scans, found, strict=True):
            scores = [round(value, 2) for value in (o.truth, o.score, o.found)]
            writer.writerow([o.name, o.group, scan.kind, *scores])


def _traced(network: Any) -> Any:
    """Prediction of a network for slices of any size, as arrays."""
    import tensorflow as tf

    signature = [tf.TensorSpec((None, None, None, INPUT_CHANNELS), tf.float32)]
    traced = tf.function(lambda x: network(x, training=False), input_signature=signature)
    return lambda inputs: traced(tf.constant(inputs)).numpy()


def model_sections(
    recipe: ScoringRecipe,
    heart: Ellipsoid,
    scans: Sequence[str],
    validation: Validation,
) -> dict[str, Any]:
    """The sections of `model.json` that a scoring training sets.

    Args:
        recipe: What was trained.
        heart: Ellipsoid that the network was trained with.
        scans: Names of the backgrounds.
        validation: Agreement on held-out scans, and the rule fitted to them.
    """
    return {
        "scoring": {
            "network": recipe.network,
            "widths": list(recipe.widths),
            "members": recipe.members,
            "decision": "lesion",
            "counting": validation.rule.to_dict(),
            "preset": "agatston-1990",
            "heart": {"center_mm": list(heart.center_mm), "radii_mm": list(heart.radii_mm)},
        },
        "training": {
            "scoring": {
                "command": recipe.command,
                "recipe": {
                    "seed": recipe.seed,
                    "steps": recipe.steps,
                    "batch_size": recipe.batch_size,
                    "learning_rate": recipe.learning_rate,
                    "simulated_per_background": recipe.simulated,
                    "phantoms": recipe.phantoms,
                    "phantom_share": recipe.phantom_share,
                    "validation_phantoms": recipe.validation_phantoms,
                    "anatomy": recipe.draws_anatomy,
                },
                "scans": list(scans),
                "held_out": list(recipe.hold_out),
                # what the plain network counted is not known, and JSON has no such number
                "metrics": {
                    k: round(v, 4) for k, v in validation.metrics.items() if math.isfinite(v)
                },
            }
        },
    }


def train_model(
    folders: Sequence[Path],
    annotations: Path | None,
    model: Path,
    recipe: ScoringRecipe,
    work: Path,
) -> dict[str, float]:
    """Simulate, train, and put weights and settings into a model folder.

    Args:
        folders: Folders, archives or files with CT.
        annotations: Folder of annotation files; `None` to learn from phantoms alone.
        model: Model folder that holds atlas and alignment.
        recipe: What to train.
        work: Folder of the cache and the checkpoints.

    Returns:
        Agreement on held-out scans and validation phantoms, empty without any.

    Raises:
        ValueError: If no scan has an annotation, a scan to hold out is not among those found, or
            `work` holds another training.
    """
    import shutil

    from pipelines.model import SCORING_WEIGHTS_NAME, VESSELS_NAME, update_description

    aligner, heart = load_aligner(model)
    cache = work / "scans"
    cache.mkdir(parents=True, exist_ok=True)
    tasks: list[Task] = []
    sources = []
    if annotations is not None:
        sources = list(find_backgrounds(folders, annotations, aligner))
        if not sources:
            raise ValueError(f"no scan has an annotation of its name. Received: {annotations}")
        _check_held_out(recipe, [source.name for source in sources])
    for source in sources:
        tasks += simulated_tasks(source, heart, cache, seed=recipe.seed, count=recipe.simulated)
        if source.name in recipe.hold_out:
            tasks.append(unchanged_task(source, heart, cache))
    tasks += phantom_tasks(model, cache, first_seed=FIRST_TRAINING_PHANTOM, count=recipe.phantoms)
    judges = phantom_tasks(
        model, cache, first_seed=FIRST_VALIDATION_PHANTOM, count=recipe.validation_phantoms
    )
    made = list(cached_scans(tasks + judges, workers=recipe.workers))
    scans, validation = made[: len(tasks)], made[len(tasks) :]
    weights, found = train_scoring(scans, recipe, work / recipe.network, validation=validation)
    shutil.copyfile(weights, model / SCORING_WEIGHTS_NAME)
    if sources:
        shown = [source for source in sources if source.name not in recipe.hold_out]
        vessel_atlas(shown or sources, heart).save(model / VESSELS_NAME)
    names = sorted({scan.group for scan in scans if not scan.group.startswith(PHANTOM_GROUP)})
    update_description(model, model_sections(recipe, heart, names, found))
    return dict(found.metrics)


def _check_held_out(recipe: ScoringRecipe, known: Sequence[str]) -> None:
    """A name written wrongly would leave nobody out, and the model would say it had."""
    unknown = [name for name in recipe.hold_out if name not in known]
    if unknown:
        raise ValueError(
            f"scans to hold out must name annotated scans: {', '.join(sorted(known))}. "
            f"Received: {', '.join(unknown)}"
        )
