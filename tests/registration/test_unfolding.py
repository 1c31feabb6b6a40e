from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from scipy.interpolate import BSpline

from registration.bsplines import bspline_field
from registration.metrics import jacobian_determinant
from registration.networks.affine_stage import AffineConfig
from registration.networks.deformable_network import DeformableConfig, deformable_network
from registration.networks.registration_network import RegistrationConfig, build_registration
from registration.networks.stage_run import StageRun, run_network
from registration.unfolding import smoothed, unfolded

CASES = [
    ((40, 48), (8.0, 8.0), 0, 3),
    ((41, 37), (8.0, 4.0), 1, 2),
    ((6, 40, 44), (1.0, 8.0, 8.0), 1, 3),
    ((24, 30, 26), (4.0, 4.0, 8.0), 1, 3),
    ((16, 18, 20), (4.0, 2.0, 4.0), 0, 2),
]


def lattice_points(shape, spacing, border, *, scale=0.9, batch=1, seed=0):
    lattice = [int(np.ceil(n / s)) + 2 * border for n, s in zip(shape, spacing, strict=True)]
    points = np.random.default_rng(seed).normal(0, scale, (batch, *lattice, len(shape)))
    return (points * np.array(spacing)).astype(np.float32)


def determinants(points, shape, spacing, border, order):
    field = bspline_field(points, shape, spacing=spacing, border=border, order=order)
    return [
        jacobian_determinant(one.astype(float), spacing=[1.0] * len(shape))
        for one in ops.convert_to_numpy(field)
    ]


@pytest.mark.parametrize(("shape", "spacing", "border", "order"), CASES)
def test_folds_are_smoothed_away(shape, spacing, border, order):
    points = lattice_points(shape, spacing, border)
    lattice = {"spacing": spacing, "border": border, "order": order}
    before = np.mean(determinants(points, shape, **lattice)[0] <= 0)
    found = ops.convert_to_numpy(unfolded(points, shape, **lattice))
    assert found.shape == points.shape
    assert exact_determinants(found, shape, **lattice).min() > 0
    # differences of voxels, where points next to each other move half a spacing apart at random
    after = np.mean(determinants(found, shape, **lattice)[0] <= 0)
    assert before > 0.01
    assert after <= (0.02 if order == 3 else 0.05) * before


def exact_determinants(points, shape, spacing, border, order):
    """By differences over a hundredth of a voxel, of splines evaluated by scipy's bases."""
    step = 0.01
    middles = [
        np.arange(max(1, s // 4) / 2 - 0.5, n, max(1, s // 4))
        for n, s in zip(shape, spacing, strict=True)
    ]

    def field(offset):
        values = points[0].astype(float)
        for axis, (at, s) in enumerate(zip(middles, spacing, strict=True)):
            count = values.shape[axis]
            knots = (at + offset[axis] - (s - 1) / 2) / s + border
            padded = np.pad(
                np.eye(count), [(4, 4), (0, 0)], mode="edge"
            )  # outermost values are repeated
            basis = BSpline.basis_element(np.arange(order + 2) - (order + 1) / 2, False)
            matrix = np.nan_to_num(basis(knots[:, None] + 4 - np.arange(count + 8))) @ padded
            values = np.moveaxis(np.tensordot(matrix, values, (1, axis)), 0, axis)
        return values

    jacobian = [
        (field(step * unit) - field(-step * unit)) / (2 * step) for unit in np.eye(len(shape))
    ]
    return np.linalg.det(np.stack(jacobian, axis=-1) + np.eye(len(shape)))


def test_what_does_not_fold_stays_as_it_is():
    shape, spacing = (24, 30, 26), (4.0, 4.0, 8.0)
    points = lattice_points(shape, spacing, 1, scale=0.1)
    np.testing.assert_array_equal(unfolded(points, shape, spacing=spacing, border=1), points)


def test_a_small_fold_changes_its_surroundings_alone_and_little():
    shape, spacing = (64, 64), (8.0, 8.0)
    rows, columns = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
    points = np.stack([np.sin(rows), np.cos(columns)], axis=-1)[None].astype(np.float32)
    points[0, 2, 2] += [24.0, 0.0]  # further than its neighbor lies away
    lattice = {"spacing": spacing, "border": 0, "order": 3}
    assert determinants(points, shape, **lattice)[0].min() < 0
    found = ops.convert_to_numpy(unfolded(points, shape, **lattice))
    assert determinants(found, shape, **lattice)[0].min() > 0
    changed = np.abs(found - points)[0].max(axis=-1) > 0
    assert changed[2, 2]
    assert not changed[6:].any()
    assert not changed[:, 6:].any()
    # the least that unfolds it: the point stays most of the way out
    assert found[0, 2, 2, 0] > 0.6 * points[0, 2, 2, 0]


def test_pairs_of_a_batch_are_on_their_own():
    shape, spacing = (24, 30, 26), (4.0, 4.0, 8.0)
    wild = lattice_points(shape, spacing, 1)
    calm = lattice_points(shape, spacing, 1, scale=0.1, seed=1)
    both = ops.convert_to_numpy(
        unfolded(np.concatenate([wild, calm]), shape, spacing=spacing, border=1)
    )
    np.testing.assert_array_equal(both[1], calm[0])
    alone = ops.convert_to_numpy(unfolded(wild, shape, spacing=spacing, border=1))
    np.testing.assert_allclose(both[0], alone[0], atol=1e-4)


def test_one_trace_serves_every_size():
    spacing = (4.0, 8.0)

    @tf.function(
        input_signature=[tf.TensorSpec((None, None, None, 2)), tf.TensorSpec((2,), "int32")]
    )
    def traced(points, shape):
        return unfolded(points, (shape[0], shape[1]), spacing=spacing, border=1)

    for shape in ((40, 48), (20, 64)):
        points = lattice_points(shape, spacing, 1)
        found = traced(points, shape).numpy()
        np.testing.assert_allclose(
            found, unfolded(points, shape, spacing=spacing, border=1), atol=1e-4
        )
        assert determinants(found, shape, spacing, 1, 3)[0].min() > 0
    assert traced.experimental_get_tracing_count() == 1


def test_smoothing_keeps_what_is_straight_and_halves_a_peak():
    ramp = np.tile(np.arange(6.0, dtype=np.float32)[:, None], (1, 4))[None, ..., None]
    inner = ops.convert_to_numpy(smoothed(ramp))[:, 1:-1]
    np.testing.assert_allclose(inner, ramp[:, 1:-1], atol=1e-6)
    peak = np.zeros((1, 5, 5, 1), np.float32)
    peak[0, 2, 2] = 16.0
    found = ops.convert_to_numpy(smoothed(peak))[0, ..., 0]
    np.testing.assert_allclose(found[1:4, 1:4], [[1, 2, 1], [2, 4, 2], [1, 2, 1]], atol=1e-6)
    assert found.sum() == pytest.approx(16.0)


def test_a_stage_unfolds_what_its_passes_left():
    layout = DeformableConfig((2, 2), kernels=4, convolutions=1, border=1)
    network = deformable_network(layout)
    rng = np.random.default_rng(1)
    network.set_weights(
        [rng.normal(0, 0.7, w.shape) if w.ndim > 1 else w for w in network.get_weights()]
    )
    images = [
        ops.convert_to_tensor(i) for i in rng.uniform(0, 1, (2, 2, 24, 20, 1)).astype("float32")
    ]
    folds = []
    for unfold in (False, True):
        output = run_network(network, *images, StageRun(2, unfold=unfold))
        field = ops.convert_to_numpy(output["displacement_field"]).astype(float)
        points = ops.convert_to_numpy(output["control_points"])
        np.testing.assert_allclose(
            bspline_field(points, (24, 20), spacing=(4, 4), border=1), field, atol=1e-4
        )
        folds.append(min(jacobian_determinant(f, spacing=(1.0, 1.0)).min() for f in field))
    assert folds[0] < 0 < folds[1]


def test_every_deformable_stage_can_be_told_to_unfold():
    affine = AffineConfig(3, kernels=2, poolings=2, dense_units=(2,))
    stage = DeformableConfig((2, 2, 2), kernels=4)
    config = RegistrationConfig((affine, stage)).unfolding()
    assert config.stages == (affine, replace(stage, unfold=True))
    assert RegistrationConfig.from_dict(config.to_dict()).stages == config.stages
    assert [run.unfold for run in build_registration(config).runs] == [False, True]
    with pytest.raises(ValueError, match="needs a deformable stage"):
        RegistrationConfig((affine,)).unfolding()


@pytest.mark.parametrize("changes", [{"transformer": "thin_plate_spline"}, {"diffeomorphic": True}])
def test_what_is_no_spline_of_displacements_cannot_be_unfolded(changes):
    with pytest.raises(ValueError, match="unfold needs a B-spline of displacements"):
        DeformableConfig((3, 3), unfold=True, **changes)
