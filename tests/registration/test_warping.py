from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops
from scipy.ndimage import gaussian_filter, map_coordinates

from registration.warping import (
    compose,
    integrate_velocity,
    jacobian_determinant,
    sample_linear,
    voxel_indices,
    warp,
)


def smooth_field(shape, amplitude, seed=0, sigma=3.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    field = np.stack([gaussian_filter(rng.normal(size=shape), sigma) for _ in shape], axis=-1)
    return (amplitude * field / np.abs(field).max()).astype(np.float32)


def test_positive_z_displacement_moves_a_bright_voxel_down():
    moving = np.zeros((1, 8, 5, 6, 1), np.float32)
    moving[0, 4, 2, 3] = 1.0
    field = np.zeros((1, 8, 5, 6, 3), np.float32)
    field[..., 0] = 1.0
    moved = ops.convert_to_numpy(warp(moving, field))
    assert np.argwhere(moved[0, ..., 0] == 1.0).tolist() == [[3, 2, 3]]


@pytest.mark.parametrize("shape", [(9, 14), (7, 9, 12)])
@pytest.mark.parametrize(
    ("padding", "mode", "cval"),
    [("edge", "nearest", 0.0), (-7.5, "grid-constant", -7.5)],
    ids=["edge", "constant"],
)
def test_linear_sampling_is_that_of_scipy(shape, padding, mode, cval):
    rng = np.random.default_rng(1)
    images = rng.normal(size=(2, *shape, 3)).astype(np.float32)
    out = (5, 6)
    low, high = -2.5, np.array(shape) + 1.5
    positions = rng.uniform(low, high, (2, *out, len(shape))).astype(np.float32)
    sampled = ops.convert_to_numpy(sample_linear(images, positions, padding=padding))
    for b in range(2):
        coordinates = np.moveaxis(positions[b], -1, 0)
        for c in range(3):
            expected = map_coordinates(
                images[b, ..., c], coordinates, order=1, mode=mode, cval=cval
            )
            np.testing.assert_allclose(sampled[b, ..., c], expected, atol=2e-5)


def test_nearest_warp_keeps_labels_and_their_dtype():
    labels = np.array([[0, 0, 7, 7, 3, 3]], np.int32)[..., None, None]
    field = np.full((1, 6, 1, 2), 0.0, np.float32)
    field[..., 0] = 1.4
    moved = ops.convert_to_numpy(warp(labels, field, nearest=True, padding=-1))
    assert moved.dtype == np.int32
    assert moved[0, :, 0, 0].tolist() == [0, 7, 7, 3, 3, -1]


def test_composition_equals_warping_twice():
    shape = (24, 30)
    x = voxel_indices(shape)
    moving = ops.sin(x[..., :1] / 5.0) + ops.cos(x[..., 1:] / 6.0)
    first, second = smooth_field(shape, 2.0, 1)[None], smooth_field(shape, 2.0, 2)[None]
    twice = warp(warp(moving[None], first), second)
    once = warp(moving[None], compose(first, second))
    inner = np.s_[:, 4:-4, 4:-4]
    # twice interpolates twice, which smooths a wave of wavelength 31 by about 1 %
    np.testing.assert_allclose(
        ops.convert_to_numpy(once)[inner], ops.convert_to_numpy(twice)[inner], atol=0.02
    )


def test_composition_of_shifts_adds_them_in_the_right_order():
    first = np.broadcast_to(np.float32([1.0, -2.0]), (1, 9, 9, 2))
    second = np.broadcast_to(np.float32([0.5, 3.0]), (1, 9, 9, 2))
    np.testing.assert_allclose(ops.convert_to_numpy(compose(first, second)), first + second)


def test_integration_of_a_rotation_is_the_exact_rotation():
    shape, angle = (41, 41), 0.4
    center = np.array([20.0, 20.0])
    x = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) - center
    generator = np.array([[0.0, -angle], [angle, 0.0]])
    velocity = (x @ generator.T).astype(np.float32)[None]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    expected = x @ turn.T - x
    field = ops.convert_to_numpy(integrate_velocity(velocity, steps=10))[0]
    # first-order in the first step: angle² / 2**11 * radius
    inner = np.s_[8:-8, 8:-8]
    np.testing.assert_allclose(field[inner], expected[inner], atol=2e-3)


@pytest.mark.parametrize("dimension", [2, 3])
def test_jacobian_of_an_affine_map_is_its_determinant(dimension):
    rng = np.random.default_rng(3)
    matrix = np.eye(dimension) + rng.normal(0.0, 0.2, (dimension, dimension))
    shape = (7, 9, 6)[:dimension]
    x = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    field = (x @ (matrix - np.eye(dimension)).T).astype(np.float32)[None]
    determinant = ops.convert_to_numpy(jacobian_determinant(field))
    assert determinant.shape == (1, *shape)
    np.testing.assert_allclose(determinant, np.linalg.det(matrix), rtol=1e-4)


@pytest.mark.parametrize("is_traced", [False, True])
def test_nothing_changes_along_an_axis_of_one_voxel(is_traced):
    slice_field = np.random.default_rng(3).normal(size=(2, 7, 6, 2)).astype(np.float32)
    field = np.zeros((2, 1, 7, 6, 3), np.float32)
    field[..., 1:] = slice_field[:, None]
    determinants = jacobian_determinant
    if is_traced:
        if keras.backend.backend() != "tensorflow":
            pytest.skip("shapes are unknown in the graphs of TensorFlow alone")
        import tensorflow as tf

        traced = tf.TensorSpec((None, None, None, None, 3))
        determinants = tf.function(jacobian_determinant, input_signature=[traced])
    found = ops.convert_to_numpy(determinants(field))[:, 0]
    expected = ops.convert_to_numpy(jacobian_determinant(slice_field))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_mirrored_axis_has_a_negative_jacobian():
    field = np.zeros((1, 6, 6, 6, 3), np.float32)
    field[..., 1] = -2.0 * np.arange(6)[:, None]
    np.testing.assert_allclose(ops.convert_to_numpy(jacobian_determinant(field)), -1.0, atol=1e-6)
