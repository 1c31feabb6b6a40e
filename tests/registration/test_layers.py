from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops
from scipy.interpolate import RBFInterpolator

from registration.layers.affine_field import AffineField
from registration.layers.affine_from_parameters import AffineFromParameters
from registration.layers.affine_resampler import AffineResampler
from registration.layers.bspline_field import BSplineField
from registration.layers.displacement_composition import DisplacementComposition
from registration.layers.displacement_warp import DisplacementWarp
from registration.layers.jacobian_determinant import JacobianDeterminant
from registration.layers.limited_displacement import LimitedDisplacement
from registration.layers.pooled_convolution import PooledConvolution2D
from registration.layers.repeated_border import RepeatedBorder
from registration.layers.spatial_moments import SpatialMoments
from registration.layers.thin_plate_spline_field import ThinPlateSplineField, thin_plate_matrix
from registration.layers.velocity_integration import VelocityIntegration
from tests.registration.check_layer import check_layer

RNG = np.random.default_rng(0)
SHAPE = {2: (24, 40), 3: (10, 15, 9)}
SPACING = {2: (8, 14), 3: (4, 4, 5)}
CENTER = (3.0, -4.0, 5.0)
SPACING_MM = (0.8, 1.1, 3.0)


def images(d, channels=1):
    return RNG.normal(0, 1, (2, *SHAPE[d], channels))


def field(d):
    return RNG.normal(0, 0.3, (2, *SHAPE[d], d))


def points(d, border=0):
    lattice = [-(-n // s) + 2 * border for n, s in zip(SHAPE[d], SPACING[d], strict=True)]
    return RNG.normal(0, 2, (2, *lattice, d))


def matrices(d):
    return np.eye(d + 1) + np.pad(RNG.normal(0, 0.1, (2, d, d + 1)), [(0, 0), (0, 1), (0, 0)])


def labels(d):
    return RNG.integers(0, 9, (2, *SHAPE[d], 1), dtype=np.int32)


CONTRACTS = {
    "affine field": lambda d: (AffineField(SPACING_MM[:d]), matrices(d), images(d)),
    "affine from parameters": lambda d: (
        AffineFromParameters(CENTER[:d]),
        RNG.normal(0, 0.3, (2, {2: 6, 3: 12}[d])),
    ),
    "affine resampler": lambda d: (
        AffineResampler(padding="border"),
        images(d),
        *(matrices(d) for _ in range(3)),
    ),
    "B-spline field": lambda d: (BSplineField(SPACING[d]), points(d), images(d)),
    "quadratic B-spline field": lambda d: (
        BSplineField(SPACING[d], order=2),
        points(d),
        images(d),
    ),
    "B-spline field with a border": lambda d: (
        BSplineField(SPACING[d], border=1),
        points(d, 1),
        images(d),
    ),
    "composition": lambda d: (DisplacementComposition(), field(d), 0.5 * field(d)),
    "addition": lambda d: (DisplacementComposition("add"), field(d), 0.5 * field(d)),
    "warp": lambda d: (DisplacementWarp(), images(d), field(d)),
    "warp with a value outside": lambda d: (DisplacementWarp(padding=-3.0), images(d), field(d)),
    "warp to the nearest": lambda d: (DisplacementWarp("nearest"), images(d), field(d)),
    "warp of labels": lambda d: (DisplacementWarp("nearest", 0.0), labels(d), field(d)),
    "Jacobian": lambda d: (JacobianDeterminant(), field(d)),
    "limited displacement": lambda d: (LimitedDisplacement((0.2, 0.4, 0.8)[:d]), field(d)),
    "moments": lambda d: (SpatialMoments(), images(d, 3)),
    "thin plate spline": lambda d: (ThinPlateSplineField(SPACING[d]), points(d), images(d)),
    "integration": lambda d: (VelocityIntegration(2), field(d)),
}
"""Layer and inputs by dimension."""


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("make", CONTRACTS.values(), ids=CONTRACTS)
def test_a_layer_of_coordinates_keeps_the_contract(make, dimension, tmp_path):
    layer, *inputs = make(dimension)
    check_layer(layer, inputs, tmp_path, atol=1e-4)


@pytest.mark.parametrize("dimension", [2, 3])
def test_repeated_border_keeps_the_layer_contract(dimension, tmp_path):
    check_layer(RepeatedBorder(2), [images(dimension)], tmp_path, of_features=True)


@pytest.mark.parametrize("shape", [(8, 12), (7, 12)], ids=["even", "odd"])
def test_pooled_convolution_keeps_the_layer_contract(shape, tmp_path):
    layer = PooledConvolution2D(5, activation="elu", bias_initializer="random_normal")
    inputs = RNG.normal(0, 1, (2, *shape, 2))
    check_layer(layer, [inputs], tmp_path, of_features=True)


@pytest.mark.parametrize(("interpolation", "kind"), [("nearest", "int32"), ("linear", "float32")])
def test_warped_labels_have_the_type_that_is_declared(interpolation, kind):
    layer = DisplacementWarp(interpolation)
    symbol = layer(keras.Input((None, None, 1), dtype="int32"), keras.Input((None, None, 2)))
    found = layer(labels(2), field(2).astype(np.float32))
    assert symbol.dtype == keras.backend.standardize_dtype(found.dtype) == kind


def test_limited_displacements_are_those_of_tanh():
    values = field(2)
    found = ops.convert_to_numpy(LimitedDisplacement((0.2, 0.4))(values))
    scale = np.array([0.2, 0.4])
    np.testing.assert_allclose(found, scale * np.tanh(values / scale), atol=1e-6)


def test_repeated_border_is_padding_by_the_edge():
    values = images(3)
    expected = np.pad(values, [(0, 0), (2, 2), (2, 2), (2, 2), (0, 0)], mode="edge")
    found = ops.convert_to_numpy(RepeatedBorder(2)(values))
    np.testing.assert_array_equal(found, expected.astype(np.float32))


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
