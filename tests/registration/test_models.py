from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import registration
from registration.geometry import ImageGrid
from registration.metrics import jacobian_determinant
from registration.registration_folder import load_registration
from registration.transforms_dense import displacement_field_vox
from tests.registration.torso import small_affine, torso_scan

MODELS = Path(registration.__file__).parent / "models"
FOLDERS = sorted(path.parent for path in MODELS.glob("*/registration.json"))


LOOKS = {
    "cine2d": ((256, 256), (1.0, 1.0), 1.0),
    "cine3d": ((10, 256, 256), (1.4, 1.4, 8.0), 1.0),
    "hippocampus": ((36, 48, 36), (1.0, 1.0, 1.0), 0.4),
}
"""Shape and spacing of the images that networks were trained on, and the size of disks that suits
them."""

CHESTS = ("chest_phantoms", "lung_pair")
"""Models of CT, which have seen nothing like a disk."""


def disk(shape, radius, edge) -> sitk.Image:
    """A bright disk in the middle of a darker one, on every slice."""
    *_, rows, columns = np.meshgrid(*map(np.arange, shape), indexing="ij")
    distance = np.hypot(rows - shape[-2] / 2, columns - shape[-1] / 2)
    image = 60.0 / (1 + np.exp(distance - edge)) + 120.0 / (1 + np.exp(distance - radius))
    return sitk.GetImageFromArray(image.astype(np.float32))


def test_models_are_named_in_their_readme():
    text = (MODELS / "README.md").read_text(encoding="utf-8")
    known = [part.strip("`*") for part in text.split() if part.startswith("`")]
    for folder in FOLDERS:
        assert any(name and folder.name.startswith(name.rstrip(",`*")) for name in known)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_model_says_how_it_was_made_and_registers_what_it_has_not_seen(folder):
    described = json.loads((folder / "registration.json").read_text(encoding="utf-8"))
    training = described["training"]
    assert training["command"].startswith("python benchmarks/")
    assert "--train" in training["command"]
    assert " /" not in training["command"]
    assert set(training["training_subjects"]).isdisjoint(training["validation_subjects"])
    fixed, moving = disks(folder)
    before, after = correlation(fixed, moving), registered(load_registration(folder), fixed, moving)
    assert after > before + 0.3 * (1.0 - before)


def test_a_second_pass_comes_nearer():
    folder = MODELS / "cine2d-dirnet"
    fixed, moving = disks(folder)
    once, twice = (registered(load_registration(folder, passes=n), fixed, moving) for n in (1, 2))
    assert twice > once + 0.2 * (1.0 - once)


def test_deformable_steps_come_nearer_without_folding():
    folder = MODELS / "cine2d-dirnet"
    fixed, moving = disks(folder)
    found = [load_registration(folder, deformable_steps=n).register(fixed, moving) for n in (0, 8)]
    before, after = (
        correlation(fixed, sitk.Resample(moving, fixed, r.transform, sitk.sitkLinear, 0.0))
        for r in found
    )
    assert after > before + 0.3 * (1.0 - before)
    field = displacement_field_vox(found[1].transform, ImageGrid.from_image(fixed))
    assert jacobian_determinant(field, spacing=(1.0, 1.0)).min() > 0.0


def test_affine_steps_bring_another_pose_of_a_chest_nearer():
    folder = MODELS / "chest_phantoms"
    fixed, moving = disks(folder)
    found = [
        load_registration(folder, affine_steps=steps).register(fixed, moving).stages[0]
        for steps in (0, 8)
    ]
    before, after = (
        correlation(fixed, sitk.Resample(moving, fixed, t, sitk.sitkLinear, -1000.0)) for t in found
    )
    assert after > before + 0.3 * (1.0 - before)


def test_a_model_without_an_affine_network_takes_no_affine_steps():
    with pytest.raises(ValueError, match="affine steps need an affine stage"):
        load_registration(MODELS / "cine2d-dirnet", affine_steps=3)


def disks(folder):
    """A disk and a smaller one, or a torso and another pose of it, in the format of a model."""
    if folder.name in CHESTS:
        grid = ImageGrid.centered((80, 70, 60), (5.0, 5.0, 5.0), (0.0, 0.0, 0.0))
        return torso_scan(grid, noise_hu=10.0), torso_scan(grid, small_affine(), noise_hu=10.0)
    shape, spacing, size = next(v for kind, v in LOOKS.items() if folder.name.startswith(kind))
    images = disk(shape, 24 * size, 45 * size), disk(shape, 18 * size, 45 * size)
    for image in images:
        image.SetSpacing(spacing)
    return images


def registered(registrar, fixed, moving):
    """Correlation with the moving image resampled through the exported transform."""
    transform = registrar.register(fixed, moving).transform
    least = float(sitk.GetArrayViewFromImage(moving).min())
    return correlation(fixed, sitk.Resample(moving, fixed, transform, sitk.sitkLinear, least))


def correlation(*images):
    return np.corrcoef(*(sitk.GetArrayViewFromImage(i).ravel() for i in images))[0, 1]
