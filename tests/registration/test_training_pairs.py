"""The cache of training images: what is used again, what is made anew, what is told beforehand."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from registration.cohort import read_folder
from registration.image_files import read_image_file
from registration.networks.deformable_network import DeformableConfig
from registration.networks.registration_network import RegistrationConfig
from registration.pair_preparation import IntensityScaling
from registration.training import RegistrationTrainer, TrainingOptions
from registration.training_pairs import ImageCache, PairSampler

CONFIG = RegistrationConfig((DeformableConfig((2, 2), kernels=2),))


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        write_image(images / f"{number}.png", number)
    return images


def write_image(path, seed):
    values = np.random.default_rng(seed).integers(0, 255, (12, 16)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))


def filled(folder, work, config=CONFIG):
    """Names of the images that were read to fill the cache."""
    read = []

    def reading(path):
        read.append(path.name)
        return read_image_file(path)

    cache = ImageCache(work, config, read=reading)
    PairSampler(read_folder(folder), cache, batch_size=1).fill_cache()
    return read


def test_what_was_cached_is_not_read_again(folder, tmp_path):
    assert filled(folder, tmp_path / "cache") == ["0.png", "1.png", "2.png"]
    assert filled(folder, tmp_path / "cache") == []


def test_an_image_that_was_changed_is_read_again(folder, tmp_path):
    filled(folder, tmp_path / "cache")
    write_image(folder / "1.png", 7)
    os.utime(folder / "1.png", ns=(1, 1))
    assert filled(folder, tmp_path / "cache") == ["1.png"]
    cache = ImageCache(tmp_path / "cache", CONFIG)
    found = cache.load(read_folder(folder).images[1]).values[0]
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "1.png"))).astype(float)
    low, high = np.percentile(values, (0.5, 99.5))
    np.testing.assert_allclose(found, np.clip((values - low) / (high - low), 0, 1), atol=1e-6)


@pytest.mark.parametrize(
    "changes", [{"spacing_mm": (2.0, 2.0)}, {"scaling": IntensityScaling(window=(0.0, 255.0))}]
)
def test_another_grid_or_scaling_is_cached_beside(folder, tmp_path, changes):
    filled(folder, tmp_path / "cache")
    assert len(filled(folder, tmp_path / "cache", replace(CONFIG, **changes))) == 3
    assert filled(folder, tmp_path / "cache") == []


def test_all_images_that_cannot_be_used_are_named_before_the_first_step(folder, tmp_path):
    (folder / "0.png").write_bytes(b"no picture")
    sitk.WriteImage(sitk.Image([8, 8, 8], sitk.sitkUInt8), str(folder / "3.nrrd"))
    colors = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(colors, isVector=True), str(folder / "4.png"))
    trainer = RegistrationTrainer(
        CONFIG,
        read_folder(folder),
        None,
        tmp_path / "work",
        options=TrainingOptions(steps=1),
        report=lambda line: None,
    )
    with pytest.raises(ValueError, match=r"0\.png cannot be read.*3\.nrrd with 3; 4\.png cannot"):
        trainer.train()
