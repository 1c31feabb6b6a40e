"""Networks for the benchmarks: read from a folder, or trained there if that is asked."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from registration.cohort import Cohort, CohortImage
from registration.network_registrar import NetworkRegistrar
from registration.networks.registration_network import RegistrationConfig
from registration.refinement import RefinementOptions
from registration.registration_folder import (
    DESCRIPTION_NAME,
    load_registration,
    save_registration,
)
from registration.training import RegistrationTrainer, TrainingOptions

SHIPPED = Path(__file__).resolve().parent.parent / "registration" / "models"
"""Folders of the weights that come with the project, by name."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is laid out and trained.

    Args:
        name: Name of its folder.
        config: Layout.
        options: Training.
        cohorts: Gives training and validation images; called only to train.
    """

    name: str
    config: RegistrationConfig
    options: TrainingOptions
    cohorts: Callable[[], tuple[Cohort, Cohort | None]]


def trained_registrar(
    recipe: Recipe,
    options: argparse.Namespace,
    *,
    refinement: RefinementOptions | None = None,
    passes: int | None = None,
    deformable_steps: int | None = None,
    known: Path | None = None,
) -> NetworkRegistrar:
    """The network of a recipe: from `--model`, from an earlier `--train`, or as shipped.

    `--train` passes over those that ship, so that the command that made them does it again.

    Args:
        recipe: What is wanted.
        options: Command line with `model`, `train` and `out`.
        refinement: Optimizer steps per pair after the network.
        passes: How often the network looks at a pair; as the recipe says by default.
        deformable_steps: Gauss-Newton steps on the pair after every deformable stage; likewise.
        known: Folder of another network that will do where there is none of the recipe.

    Raises:
        SystemExit: If there are no weights and training was not asked for.
    """
    own = options.out / "models" / recipe.name
    places = [own] if options.train else [own, SHIPPED / recipe.name]
    if options.model is not None:
        places = [options.model, options.model / recipe.name]
    folder = next((p for p in places if (p / DESCRIPTION_NAME).is_file()), known)
    if folder is None and options.train:
        folder = own
        train(recipe, folder, command=sys.argv)
    if folder is None:
        raise SystemExit(
            f"There are no weights of {recipe.name} in {', '.join(str(p) for p in places)}. "
            "Give --model FOLDER, or --train."
        )
    return load_registration(
        folder, refinement=refinement, passes=passes, deformable_steps=deformable_steps
    )


def untouched_network(
    kind: str,
    subjects: Collection[str],
    options: argparse.Namespace,
    *,
    key: Callable[[str], str] = str,
) -> Path | None:
    """Folder of the network of a kind that has been trained on most, but on none of some subjects.

    Args:
        kind: Beginning of the folders' names, before `-without-`.
        subjects: Who must not have been seen, in training or validation; as `key` gives them.
        options: Command line with `model` and `out`.
        key: What subjects of a record are compared by.
    """
    best: tuple[int, Path] | None = None
    for place in (options.model, options.out / "models", SHIPPED):
        for path in sorted(place.glob(f"{kind}-without-*/{DESCRIPTION_NAME}") if place else ()):
            record = json.loads(path.read_text(encoding="utf-8"))["training"]
            seen = [*record["training_subjects"], *record["validation_subjects"]]
            if {key(s) for s in seen}.isdisjoint(subjects):
                found = record["training_images"], path.parent
                best = found if best is None or found[0] > best[0] else best
    return best[1] if best else None


def train(recipe: Recipe, folder: Path, *, command: Sequence[str]) -> None:
    """Train a recipe and save it with the command, settings and time it took."""
    training, validation = recipe.cohorts()
    start = time.perf_counter()
    trainer = RegistrationTrainer(
        recipe.config,
        training,
        validation,
        folder / "work",
        options=recipe.options,
        report=lambda line: print(f"{recipe.name}: {line}", file=sys.stderr, flush=True),
    )
    network = trainer.train()
    record: dict[str, Any] = {
        "command": portable_command(command),
        "options": asdict(recipe.options),
        "training_images": len(training.images),
        "training_subjects": list(training.subjects),
        "validation_subjects": list(validation.subjects) if validation else [],
        "seconds": round(time.perf_counter() - start, 1),
    }
    if trainer.rows:
        record["last_validation"] = trainer.rows[-1]
    save_registration(folder, network, recipe.config, name=recipe.name, training=record)


def portable_command(arguments: Sequence[str]) -> str:
    """A command line that gives away no folder of the machine: absolute paths by their last part.

    Example:
        >>> portable_command(["benchmarks/digits.py", "--data", "/home/ann/digits", "--train"])
        'python benchmarks/digits.py --data digits --train'
    """
    told = [Path(a).name if Path(a).is_absolute() else a for a in arguments]
    return " ".join(["python", *told])


def grouped_cohort(images: Sequence[CohortImage]) -> Cohort:
    """Cohort in which any two images of a group make a pair, either way round."""
    return Cohort(tuple(images), pairs_in_groups(images))


def pairs_in_groups(images: Sequence[CohortImage]) -> tuple[tuple[int, int], ...]:
    """Numbers of any two images of a group, either way round."""
    members: dict[str, list[int]] = {}
    for index, image in enumerate(images):
        members.setdefault(image.group, []).append(index)
    return tuple((a, b) for group in members.values() for a in group for b in group if a != b)


def write_image(image: sitk.Image, path: Path) -> Path:
    """Write an image for the training to read, unless it is there."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(path))
    return path
