import keras
import numpy as np
import pytest
from keras import ops

from registration.layers.bspline_field import BSplineField
from registration.networks.deformable_network import DeformableConfig, deformable_network
from registration.networks.repeated_passes import RepeatedPasses
from registration.warping import warp

LAYOUT = {"downsamplings": (2, 2), "kernels": 4, "convolutions": 1, "border": 1}


def pair(shape=(2, 24, 20, 1)):
    images = np.random.default_rng(0).uniform(0, 1, (2, *shape)).astype(np.float32)
    return [ops.convert_to_tensor(image) for image in images]


def moving_network(passes):
    """The same random weights for any number of passes."""
    network = deformable_network(DeformableConfig(**LAYOUT, passes=passes))
    rng = np.random.default_rng(1)
    network.set_weights(
        [rng.normal(0, 0.3, w.shape) if w.ndim > 1 else w for w in network.get_weights()]
    )
    return network


def values(output):
    return {name: ops.convert_to_numpy(value) for name, value in output.items()}


def test_every_pass_sees_what_the_ones_before_left_and_adds_to_them():
    once = moving_network(1)
    fixed, moving = pair()
    first = values(once([fixed, moving]))
    second = values(once([fixed, warp(moving, first["displacement_field"])]))
    field = first["displacement_field"] + second["displacement_field"]
    third = values(once([fixed, warp(moving, field)]))
    found = values(moving_network(3)([fixed, moving]))
    assert np.abs(second["displacement_field"]).max() > 0.01
    for name, value in found.items():
        np.testing.assert_allclose(value, first[name] + second[name] + third[name], atol=1e-4)


def test_one_lattice_of_control_points_stands_for_the_field():
    found = values(moving_network(2)(pair()))
    field = BSplineField((4, 4), border=1)(found["control_points"], pair()[0])
    np.testing.assert_allclose(found["displacement_field"], field, atol=1e-4)


def test_training_takes_one_pass():
    once, twice = moving_network(1), moving_network(2)
    expected, found = (values(network(pair(), training=True)) for network in (once, twice))
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-5)


def test_passes_are_kept_in_a_saved_network_and_need_no_further_weights(tmp_path):
    network = moving_network(2)
    assert [w.shape for w in network.weights] == [w.shape for w in moving_network(1).weights]
    expected = values(network(pair()))
    network.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    assert isinstance(loaded, RepeatedPasses)
    assert loaded.passes == 2
    for name, value in values(loaded(pair())).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"passes": 0}, "passes must be 1 or more"),
        ({"passes": 2, "diffeomorphic": True}, "passes add displacements"),
        ({"passes": 2, "displacement_limit": 0.4}, "passes add displacements"),
    ],
)
def test_passes_that_cannot_be_added_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DeformableConfig(**changes)
    if changes == {"passes": 0}:
        with pytest.raises(ValueError, match=message):
            RepeatedPasses(moving_network(1), 0)
