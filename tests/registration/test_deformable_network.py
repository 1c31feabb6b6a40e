from __future__ import annotations

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from registration.networks.deformable_network import DeformableConfig, deformable_network
from registration.warping import jacobian_determinant
from tests.registration.gradients import weight_gradients

VARIANTS = {
    "baseline": {},
    "max pooling": {"downsampling": "max"},
    "strided": {"downsampling": "strided"},
    "quadratic": {"transformer": "bspline2"},
    "thin plate": {"transformer": "thin_plate_spline"},
    "overlapping": {"receptive_field": "overlapping"},
    "full image": {"receptive_field": "full"},
    "diffeomorphic": {"diffeomorphic": True},
    "limited": {"displacement_limit": 0.4},
    "rectified": {"activation": "relu"},
    "border": {"convolutions": 2, "border": 2},
    "forces": {"forces": True},
}


def randomize(network: keras.Model, seed: int = 0, scale: float = 1.0) -> None:
    """Give every weight a value, the zero-initialized output among them."""
    rng = np.random.default_rng(seed)
    for weight in network.trainable_weights:
        fan_in = max(int(np.prod(weight.shape[:-1])), 1)
        weight.assign(scale * rng.normal(0.0, fan_in**-0.5, weight.shape))


def pair(shape, seed=0):
    return list(np.random.default_rng(seed).uniform(0, 1, (2, 1, *shape, 1)).astype(np.float32))


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_starts_at_the_identity_and_has_a_gradient(changes):
    network = deformable_network(
        DeformableConfig(downsamplings=(3, 3), kernels=4, **changes), image_shape=(32, 40)
    )
    fixed, moving = pair((32, 40))
    out = network([fixed, moving])
    border = changes.get("border", 0)
    assert out["control_points"].shape == (1, 4 + 2 * border, 5 + 2 * border, 2)
    assert np.array_equal(ops.convert_to_numpy(out["displacement_field"]), np.zeros((1, 32, 40, 2)))
    randomize(network)
    gradients = weight_gradients(
        network, [fixed, moving], lambda out: ops.sum(out["displacement_field"] ** 2)
    )
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in gradients)


@pytest.fixture
def mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("shape", [(16, 24), (8, 12, 10)], ids=["2-D", "3-D"])
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_gives_float32_fields_under_half_precision(changes, shape, mixed_precision):
    config = DeformableConfig(downsamplings=(2, 2, 1)[: len(shape)], kernels=3, **changes)
    network = deformable_network(config, image_shape=shape)
    assert network.get_layer("hidden_1").compute_dtype == "float16"
    randomize(network)
    for values in network(pair(shape)).values():
        assert keras.backend.standardize_dtype(values.dtype) == "float32"
        assert np.isfinite(ops.convert_to_numpy(values)).all()


def test_features_have_unit_spread_where_they_are_normalized():
    config = DeformableConfig(downsamplings=(3, 3), kernels=(4, 6, 8), hidden_layers=1)
    network = deformable_network(config)
    names = [layer.name for layer in network.layers if layer.name.startswith("normalization")]
    assert names == [f"normalization_{n}" for n in ("pair", "1", "2", "3", "hidden_1")]
    seen = keras.Model(network.inputs, [network.get_layer(name).output for name in names])
    fixed, moving = (np.random.default_rng(n).uniform(0.4, 0.5, (4, 32, 40, 1)) for n in (0, 1))
    for features in seen([fixed, moving], training=True):
        assert np.std(features, axis=(0, 1, 2)) == pytest.approx(1.0, rel=0.05)
    plain = deformable_network(DeformableConfig(downsamplings=(3, 3), normalization=None))
    assert not any("normalization" in layer.name for layer in plain.layers)


def test_kernels_may_grow_with_every_halving_of_any_axis():
    network = deformable_network(DeformableConfig(downsamplings=(1, 3, 2), kernels=(4, 6, 8)))
    assert [network.get_layer(f"convolution_{n}").filters for n in (1, 2, 3)] == [4, 6, 8]
    assert network.get_layer("hidden_1").filters == 8
    with pytest.raises(ValueError, match="kernels needs one number, or 3"):
        DeformableConfig(downsamplings=(1, 3, 2), kernels=(4, 6))


def test_forces_need_values_to_compare():
    with pytest.raises(ValueError, match="forces need a normalization"):
        DeformableConfig(forces=True, normalization=None)


def test_points_of_the_border_see_the_image_or_there_are_none():
    for changes in ({"border": 1}, {"border": 3, "convolutions": 2}, {"border": -1}):
        with pytest.raises(ValueError, match="number of convolutions after the last downsampling"):
            DeformableConfig(**changes)
    with pytest.raises(ValueError, match="a thin plate spline has no border"):
        DeformableConfig(border=1, convolutions=1, transformer="thin_plate_spline")
    network = deformable_network(DeformableConfig((3, 3), kernels=4, convolutions=1, border=1))
    randomize(network)
    fixed, moving = pair((32, 40))
    before = ops.convert_to_numpy(network([fixed, moving])["control_points"])
    fixed[:, :8, :8] *= -1.0
    change = ops.convert_to_numpy(network([fixed, moving])["control_points"]) - before
    assert np.abs(change[0, 0, 0]).max() > 0.1 * np.abs(change).max() > 0.0


PREDICTION = """
import numpy as np, tensorflow as tf
from registration.networks.deformable_network import DeformableConfig, deformable_network
config = DeformableConfig((2, 2, 2), kernels=8, convolutions=2, border=1)
network = deformable_network(config)
rng = np.random.default_rng(0)
for weight in network.trainable_weights:
    weight.assign(rng.normal(0.0, 0.3, weight.shape))
pair = [tf.constant(rng.uniform(0, 1, (1, 24, 20, 16, 1)), tf.float32) for _ in range(2)]
compiled = tf.function(lambda a, b: network([a, b], training=False)["control_points"])
np.testing.assert_allclose(compiled(*pair), network(pair)["control_points"], rtol=1e-3, atol=1e-3)
"""


@pytest.mark.parametrize("kernels", ["0", "1"])
def test_compiled_prediction_is_the_layers_one_after_the_other(kernels):
    """oneDNN's graph optimizer makes a wrong convolution of a padding and a padded convolution."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("tests the graph optimizer of TensorFlow")
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": kernels}
    done = subprocess.run(
        [sys.executable, "-c", PREDICTION], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_whole_images_of_any_size_pass_through_a_patch_network():
    config = DeformableConfig(downsamplings=(1, 3, 2), kernels=4, stem_stride=2)
    network = deformable_network(config)
    for shape in ((6, 32, 20), (9, 41, 18)):
        out = network(pair(shape))
        lattice = tuple(-(-n // s) for n, s in zip(shape, (2, 8, 4), strict=True))
        assert out["control_points"].shape == (1, *lattice, 3)
        assert out["displacement_field"].shape == (1, *shape, 3)


def test_control_points_stay_within_their_limit():
    config = DeformableConfig(downsamplings=(3, 4), kernels=4, displacement_limit=0.4)
    network = deformable_network(config)
    randomize(network, scale=50.0)
    control_points = ops.convert_to_numpy(network(pair((32, 48)))["control_points"])
    assert np.all(np.abs(control_points).max(axis=(0, 1, 2)) <= np.float32([0.4 * 8, 0.4 * 16]))
    assert np.abs(control_points[..., 1]).max() > 0.3 * 16


@pytest.mark.parametrize(("steps", "shape"), [((3, 3), (48, 64)), ((2, 2, 2), (16, 20, 24))])
def test_velocities_fold_nothing_where_displacements_of_the_same_points_do(steps, shape):
    outputs = []
    for diffeomorphic in (False, True):
        network = deformable_network(DeformableConfig(steps, 4, diffeomorphic=diffeomorphic))
        randomize(network)
        last, spacing = network.get_layer("control_points_free"), 2 ** steps[0]
        points = ops.convert_to_numpy(network(pair(shape))["control_points"])
        points = points.reshape(-1, len(shape)) / spacing
        # control points around zero that differ by more than their distance
        kernel, bias = last.get_weights()
        ratio = 1.2 / points.std(axis=0)
        last.set_weights([ratio * kernel, ratio * (bias - points.mean(axis=0))])
        outputs.append(network(pair(shape)))
    displacements, velocities = outputs
    np.testing.assert_array_equal(displacements["control_points"], velocities["control_points"])
    least = [float(ops.min(jacobian_determinant(o["displacement_field"]))) for o in outputs]
    assert least[0] < -0.1
    assert least[1] > 0.0


def reach(receptive_field: str) -> int:
    """How far, in voxels along one axis, a change of the image moves the first control point."""
    config = DeformableConfig(downsamplings=(2, 2), kernels=3, receptive_field=receptive_field)
    network = deformable_network(config)
    randomize(network, scale=2.0)
    fixed, moving = pair((16, 160))
    before = ops.convert_to_numpy(network([fixed, moving])["control_points"])[0, 2, 20]
    for distance in range(75, 0, -1):
        changed = moving.copy()
        changed[0, :, 80 + 1 - distance : 80 + 2 - distance] += 10.0
        after = ops.convert_to_numpy(network([fixed, changed])["control_points"])[0, 2, 20]
        if np.abs(after - before).max() > 1e-6:
            return distance
    return 0


def test_receptive_fields_grow_in_the_order_of_the_paper():
    # two 3x3 convolutions at strides 1 and 2 reach 3 voxels past the patch of 4, a third
    # one at stride 4 four more, and dilations of 1, 2, 4 and 8 at that stride 60
    baseline, overlapping, full = (reach(r) for r in ("baseline", "overlapping", "full"))
    assert overlapping == baseline + 4
    assert full == baseline + 60


def test_unknown_choices_are_named():
    with pytest.raises(ValueError, match=r"downsampling must be one of .* Received: 'mean'"):
        DeformableConfig(downsampling="mean")
    with pytest.raises(ValueError, match="two or three numbers"):
        DeformableConfig(downsamplings=(4,))
    with pytest.raises(ValueError, match="stem_stride must be 1 or 2"):
        DeformableConfig(stem_stride=3)


def test_the_config_survives_json():
    import json

    config = DeformableConfig(downsamplings=(1, 3, 3), kernels=32, displacement_limit=0.4)
    assert DeformableConfig(**json.loads(json.dumps(config.to_dict()))) == config
