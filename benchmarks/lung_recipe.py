"""How lungs are registered: elastix's stages, and networks trained on breathing phantoms.

Scans of one person are whole chests or cut down to one lung, and their margins may be blank, as
of images that were resampled onto a larger grid: networks that have seen whole chests alone fail
there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from breathing import breathing_pair
from chest_phantoms_recipe import CONFIG, OBJECTIVE, TRAINING
from registration_pairs import LabeledPair
from trained_registrars import Recipe, grouped_cohort, write_image

from registration.cohort import Cohort, CohortImage
from registration.pair_preparation import IntensityScaling
from registration.refinement import RefinementOptions

REFINEMENT = RefinementOptions(
    steps=0,
    learning_rate=0.3,
    objective=replace(OBJECTIVE),
    finer_steps=20,
    ignore_margins=True,
)
"""Vessels are thinner than the networks' voxels. On those voxels 80 optimizer steps gain nothing
after the Gauss-Newton steps (landmarks of validation phantoms stay 1.07 mm off); 20 on finer ones
bring 0.86 mm."""

AUGMENTATION = replace(
    TRAINING.augmentation,
    moving_rotation_deg=4.0,
    moving_scale=0.06,
    moving_translation=0.05,
    gamma=0.2,
    blank=0.3,
)
"""Two breaths of one person differ less than two people."""

STEPS = ((8, 2, 0.0), (8, 1, 1.0), (8, 1, 3.0))
"""Of every deformable stage: Gauss-Newton steps on the pair, voxels averaged to one, and bending
weight, mm². Chosen on validation phantoms: without bending, steps of the last stage fit noise."""

LUNG_CONFIG = replace(
    CONFIG,
    stages=(
        CONFIG.stages[0],
        *(
            replace(stage, passes=1, steps=steps, step_shrink=shrink, step_bending=bending)
            for stage, (steps, shrink, bending) in zip(CONFIG.stages[1:], STEPS, strict=True)
        ),
    ),
    scaling=IntensityScaling(window=(-1000.0, 500.0)),
)
"""Networks look once: with a second pass before the steps landmarks of validation phantoms end 1.2
mm off instead of 1.1. A window of soft tissue, as between different people, would leave the vessels
of the lungs out."""

CROP_MARGIN_MM = (0.0, 25.0)
"""Range of the distance from a lung to each face of the box that it is cut out by."""

TRAINING_SEEDS = range(820_000, 820_024)
VALIDATION_SEEDS = range(830_000, 830_003)


def recipe(work: Path) -> Recipe:
    """Networks for two breaths of one chest; phantoms to train on are made in `work`."""
    return Recipe(
        "lung_pair",
        LUNG_CONFIG,
        replace(TRAINING, steps=(800, 300, 300, 300), augmentation=AUGMENTATION),
        lambda: (_cohort(TRAINING_SEEDS, work), _cohort(VALIDATION_SEEDS, work)),
    )


def _cohort(seeds: Iterable[int], work: Path) -> Cohort:
    """Of every phantom the whole chest and either lung, at two breaths each."""
    images = []
    for seed in seeds:
        parts = ("chest", "right", "left")
        paths = [work / f"{part}-{seed}-{name}.mha" for part in parts for name in ("out", "in")]
        if not all(path.is_file() for path in paths):
            for path, image in zip(paths, _breaths(seed, work), strict=True):
                write_image(sitk.Cast(image, sitk.sitkInt16), path)
        for number, path in enumerate(paths):
            images.append(CohortImage(path, f"{seed} {parts[number // 2]}", str(seed)))
    return grouped_cohort(images)


def _breaths(seed: int, work: Path) -> Iterator[sitk.Image]:
    """The chest breathed out and in, then the right and the left lung, cut out of both."""
    pair, _, _ = breathing_pair(seed, work)
    yield from (pair.fixed, pair.moving)
    rng = np.random.default_rng([seed, 2])
    for right in (True, False):
        yield from _one_lung(pair, rng, right=right)


def _one_lung(pair: LabeledPair, rng: np.random.Generator, *, right: bool) -> Iterator[sitk.Image]:
    """Either breath within a box about one lung, with margins of its own."""
    for image, labels in (
        (pair.fixed, pair.fixed_labels),
        (pair.moving, pair.moving_labels),
    ):
        found = np.argwhere(sitk.GetArrayViewFromImage(labels) > 0)[:, ::-1]
        # phantoms lie on their back, head first: the first columns are the patient's right
        middle = (found[:, 0].min() + found[:, 0].max()) / 2
        side = found[found[:, 0] < middle] if right else found[found[:, 0] >= middle]
        margins = rng.uniform(*CROP_MARGIN_MM, (2, 3)) / np.array(image.GetSpacing())
        low = np.maximum(side.min(axis=0) - margins[0], 0).astype(int)
        high = np.minimum(side.max(axis=0) + 1 + margins[1], image.GetSize()).astype(int)
        yield sitk.RegionOfInterest(image, (high - low).tolist(), low.tolist())
