"""How lungs are registered: elastix's stages, and networks trained on breathing phantoms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import SimpleITK as sitk
from breathing import breathing_pair
from chest_phantoms_recipe import CONFIG, OBJECTIVE, TRAINING
from trained_registrars import Recipe, grouped_cohort, write_image

from registration.cohort import Cohort, CohortImage
from registration.refinement import RefinementOptions

REFINEMENT = RefinementOptions(steps=80, learning_rate=0.3, objective=replace(OBJECTIVE))

TRAINING_SEEDS = range(820_000, 820_024)
VALIDATION_SEEDS = range(830_000, 830_003)


def recipe(work: Path) -> Recipe:
    """Networks for two breaths of one chest; phantoms to train on are made in `work`."""
    return Recipe(
        "lung_pair",
        replace(CONFIG, initialization="identity"),
        replace(TRAINING, steps=(1000, 600, 600, 600)),
        lambda: (_cohort(TRAINING_SEEDS, work), _cohort(VALIDATION_SEEDS, work)),
    )


def _cohort(seeds: Iterable[int], work: Path) -> Cohort:
    images = []
    for seed in seeds:
        paths = [work / f"chest-{seed}-{name}.mha" for name in ("out", "in")]
        if not all(path.is_file() for path in paths):
            pair, _, _ = breathing_pair(seed, work)
            for path, image in zip(paths, (pair.fixed, pair.moving), strict=True):
                write_image(sitk.Cast(image, sitk.sitkInt16), path)
        images += [CohortImage(path, str(seed), str(seed)) for path in paths]
    return grouped_cohort(images)
