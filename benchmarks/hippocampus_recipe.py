"""How hippocampi are registered: elastix's stages, and networks trained on other cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trained_registrars import Recipe, grouped_cohort

from registration.augmentation import Augmentation
from registration.cohort import ONE_GROUP, Cohort, CohortImage
from registration.networks.affine_stage import AffineConfig
from registration.networks.deformable_network import DeformableConfig
from registration.networks.registration_network import RegistrationConfig
from registration.objective import Objective
from registration.refinement import RefinementOptions
from registration.training import TrainingOptions

OBJECTIVE = Objective("ncc", bending_weight=0.15, folding_weight=1.0)

BETWEEN_PEOPLE = {"stem_stride": 2, "border": 1, "forces": True, "passes": 2, "pass_limit": 0.4}

DEFORMABLE_STAGES = (
    DeformableConfig((4, 4, 4), kernels=(16, 32, 64, 96), convolutions=2, **BETWEEN_PEOPLE),
    DeformableConfig((3, 3, 3), kernels=(16, 32, 64), convolutions=2, **BETWEEN_PEOPLE),
    DeformableConfig((2, 2, 2), kernels=(16, 32), convolutions=3, **BETWEEN_PEOPLE),
)
"""DIR-1, DIR-2 and DIR-3 between people: control points every 16, 8 and 4 voxels, and beyond images
that are hardly three of them wide."""

CONFIG = RegistrationConfig(
    (
        AffineConfig(
            3,
            kernels=(16, 32, 64, 96),
            poolings=3,
            dense_units=(64,),
            fusion="pair",
            head="votes",
            steps=8,
            step_shrink=2,
        ),
        *DEFORMABLE_STAGES[:-1],
        replace(DEFORMABLE_STAGES[-1], steps=3, step_bending=OBJECTIVE.bending_weight),
    ),
    initialization="centers",
)
"""Voxels of 1 mm. An affine encoder that sees both images at once comes nearer than twins that
each see one, and votes of its cells nearer than one answer for all of them."""

TRAINING = TrainingOptions(
    steps=(4000, 2400, 1500, 600),
    batch_size=4,
    learning_rate=2e-3,
    objective=OBJECTIVE,
    augmentation=Augmentation(
        rotation_deg=10.0,
        scale=0.1,
        translation=0.03,
        elastic_vox=1.0,
        gamma=0.1,
        noise=0.01,
        elastic_spacing_vox=16,
    ),
    evaluate_every=150,
    validation_pairs=20,
    seed=1,
)

REFINEMENT = RefinementOptions(
    steps=40, learning_rate=0.3, objective=replace(OBJECTIVE, folding_weight=50.0)
)
"""Steps of one pair go further than a network, and fold where nothing holds them: with the weight
of the training 0.12 % of the voxels of the validation pairs, with this one 0.05 % (same Dice)."""


def recipe(folder: Path, training: Sequence[str], validation: Sequence[str]) -> Recipe:
    """Networks for hippocampi; any two cases of a part make a pair."""
    return Recipe(
        "hippocampus",
        CONFIG,
        TRAINING,
        lambda: (_cohort(folder, training), _cohort(folder, validation)),
    )


def _cohort(folder: Path, names: Sequence[str]) -> Cohort:
    return grouped_cohort(
        [CohortImage(folder / "images" / name, ONE_GROUP, name.split(".")[0]) for name in names]
    )
