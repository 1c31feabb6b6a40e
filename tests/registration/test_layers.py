from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops
from scipy.interpolate import RBFInterpolator

from registration.layers.bspline_field import BSplineField
from registration.layers.displacement_composition import DisplacementComposition
from registration.layers.displacement_warp import DisplacementWarp
from registration.layers.jacobian_determinant import JacobianDeterminant
from registration.layers.repeated_border import RepeatedBorder
from registration.layers.thin_plate_spline_field import ThinPlateSplineField, thin_plate_matrix
from registration.layers.velocity_integration import VelocityIntegration
from tests.registration.check_layer import check_layer

RNG = np.random.default_rng(0)
CONTROL_2D = RNG.normal(0, 2, (2, 3, 5, 2))
FIXED_2D = RNG.normal(0, 1, (2, 24, 40, 1))
CONTROL_3D = RNG.normal(0, 2, (2, 3, 4, 2, 3))
FIXED_3D = RNG.normal(0, 1, (2, 10, 15, 9, 1))
FIELD_2D = RNG.normal(0, 0.3, (2, 9, 14, 2))
FIELD_3D = RNG.normal(0, 0.3, (2, 10, 15, 9, 3))


@pytest.mark.parametrize("order", [2, 3])
def test_bspline_field_keeps_the_layer_contract(order, tmp_path):
    check_layer(BSplineField((8, 8), order=order), [CONTROL_2D, FIXED_2D], tmp_path)
    check_layer(BSplineField((4, 4, 5), order=order), [CONTROL_3D, FIXED_3D], tmp_path)
    check_layer(BSplineField((8, 14), order=order, border=1), [CONTROL_2D, FIXED_2D], tmp_path)


def test_repeated_border_keeps_the_layer_contract(tmp_path):
    check_layer(RepeatedBorder(2), [FIELD_2D], tmp_path)
    check_layer(RepeatedBorder(1), [FIXED_3D], tmp_path)


def test_repeated_border_is_padding_by_the_edge():
    expected = np.pad(FIXED_3D, [(0, 0), (2, 2), (2, 2), (2, 2), (0, 0)], mode="edge")
    found = ops.convert_to_numpy(RepeatedBorder(2)(FIXED_3D))
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_thin_plate_spline_field_keeps_the_layer_contract(tmp_path):
    check_layer(ThinPlateSplineField((8, 8)), [CONTROL_2D, FIXED_2D], tmp_path)
    check_layer(ThinPlateSplineField((4, 4, 5)), [CONTROL_3D, FIXED_3D], tmp_path)


@pytest.mark.parametrize("padding", ["edge", -3.0])
def test_displacement_warp_keeps_the_layer_contract(padding, tmp_path):
    check_layer(DisplacementWarp(padding=padding), [FIXED_3D, FIELD_3D], tmp_path)
    images = RNG.normal(0, 1, (2, 9, 14, 1))
    check_layer(DisplacementWarp("nearest", padding), [images, FIELD_2D], tmp_path)


@pytest.mark.parametrize("mode", ["compose", "add"])
def test_displacement_composition_keeps_the_layer_contract(mode, tmp_path):
    check_layer(DisplacementComposition(mode), [FIELD_3D, 0.5 * FIELD_3D], tmp_path)


def test_velocity_integration_keeps_the_layer_contract(tmp_path):
    check_layer(VelocityIntegration(2), [FIELD_2D], tmp_path)


def test_jacobian_determinant_keeps_the_layer_contract(tmp_path):
    check_layer(JacobianDeterminant(), [FIELD_3D], tmp_path)


def test_one_trace_serves_every_image_size():
    control = keras.Input((None, None, 2))
    fixed = keras.Input((None, None, 1))
    model = keras.Model([control, fixed], BSplineField((8, 8))(control, fixed))
    for shape in ((16, 32), (40, 24)):
        lattice = (shape[0] // 8, shape[1] // 8)
        field = model([np.ones((1, *lattice, 2)), np.zeros((1, *shape, 1))])
        np.testing.assert_allclose(ops.convert_to_numpy(field), np.ones((1, *shape, 2)), atol=1e-6)


@pytest.mark.parametrize(
    ("spacing", "shapes"),
    [((8.0, 6.0), [(16, 33), (256, 240)]), ((5.0, 4.0, 6.0), [(11, 12, 14), (15, 8, 19)])],
)
def test_one_trace_of_a_thin_plate_spline_gives_the_field_of_every_size(spacing, shapes):
    d = len(spacing)
    control = keras.Input((*(None,) * d, d))
    fixed = keras.Input((*(None,) * d, 1))
    model = keras.Model([control, fixed], ThinPlateSplineField(spacing)(control, fixed))
    assert model.output_shape == (None, *(None,) * d, d)
    traces = []

    def run(points, image):
        traces.append(1)
        return model([points, image])

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        sizes = (None,) * (d + 1)
        signature = [tf.TensorSpec((*sizes, d)), tf.TensorSpec((*sizes, 1))]
        run = tf.function(run, autograph=False, input_signature=signature)
    for shape in shapes:
        lattice = tuple(-int(-n // s) for n, s in zip(shape, spacing, strict=True))
        points = np.random.default_rng(0).normal(0, 3, (2, *lattice, d)).astype(np.float32)
        found = ops.convert_to_numpy(run(points, np.zeros((2, *shape, 1), np.float32)))
        matrix = thin_plate_matrix(shape, lattice, spacing)
        expected = (matrix @ points.reshape(2, -1, d)).reshape(2, *shape, d)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert len(traces) == (1 if keras.backend.backend() == "tensorflow" else len(shapes))


def test_a_thin_plate_spline_through_one_row_of_points_is_refused():
    with pytest.raises(ValueError, match=r"two control points along every axis.*\(1, 4\)"):
        ThinPlateSplineField((8, 8))(np.zeros((1, 1, 4, 2)), np.zeros((1, 8, 32, 1)))


@pytest.mark.parametrize(
    ("lattice", "spacing", "kernel"),
    [((4, 5), (6.0, 8.0), "thin_plate_spline"), ((3, 3, 4), (5.0, 4.0, 6.0), "linear")],
)
def test_thin_plate_spline_is_that_of_scipy(lattice, spacing, kernel):
    shape = tuple(int(k * s) for k, s in zip(lattice, spacing, strict=True))
    axes = [(s - 1) / 2 + s * np.arange(k) for k, s in zip(lattice, spacing, strict=True)]
    knots = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(lattice))
    values = np.random.default_rng(1).normal(size=len(knots))
    spline = RBFInterpolator(knots, values, kernel=kernel, degree=1)
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    expected = spline(voxels.reshape(-1, len(lattice)).astype(float))
    np.testing.assert_allclose(
        thin_plate_matrix(shape, lattice, spacing) @ values, expected, atol=1e-5
    )


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="'linear' or 'nearest'"):
        DisplacementWarp("cubic")
    with pytest.raises(ValueError, match="'compose' or 'add'"):
        DisplacementComposition("sum")
    with pytest.raises(ValueError, match="order must be one of"):
        BSplineField((8, 8), order=5)
    with pytest.raises(ValueError, match="must not be negative"):
        VelocityIntegration(-1)
