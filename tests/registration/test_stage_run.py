from dataclasses import replace

import numpy as np
import pytest
from keras import ops

from registration.layers.affine_field import AffineField
from registration.layers.bspline_field import BSplineField
from registration.networks.affine_stage import AffineConfig, affine_stage
from registration.networks.deformable_network import DeformableConfig, deformable_network
from registration.networks.multi_stage import MultiStageRegistration
from registration.networks.registration_network import RegistrationConfig, build_registration
from registration.networks.stage_run import StageRun, run_network
from registration.warping import warp

LAYOUT = DeformableConfig(downsamplings=(2, 2), kernels=4, convolutions=1, border=1)


def pair(shape=(2, 24, 20, 1)):
    images = np.random.default_rng(0).uniform(0, 1, (2, *shape)).astype(np.float32)
    return [ops.convert_to_tensor(image) for image in images]


def randomize(network, scale=0.3):
    rng = np.random.default_rng(1)
    network.set_weights(
        [rng.normal(0, scale, w.shape) if w.ndim > 1 else w for w in network.get_weights()]
    )


@pytest.fixture(scope="module")
def network():
    made = deformable_network(LAYOUT)
    randomize(made)
    return made


def values(output):
    return {name: ops.convert_to_numpy(value) for name, value in output.items()}


def test_every_pass_sees_what_the_ones_before_left_and_adds_to_them(network):
    fixed, moving = pair()
    first = values(network([fixed, moving]))
    second = values(network([fixed, warp(moving, first["displacement_field"])]))
    found = values(run_network(network, fixed, moving, StageRun(2)))
    assert set(found) == {"control_points", "displacement_field"}
    total = first["control_points"] + second["control_points"]
    assert 0.01 < np.abs(second["control_points"]).max() < np.abs(total).max()
    np.testing.assert_allclose(found["control_points"], total, atol=1e-4)


def test_under_a_limit_later_passes_go_no_further_out_than_it_and_the_first():
    network = deformable_network(LAYOUT)
    randomize(network, scale=0.6)
    fixed, moving = pair()
    bound = 0.4 * 4
    first = values(network([fixed, moving]))["control_points"]
    free, held = (
        values(run_network(network, fixed, moving, StageRun(4, limit)))["control_points"]
        for limit in (None, 0.4)
    )
    allowed = np.maximum(np.abs(first), bound) + 1e-5
    assert np.abs(first).max() > bound
    assert np.any(np.abs(free) > allowed)
    assert np.all(np.abs(held) <= allowed)


def test_one_lattice_of_control_points_stands_for_all_passes(network):
    found = values(run_network(network, *pair(), StageRun(2)))
    field = BSplineField((4, 4), border=1)(found["control_points"], pair()[0])
    np.testing.assert_allclose(found["displacement_field"], field, atol=1e-4)


def test_matrices_of_passes_are_multiplied_the_first_one_applied_last():
    layout = AffineConfig(2, kernels=4, poolings=2, fusion="pair", head="votes")
    network = affine_stage(layout, spacing=(1.0, 2.0))
    randomize(network, scale=0.5)
    fixed, moving = pair()
    first = values(network([fixed, moving]))
    second = values(network([fixed, warp(moving, first["displacement_field"])]))
    found = values(run_network(network, fixed, moving, StageRun(2)))
    assert np.abs(second["matrix"] - np.eye(3)).max() > 0.02
    # a point of the fixed image goes through the last matrix before it meets the moving image
    total = first["matrix"] @ second["matrix"]
    assert np.abs(total - second["matrix"] @ first["matrix"]).max() > 1e-3
    np.testing.assert_allclose(found["matrix"], total, atol=1e-5)
    field = values({"field": AffineField((1.0, 2.0))(found["matrix"], fixed)})["field"]
    np.testing.assert_allclose(found["displacement_field"], field, atol=1e-4)


def test_affine_stages_keep_their_passes_when_those_of_the_others_are_set():
    settings = RegistrationConfig((AffineConfig(2), LAYOUT)).in_passes(3)
    assert [stage.passes for stage in settings.stages] == [1, 3]


def test_an_affine_stage_runs_as_often_as_its_settings_say():
    registration = build_registration(RegistrationConfig((AffineConfig(2, passes=2), LAYOUT)))
    assert [run.passes for run in registration.runs] == [2, 1]


@pytest.mark.parametrize("changes", [{"passes": 0}, {"shrink": 0}])
def test_affine_stages_refuse_no_pass_and_no_voxel(changes):
    with pytest.raises(ValueError, match="passes and shrink must be 1 or more"):
        AffineConfig(2, **changes)


def test_a_registration_runs_its_stages_as_often_as_its_settings_say(network, tmp_path):
    settings = RegistrationConfig((replace(LAYOUT, passes=2, pass_limit=9.0),))
    registration = build_registration(settings)
    registration.stages[0].set_weights(network.get_weights())
    expected = values(run_network(network, *pair(), StageRun(2)))["displacement_field"]
    found = registration(pair())
    np.testing.assert_allclose(
        ops.convert_to_numpy(found["displacement_field"]), expected, atol=1e-5
    )
    # the weights are those of one pass: the number can be changed afterwards
    registration.save_weights(tmp_path / "registration.weights.h5")
    once = build_registration(RegistrationConfig((LAYOUT,)))
    once.load_weights(tmp_path / "registration.weights.h5")
    np.testing.assert_allclose(
        ops.convert_to_numpy(once(pair())["displacement_field"]),
        ops.convert_to_numpy(network(pair())["displacement_field"]),
        atol=1e-5,
    )
    clone = MultiStageRegistration.from_config(registration.get_config())
    assert clone.runs == [StageRun(2, 9.0)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"passes": 0}, "passes must be 1 or more"),
        ({"pass_limit": 0.0}, "pass_limit must be positive"),
        ({"passes": 2, "diffeomorphic": True}, "passes add displacements"),
        ({"passes": 2, "displacement_limit": 0.4}, "passes add displacements"),
    ],
)
def test_passes_that_cannot_be_added_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DeformableConfig(**changes)


def test_every_stage_needs_a_run(network):
    with pytest.raises(ValueError, match="for each of 1 stages"):
        MultiStageRegistration([network], runs=[StageRun(), StageRun()])


@pytest.mark.parametrize("changes", [{"passes": 0}, {"steps": -1}, {"step_shrink": 0}])
def test_runs_that_cannot_be_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        StageRun(**changes)
