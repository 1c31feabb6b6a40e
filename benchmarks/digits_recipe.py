"""DIRNet for digits: a network small enough for 28 pixels, one per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from trained_registrars import Recipe, grouped_cohort, write_image

from registration.augmentation import Augmentation
from registration.cohort import ONE_GROUP, CohortImage
from registration.networks.deformable_network import DeformableConfig
from registration.networks.registration_network import RegistrationConfig
from registration.objective import Objective
from registration.pair_preparation import IntensityScaling
from registration.training import TrainingOptions

CONFIG = RegistrationConfig(
    (DeformableConfig(downsamplings=(2, 2), kernels=16, convolutions=2),),
    scaling=IntensityScaling(window=(0.0, 255.0)),
)
"""Control points every 4 pixels."""

TRAINING = TrainingOptions(
    steps=400,
    batch_size=16,
    learning_rate=2e-3,
    objective=Objective("ncc", folding_weight=1.0),
    augmentation=Augmentation(rotation_deg=5.0, scale=0.05, translation=0.03),
    evaluate_every=100,
    seed=1,
)

VALIDATION_DIGITS = 20
"""Training digits of a class that choose the best step instead."""


def recipe(digit: int, images: NDArray[np.float32], work: Path) -> Recipe:
    """Layout and training for one class; the digits are written to `work` to be read."""

    def cohorts():
        members = [
            CohortImage(_written(image, work / f"{digit}-{n:03d}.png"), ONE_GROUP, f"{n:03d}")
            for n, image in enumerate(images)
        ]
        return (
            grouped_cohort(members[VALIDATION_DIGITS:]),
            grouped_cohort(members[:VALIDATION_DIGITS]),
        )

    return Recipe(f"digits-{digit}", CONFIG, TRAINING, cohorts)


def _written(image: NDArray[np.float32], path: Path) -> Path:
    return write_image(sitk.GetImageFromArray(image.astype(np.uint8)), path)
