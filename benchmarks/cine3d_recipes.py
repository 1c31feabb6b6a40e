"""Deformable registration of cine MR in three dimensions, and what it is trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import SimpleITK as sitk
from cine2d_recipes import balanced_cohort
from cine_frames import find_frames, patient_key
from cine_stacks import read_phases, stack_pictures
from trained_registrars import Recipe, grouped_cohort, write_image

from registration.augmentation import Augmentation
from registration.cohort import Cohort, CohortImage
from registration.networks.deformable_network import DeformableConfig
from registration.networks.registration_network import RegistrationConfig
from registration.objective import Objective
from registration.refinement import RefinementOptions
from registration.training import TrainingOptions

BENDING_WEIGHTS = {"dlir": 0.0, "dlir+bending": 1.0}
"""Weight of the bending energy, mm²."""

CONFIG = RegistrationConfig(
    (
        DeformableConfig(
            (1, 3, 3),
            kernels=(16, 32, 64),
            convolutions=2,
            border=1,
            forces=True,
            passes=2,
            pass_limit=0.8,
            unfold=True,
        ),
    ),
    spacing_mm=(2.0, 2.0, 8.0),
)
"""Control points every 16 mm, and one beyond the image at every end, as stacks have few slices. A
third pass comes no nearer. What folds in spite of the penalty is unfolded."""

TRAINING = TrainingOptions(
    steps=2500,
    batch_size=2,
    learning_rate=2e-3,
    augmentation=Augmentation(
        rotation_deg=180.0,
        scale=0.15,
        flip_axes=(2,),
        elastic_vox=5.0,
        gamma=0.2,
        noise=0.01,
        in_plane=True,
    ),
    patch_shape=(8, 128, 128),
    evaluate_every=200,
    validation_pairs=8,
    seed=1,
)

REFINEMENT_STEPS = 30


JUDGES = 2
"""Patients that choose the best step."""


def recipe(
    name: str, *, left_out: str, hearts: Path | None, pictures: Sequence[Path], test: set[str],
    work: Path,
) -> Recipe:  # fmt: skip
    """A network that has not seen the patients of `test`.

    Args:
        name: One of `BENDING_WEIGHTS`.
        left_out: What is left out, for the name of the weights.
        hearts: Folder of patients with all phases.
        pictures: Folders with `images/` and `labels/`, two phases each.
        test: Keys of the patients that must not be trained on.
        work: Where the volumes are put for the training.
    """
    weight = BENDING_WEIGHTS[name]
    options = replace(
        TRAINING, objective=Objective("ncc", bending_weight=weight, folding_weight=1.0)
    )
    return Recipe(
        f"{network_name(name)}-without-{left_out}",
        CONFIG,
        options,
        lambda: cohorts(hearts, pictures, test, work),
    )


def network_name(name: str) -> str:
    """What the folders of all networks of a kind begin with."""
    return f"cine3d-{name.replace('+', '-')}"


def refinement(name: str) -> RefinementOptions:
    """Steps per pair with the objective that the network was trained on."""
    objective = Objective("ncc", bending_weight=BENDING_WEIGHTS[name], folding_weight=1.0)
    return RefinementOptions(steps=REFINEMENT_STEPS, learning_rate=0.4, objective=objective)


def cohorts(
    hearts: Path | None, stacks: Sequence[Path], test: set[str], work: Path
) -> tuple[Cohort, Cohort]:
    """Volumes to train on, and those of the last patients, which choose the best step.

    Raises:
        ValueError: If too few patients are left.
    """
    beating = [(image, phase) for image, phase in _phases(hearts, work) if _key(image) not in test]
    pictures = [i for folder in stacks for i in _pictures(folder, work) if _key(i) not in test]
    subjects = sorted({_key(image) for image in pictures or [image for image, _ in beating]})
    if len(subjects) <= JUDGES:
        raise ValueError(f"{JUDGES + 1} patients are needed to train on. Received: {subjects}")
    judges = subjects[-JUDGES:]
    training = balanced_cohort(
        [image for image in pictures if _key(image) not in judges],
        [(image, phase) for image, phase in beating if _key(image) not in judges],
    )
    judging = [i for i in (*pictures, *(image for image, _ in beating)) if _key(i) in judges]
    return training, grouped_cohort(judging)


def _key(image: CohortImage) -> str:
    return patient_key(image.subject)


def _phases(folder: Path | None, work: Path) -> Iterable[tuple[CohortImage, int]]:
    for patient in sorted(folder.iterdir()) if folder is not None else ():
        if (patient / "frames").is_dir():
            for phase, volume in read_phases(patient).items():
                path = write_image(volume, work / f"{patient.name}-{phase:02d}.mha")
                yield CohortImage(path, patient.name, patient.name), phase


def _pictures(folder: Path, work: Path) -> Iterable[CohortImage]:
    for heart in stack_pictures(find_frames(folder)):
        for name, volume in zip(("ed", "es"), heart.images, strict=True):
            stack = sitk.Cast(volume, sitk.sitkFloat32)
            path = write_image(stack, work / f"{heart.patient}-pictures-{name}.mha")
            yield CohortImage(path, f"{heart.patient} pictures", heart.patient)
