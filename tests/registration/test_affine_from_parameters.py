import numpy as np
import pytest
import SimpleITK as sitk

from registration.geometry import affine_matrix
from registration.layers.affine_from_parameters import AffineFromParameters
from tests.registration.check_layer import check_layer

CENTER = (12.0, -30.0, 140.0)


def test_zeros_give_the_identity():
    matrix = AffineFromParameters(CENTER)(np.zeros((2, 12)))
    np.testing.assert_allclose(matrix, np.tile(np.eye(4), (2, 1, 1)), atol=1e-5)


def test_translation_is_free_and_in_millimetres():
    parameters = np.zeros((1, 12))
    parameters[0, :3] = (3.0, -0.5, 0.1)
    matrix = np.asarray(AffineFromParameters(CENTER, translation_mm=50.0)(parameters))
    np.testing.assert_allclose(matrix[0, :3, 3], (150.0, -25.0, 5.0), rtol=1e-5)


def test_rotations_follow_simpleitk_about_the_center():
    angles = np.array([0.2, -0.3, 0.25])
    parameters = np.zeros((1, 12))
    parameters[0, 3:6] = np.arctanh(angles / 0.6)
    expected = sitk.Euler3DTransform(CENTER, *angles)
    expected.SetComputeZYX(True)
    matrix = AffineFromParameters(CENTER, max_rotation_rad=0.6)(parameters)
    np.testing.assert_allclose(matrix[0], affine_matrix(expected), atol=1e-4)


def test_scales_and_shears_follow_simpleitk_about_the_center():
    parameters = np.zeros((1, 12))
    parameters[0, 6:9] = np.arctanh(np.log([1.2, 0.9, 1.05]) / 0.5)
    parameters[0, 9:] = np.arctanh(np.array([0.1, -0.2, 0.05]) / 0.3)
    expected = sitk.AffineTransform(3)
    expected.SetCenter(CENTER)
    expected.Scale((1.2, 0.9, 1.05))
    shear = np.array([[1, 0.1, -0.2], [0, 1, 0.05], [0, 0, 1]])
    scaled = shear @ np.array(expected.GetMatrix()).reshape(3, 3)
    expected.SetMatrix(scaled.ravel().tolist())
    matrix = AffineFromParameters(CENTER)(parameters)
    np.testing.assert_allclose(matrix[0], affine_matrix(expected), atol=1e-4)


def test_two_dimensional_rotation_follows_simpleitk():
    parameters = np.zeros((1, 6))
    parameters[0, 2] = np.arctanh(0.4 / 0.6)
    expected = sitk.Euler2DTransform((5.0, 7.0), 0.4)
    matrix = AffineFromParameters((5.0, 7.0))(parameters)
    np.testing.assert_allclose(matrix[0], affine_matrix(expected), atol=1e-5)


def test_no_parameters_can_fold_an_image():
    parameters = np.random.default_rng(0).normal(scale=50.0, size=(200, 12))
    matrix = np.asarray(AffineFromParameters(CENTER)(parameters))
    smallest = np.exp(-3 * 0.5)
    assert np.linalg.det(matrix[:, :3, :3]).min() >= smallest * 0.999


def test_keeps_the_contract_of_layers(tmp_path):
    parameters = np.random.default_rng(1).normal(size=(3, 12)).astype("float32")
    check_layer(AffineFromParameters(CENTER), [parameters], tmp_path, atol=1e-4)


def test_refuses_a_center_of_one_dimension():
    with pytest.raises(ValueError, match=r"two or three values.*Received: \(1.0,\)"):
        AffineFromParameters((1.0,))
