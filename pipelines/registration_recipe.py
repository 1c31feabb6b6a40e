"""From a folder or table of images to a trained registration in a model folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.recipe_values import check_recipe

if TYPE_CHECKING:
    from registration.networks.registration_network import RegistrationConfig
    from registration.training import TrainingOptions

CURVE_PICTURE_NAME = "curve.png"

PATIENCE = 6
"""Validations without gain after which a stage of a preset ends (own). The learning rate falls
along a cosine, late in which networks still gain a little: fewer would end stages too early."""

CINE_2D: Mapping[str, Any] = {
    "registration": {
        "stages": [
            {
                "kind": "deformable",
                "downsamplings": [4, 4],
                "kernels": [8, 12, 16, 32],
                "convolutions": 2,
                "forces": True,
                "passes": 2,
            }
        ]
    },
    "training": {
        "steps": 4000,
        "batch_size": 4,
        "learning_rate": 2e-3,
        "patience": PATIENCE,
        "objective": {"folding_weight": 1.0},
        "augmentation": {
            "rotation_deg": 180.0,
            "scale": 0.2,
            "translation": 0.08,
            "flip_axes": [1],
            "elastic_vox": 6.0,
            "gamma": 0.2,
            "noise": 0.01,
        },
    },
}
"""DIRNet with few kernels at full resolution, for pairs of 2-D slices of one patient."""

STACK_3D: Mapping[str, Any] = {
    "registration": {
        "stages": [
            {
                "kind": "deformable",
                "downsamplings": [1, 3, 3],
                "kernels": [16, 32, 64],
                "convolutions": 2,
                "border": 1,
                "forces": True,
                "passes": 2,
                "unfold": True,
            }
        ],
        "spacing_mm": [2.0, 2.0, 8.0],
    },
    "training": {
        "steps": 1500,
        "batch_size": 2,
        "learning_rate": 2e-3,
        "evaluate_every": 100,
        "patience": PATIENCE,
        "objective": {"bending_weight": 1.0, "folding_weight": 1.0},
        "augmentation": {
            "rotation_deg": 30.0,
            "scale": 0.15,
            "flip_axes": [1, 2],
            "gamma": 0.3,
            "in_plane": True,
        },
    },
}
"""One deformable stage for stacks of thick slices of one patient; layout, spacing and bending
energy are those of `benchmarks/cine3d_recipes.py`."""


def _patients_stage(halvings: int, kernels: list[int], *, convolutions: int) -> dict[str, Any]:
    return {
        "kind": "deformable",
        "downsamplings": [halvings] * 3,
        "kernels": kernels,
        "convolutions": convolutions,
        "stem_stride": 2,
        "border": 1,
        "forces": True,
        "passes": 2,
        "pass_limit": 0.4,
    }


BETWEEN_PATIENTS: Mapping[str, Any] = {
    "registration": {
        "stages": [
            {
                "kind": "affine",
                "dimension": 3,
                "kernels": [16, 32, 64, 96],
                "dense_units": [64],
                "fusion": "pair",
                "head": "votes",
                "steps": 8,
                "step_shrink": 2,
            },
            _patients_stage(4, [16, 32, 64, 96], convolutions=2),
            _patients_stage(3, [16, 32, 64], convolutions=2),
            {**_patients_stage(2, [16, 32], convolutions=3), "steps": 3, "step_bending": 0.15},
        ],
        "initialization": "centers",
    },
    "training": {
        "steps": [4000, 2400, 1500, 600],
        "batch_size": 4,
        "learning_rate": 2e-3,
        "patience": PATIENCE,
        "objective": {"bending_weight": 0.15, "folding_weight": 1.0},
        "augmentation": {"rotation_deg": 10.0, "scale": 0.1, "translation": 0.03, "gamma": 0.2},
    },
}
"""Affine and three deformable stages, coarse to fine, for volumes of different patients."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "dirnet": CINE_2D,
    "stack": STACK_3D,
    "patients": BETWEEN_PATIENTS,
}
"""Recipes by name; each is what a recipe file may hold."""


@dataclass(frozen=True, slots=True)
class RegistrationRecipe:
    """Layout and training of a registration.

    Args:
        config: Networks, working grid and intensities.
        options: Training.
    """

    config: RegistrationConfig
    options: TrainingOptions

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RegistrationRecipe:
        """Recipe of plain values: sections `registration` and `training`.

        Raises:
            ValueError: If a value cannot be, or a setting has another name.
        """
        from registration.augmentation import Augmentation
        from registration.networks.registration_network import RegistrationConfig
        from registration.objective import Objective
        from registration.training import TrainingOptions

        check_recipe(values)
        try:
            config = RegistrationConfig.from_dict(values["registration"])
            settings = dict(values.get("training", {}))
            changes = dict(settings.pop("augmentation", {}))
            changes["flip_axes"] = tuple(changes.get("flip_axes", ()))
            for name in ("steps", "patch_shape"):
                if isinstance(settings.get(name), list):
                    settings[name] = tuple(settings[name])
            options = TrainingOptions(
                objective=Objective(**settings.pop("objective", {})),
                augmentation=Augmentation(**changes),
                **settings,
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"the recipe must hold known settings. Received: {error}") from error
        _check_fit(config, options)
        return cls(config, options)


def _check_fit(config: RegistrationConfig, options: TrainingOptions) -> None:
    """Refuse settings of which each can be, but not together: networks would say it in a dump."""
    options.stage_steps(len(config.stages))
    patch = options.patch_shape
    if patch is not None and (len(patch) != config.dimension or min(patch) < 1):
        raise ValueError(
            f"patch_shape must have {config.dimension} positive numbers, one for each axis. "
            f"Received: {patch}"
        )


def read_recipe(preset: str, path: Path | None, **changes: Any) -> RegistrationRecipe:
    """Recipe of a preset or of a JSON file, with single training options changed.

    Args:
        preset: Name in `PRESETS`; not used if there is a file.
        path: JSON file with the sections `registration` and `training`.
        **changes: Training options that take precedence; `None` leaves one as it is.

    Raises:
        ValueError: If the file is not JSON or a setting cannot be.
    """
    recipe = RegistrationRecipe.from_dict(recipe_values(preset, path))
    wanted = {name: value for name, value in changes.items() if value is not None}
    return replace(recipe, options=replace(recipe.options, **wanted))


def recipe_values(preset: str, path: Path | None) -> Mapping[str, Any]:
    """Plain values of a preset or of a JSON file, for which no network has to be imported.

    Raises:
        ValueError: If the file is not JSON.
    """
    if path is None:
        return PRESETS[preset]
    try:
        values: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"the recipe must be JSON. Received: {path.name}, {error}") from error
    return values


def train_registration(
    images: Path,
    out: Path,
    work: Path,
    recipe: RegistrationRecipe,
    *,
    group: str | None = None,
    subject: str | None = None,
    validation_share: float = 0.1,
    report: Callable[[str], None] = print,
) -> dict[str, float]:
    """Train, or go on, and write the model folder.

    Args:
        images: Folder of images, or CSV table; see `read_cohort`.
        out: Model folder: `registration.json`, weights, `curve.csv`, `curve.png`.
        work: Cache and checkpoint; a rerun goes on there.
        recipe: What to train and how.
        group: See `read_folder`; not for tables.
        subject: Likewise.
        validation_share: Share of the subjects that choose the best step.
        report: Called with lines of plain text.

    Returns:
        Last and best measures on the validation pairs by name, empty without any.

    Raises:
        ValueError: If images, table, recipe or checkpoint cannot be used.
        OSError: If a folder cannot be written.
    """
    import shutil

    from pipelines.training_images import read_cohort, read_training_image
    from registration.atomic_files import write_atomically
    from registration.cohort import split_subjects
    from registration.figures import curve_figure
    from registration.registration_folder import save_registration
    from registration.training import CURVE_NAME, RegistrationTrainer

    cohort = read_cohort(images, dimension=recipe.config.dimension, group=group, subject=subject)
    out.mkdir(parents=True, exist_ok=True)  # rather than be told after the training
    training, validation = split_subjects(cohort, share=validation_share, seed=recipe.options.seed)
    report(
        f"{len(training.images)} images and {len(training.pairs)} pairs to learn from, "
        f"{len(validation.pairs) if validation else 0} pairs of other subjects to judge by"
    )
    trainer = RegistrationTrainer(
        recipe.config,
        training,
        validation,
        work,
        options=recipe.options,
        report=report,
        read=read_training_image,
    )
    network = trainer.train()
    metrics = _metrics(trainer.rows) if validation else {}
    save_registration(
        out,
        network,
        recipe.config,
        training={
            "options": asdict(recipe.options),
            "subjects": list(training.subjects),
            "validation_subjects": list(validation.subjects) if validation else [],
            "metrics": metrics,
        },
    )
    shutil.copyfile(work / CURVE_NAME, out / CURVE_NAME)
    write_atomically(out / CURVE_PICTURE_NAME, curve_figure(trainer.rows))
    return metrics


def _metrics(rows: list[dict[str, float]]) -> dict[str, float]:
    """Best validation similarity of every stage."""
    stages = sorted({int(row["stage"]) for row in rows})
    return {
        f"stage_{stage + 1}_validation_similarity": max(
            row["validation_similarity"] for row in rows if row["stage"] == stage
        )
        for stage in stages
    }
