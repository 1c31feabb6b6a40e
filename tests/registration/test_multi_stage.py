from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops
from scipy.ndimage import affine_transform, gaussian_filter

from registration.layers.affine_field import AffineField
from registration.networks.affine_stage import AffineConfig
from registration.networks.deformable_network import DeformableConfig
from registration.networks.multi_stage import MultiStageRegistration
from registration.networks.registration_network import RegistrationConfig, build_registration
from registration.warping import warp
from tests.registration.check_layer import check_layer


def shift_stage(shift) -> keras.Model:
    """A stage that always finds the same shift, voxels."""
    fixed = keras.Input((None, None, 1))
    moving = keras.Input((None, None, 1))
    field = keras.layers.Lambda(
        lambda x: ops.zeros_like(ops.concatenate([x, x], -1)) + ops.array(shift, dtype="float32")
    )(fixed)
    return keras.Model([fixed, moving], {"displacement_field": field})


def texture(shape, seed=0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=shape)
    return gaussian_filter(noise, 2.0).astype(np.float32)[None, ..., None]


@pytest.mark.parametrize("composition", ["compose", "add"])
def test_shifts_of_all_stages_add_up_and_the_original_is_warped_once(composition):
    moving = texture((20, 26))
    model = MultiStageRegistration(
        [shift_stage((1.5, 0.0)), shift_stage((0.5, -2.5)), shift_stage((0.0, 0.5))],
        composition=composition,
    )
    out = model([np.zeros_like(moving), moving])
    np.testing.assert_allclose(out["stage_fields"][1][0, 5, 5], [2.0, -2.5], atol=1e-6)
    # whole voxels: had every stage interpolated anew, the halves would have blurred it
    expected = moving[0, 5 + 2, 8 - 2, 0]
    assert float(out["moved"][0, 5, 8, 0]) == pytest.approx(expected, abs=1e-6)


def test_only_the_chosen_stage_is_trained():
    convolution = keras.layers.Conv2D(2, 3, padding="same")
    fixed, moving = keras.Input((8, 8, 1)), keras.Input((8, 8, 1))
    field = convolution(keras.layers.Concatenate()([fixed, moving]))
    stage = keras.Model([fixed, moving], {"displacement_field": field})
    model = MultiStageRegistration([stage, shift_stage((0.0, 0.0))])
    model([np.zeros((1, 8, 8, 1)), np.zeros((1, 8, 8, 1))])
    model.freeze_all_but(1)
    assert model.trainable_weights == []
    model.freeze_all_but(0)
    assert len(model.trainable_weights) == 2


@pytest.mark.parametrize("composition", ["compose", "add"])
def test_a_saved_registration_is_the_same_when_it_is_loaded(tmp_path, composition):
    stages = (AffineConfig(2, kernels=2, poolings=1), DeformableConfig((2, 2), kernels=2))
    model = build_registration(RegistrationConfig(stages, composition=composition))
    rng = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(0.0, 0.2, weight.shape))
    pair = [texture((16, 20), seed) for seed in (1, 2)]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected, found = (m(pair)["displacement_field"] for m in (model, loaded))
    assert np.abs(expected).max() > 0.3
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_affine_field_keeps_the_layer_contract(tmp_path):
    matrices = np.tile(np.eye(4), (2, 1, 1))
    matrices[:, :3] += np.random.default_rng(0).normal(0, 0.05, (2, 3, 4))
    images = np.zeros((2, 6, 9, 7, 1))
    check_layer(AffineField((0.8, 1.1, 3.0)), [matrices, images], tmp_path)


def test_affine_field_moves_images_as_scipy_does():
    spacing_xyz = (0.7, 1.9, 3.1)
    shape = (12, 17, 21)
    moving = texture(shape, seed=3)
    matrix = np.eye(4)
    matrix[:3, :3] += np.random.default_rng(1).normal(0.0, 0.08, (3, 3))
    matrix[:3, 3] = (1.3, -2.0, 4.0)
    field = AffineField(spacing_xyz)(matrix[None].astype(np.float32), moving)
    moved = ops.convert_to_numpy(warp(moving, field, padding=0.0))[0, ..., 0]

    flip = np.eye(4)[[2, 1, 0, 3]]
    in_zyx = flip @ matrix @ flip
    middle = (np.array(shape) - 1) / 2
    to_mm = np.diag([*spacing_xyz[::-1], 1.0])
    to_mm[:3, 3] = -middle * spacing_xyz[::-1]
    index_map = np.linalg.inv(to_mm) @ in_zyx @ to_mm
    expected = affine_transform(moving[0, ..., 0], index_map, order=1, mode="grid-constant")
    np.testing.assert_allclose(moved, expected, atol=1e-4)


def test_unusable_stages_are_named():
    with pytest.raises(ValueError, match="at least one network"):
        MultiStageRegistration([])
    with pytest.raises(ValueError, match="'compose' or 'add'"):
        MultiStageRegistration([shift_stage((0, 0))], composition="sum")
    with pytest.raises(ValueError, match="there are 1 stages"):
        MultiStageRegistration([shift_stage((0, 0))]).freeze_all_but(1)
