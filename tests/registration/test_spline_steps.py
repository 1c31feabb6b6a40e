from dataclasses import replace

import numpy as np
import pytest
from keras import ops
from scipy import ndimage

from registration.bsplines import bspline_field
from registration.networks.affine_stage import AffineConfig
from registration.networks.deformable_network import DeformableConfig
from registration.networks.registration_network import RegistrationConfig, build_registration
from registration.networks.stage_run import StageRun
from registration.spline_steps import _conjugate_gradients, spline_steps
from registration.warping import warp

SHAPES = {2: (64, 56), 3: (28, 32, 36)}
SPACING = {2: (8.0, 8.0), 3: (8.0, 8.0, 4.0)}


def smooth_image(shape, seed=0):
    noise = np.random.default_rng(seed).normal(size=shape)
    image = ndimage.gaussian_filter(noise, 2.5)
    return ((image - image.min()) / np.ptp(image)).astype(np.float32)


def some_points(dimension, seed=1, size=2.5):
    lattice = [n // int(s) for n, s in zip(SHAPES[dimension], SPACING[dimension], strict=True)]
    return np.random.default_rng(seed).uniform(-size, size, (*lattice, dimension))


def field_of(points, dimension):
    """Dense field of one pair, voxels."""
    points = ops.convert_to_tensor(points[None].astype(np.float32))
    field = bspline_field(points, SHAPES[dimension], spacing=SPACING[dimension])
    return ops.convert_to_numpy(field)[0]


def moved_by_scipy(image, field):
    at = np.indices(image.shape) + np.moveaxis(field, -1, 0)
    return ndimage.map_coordinates(image, at, order=3, mode="nearest")


def batch(*images):
    return ops.convert_to_tensor(np.stack(images)[..., None].astype(np.float32))


def steps_on(fixed, moving, points, dimension=2, **options):
    options = {"steps": 8, "spacing_mm": (1.0,) * dimension, **options}
    start = ops.convert_to_tensor(np.asarray(points, np.float32))
    return ops.convert_to_numpy(
        spline_steps(fixed, moving, start, spacing=SPACING[dimension], **options)
    )


def correlation(fixed, moving, points, dimension=2):
    moved = moved_by_scipy(moving, field_of(points, dimension))
    return np.corrcoef(moved.ravel(), fixed.ravel())[0, 1]


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("shrink", [1, 2])
def test_a_known_deformation_is_found(dimension, shrink):
    moving, truth = smooth_image(SHAPES[dimension]), some_points(dimension)
    known = field_of(truth, dimension)
    fixed = moved_by_scipy(moving, known)
    start = np.zeros_like(truth)
    assert correlation(fixed, moving, start, dimension) < 0.98
    points = steps_on(batch(fixed), batch(moving), [start], dimension, shrink=shrink)[0]
    assert correlation(fixed, moving, points, dimension) > 0.997
    inner = (slice(4, -4),) * dimension
    error = np.linalg.norm(field_of(points, dimension) - known, axis=-1)[inner]
    assert np.linalg.norm(known, axis=-1)[inner].mean() > 0.7
    assert error.mean() < 0.15 * shrink


def test_pairs_of_a_batch_do_not_meet():
    moving = smooth_image(SHAPES[2])
    truths = [some_points(2, seed) for seed in (1, 2)]
    fixed = [moved_by_scipy(moving, field_of(truth, 2)) for truth in truths]
    start = np.zeros_like(truths[0])
    both = steps_on(batch(*fixed), batch(moving, moving), [start] * 2, steps=4)
    for number in range(2):
        alone = steps_on(batch(fixed[number]), batch(moving), [start], steps=4)[0]
        np.testing.assert_allclose(both[number], alone, atol=2e-3)


def test_no_step_raises_the_objective():
    fixed, moving = smooth_image(SHAPES[2], 5), smooth_image(SHAPES[2], 6)
    start = some_points(2)
    before = correlation(fixed, moving, start)
    for count in (1, 3, 12):
        points = steps_on(batch(fixed), batch(moving), [start], steps=count)[0]
        after = correlation(fixed, moving, points)
        assert after >= before - 0.02  # scipy's splines here, linear interpolation there
    assert after > before + 0.05


def test_masks_of_ones_change_nothing():
    moving, truth = smooth_image(SHAPES[2]), some_points(2)
    fixed, ones = moved_by_scipy(moving, field_of(truth, 2)), np.ones(SHAPES[2])
    start = np.zeros_like(truth)
    plain = steps_on(batch(fixed), batch(moving), [start], steps=4)
    masks = {"fixed_mask": batch(ones), "moving_mask": batch(ones)}
    masked = steps_on(batch(fixed), batch(moving), [start], steps=4, **masks)
    # what is looked up beyond the image repeats its border there and weighs nothing here
    np.testing.assert_allclose(masked, plain, atol=0.6)
    inner = (0, slice(2, -2), slice(2, -2))
    np.testing.assert_allclose(masked[inner], plain[inner], atol=0.1)


@pytest.mark.parametrize("hidden", ["fixed", "moving"])
@pytest.mark.parametrize("shrink", [1, 2])
def test_what_a_mask_hides_moves_nothing(hidden, shrink):
    moving, truth = smooth_image(SHAPES[2]), some_points(2)
    known = field_of(truth, 2)
    fixed = moved_by_scipy(moving, known)
    mask = np.ones(SHAPES[2], np.float32)
    mask[:24] = 0.0
    # a bright block with an edge of its own, as of another field of view
    images = {"fixed": fixed.copy(), "moving": moving.copy()}
    images[hidden][:24] = 3.0
    masks = {
        f"{name}_mask": batch(mask if name == hidden else np.ones_like(mask)) for name in images
    }
    start = np.zeros_like(truth)
    pair = batch(images["fixed"]), batch(images["moving"])
    shown = (slice(32, -4), slice(4, -4))
    error = {}
    for name, given in (("masked", masks), ("not masked", {})):
        points = steps_on(*pair, [start], shrink=shrink, bending_weight=0.3, **given)[0]
        found = field_of(points, 2)
        error[name] = np.linalg.norm(found - known, axis=-1)[shown].mean()
    assert error["masked"] < 0.2 * shrink
    assert error["not masked"] > 2.0 * error["masked"]


def test_steps_do_not_leave_the_masks_for_a_better_objective():
    """What agrees is a small part of the image: to compare nothing else would be perfect."""
    fixed, moving = smooth_image(SHAPES[2], 5), smooth_image(SHAPES[2], 6)
    mask = np.zeros(SHAPES[2], np.float32)
    mask[:, 24:] = 1.0
    start = np.zeros((8, 7, 2))
    points = steps_on(
        batch(fixed),
        batch(moving),
        [start],
        steps=12,
        fixed_mask=batch(mask),
        moving_mask=batch(mask),
    )[0]
    field = ops.convert_to_tensor(field_of(points, 2)[None])
    seen = ops.convert_to_numpy(warp(batch(mask), field))[0, ..., 0] * mask
    assert seen.sum() >= 0.79 * mask.sum()


def test_one_mask_is_not_enough():
    image = batch(smooth_image(SHAPES[2]))
    with pytest.raises(ValueError, match="both masks or none"):
        steps_on(image, image, [some_points(2)], fixed_mask=image)


def test_images_that_show_nothing_move_nothing():
    flat = np.full(SHAPES[2], 0.5, np.float32)
    start = some_points(2)
    for pair in ((flat, flat), (flat, smooth_image(SHAPES[2])), (smooth_image(SHAPES[2]), flat)):
        points = steps_on(batch(pair[0]), batch(pair[1]), [start])
        assert np.isfinite(points).all()
    np.testing.assert_allclose(steps_on(batch(flat), batch(flat), [start])[0], start, atol=1e-5)


def test_a_limit_holds_and_lets_points_stay_that_are_further_out():
    moving, truth = smooth_image(SHAPES[2]), some_points(2, size=5.0)
    fixed = moved_by_scipy(moving, field_of(truth, 2))
    start = np.zeros_like(truth)
    start[0, 0] = 6.0
    free = steps_on(batch(fixed), batch(moving), [start])[0]
    held = steps_on(batch(fixed), batch(moving), [start], limit=0.25)[0]
    assert np.abs(free[1:]).max() > 2.0
    assert np.abs(held).max() <= 6.0 + 1e-5
    assert np.abs(held[1:]).max() <= 2.0 + 1e-5


def test_bending_in_the_objective_keeps_fields_smooth():
    moving, truth = smooth_image(SHAPES[2]), some_points(2)
    fixed = moved_by_scipy(moving, field_of(truth, 2))
    start = np.zeros_like(truth)
    loose, stiff = (
        steps_on(batch(fixed), batch(moving), [start], bending_weight=weight)[0]
        for weight in (0.0, 300.0)
    )
    rough = [np.abs(np.diff(points, 2, axis=0)).mean() for points in (loose, stiff)]
    assert rough[1] < 0.5 * rough[0]
    # in mm the same field of voxels twice as large bends a quarter as much
    coarse = steps_on(
        batch(fixed), batch(moving), [start], bending_weight=1200.0, spacing_mm=(2.0, 2.0)
    )[0]
    np.testing.assert_allclose(coarse, stiff, atol=0.02)


def test_conjugate_gradients_solve_small_systems():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6))
    matrix = (root @ root.T + 2.0 * np.eye(6)).astype(np.float32)
    goal = rng.normal(size=(1, 6)).astype(np.float32)
    found = _conjugate_gradients(
        lambda x: ops.matmul(x, matrix), ops.convert_to_tensor(goal), np.diag(matrix), (1,), 8
    )
    expected = np.linalg.solve(matrix, goal[0])
    np.testing.assert_allclose(ops.convert_to_numpy(found)[0], expected, atol=1e-3)


def test_the_shrinkage_must_not_exceed_the_spacing():
    image = batch(smooth_image(SHAPES[3]))
    with pytest.raises(ValueError, match="shrink must not exceed the spacing"):
        steps_on(image, image, [some_points(3)], 3, shrink=5)


def test_a_stage_takes_its_steps_after_its_passes():
    config = DeformableConfig((3, 3), kernels=4, convolutions=1, border=1, passes=2)
    moving, truth = smooth_image(SHAPES[2]), some_points(2)
    fixed = moved_by_scipy(moving, field_of(truth, 2))
    outputs = []
    for steps in (0, 6):
        stage = DeformableConfig(**{**config.to_dict(), "steps": steps, "step_bending": 0.1})
        registration = build_registration(RegistrationConfig((stage,)))
        outputs.append(registration([batch(fixed), batch(moving)]))
    # a network that has learnt nothing yet answers the identity
    before, after = (
        float(np.corrcoef(np.ravel(ops.convert_to_numpy(o["moved"])), fixed.ravel())[0, 1])
        for o in outputs
    )
    assert before < 0.97 < 0.995 < after
    field = outputs[1]["displacement_field"]
    moved = ops.convert_to_numpy(warp(batch(moving), field))
    np.testing.assert_allclose(ops.convert_to_numpy(outputs[1]["moved"]), moved, atol=1e-5)


def test_settings_of_steps_survive_a_round_trip():
    stage = DeformableConfig((3, 2, 2), kernels=4, steps=3, step_shrink=2, step_bending=1.5)
    config = RegistrationConfig((stage,), spacing_mm=(1.0, 2.0, 3.0))
    again = RegistrationConfig.from_dict(config.to_dict())
    assert again.stages == (stage,)
    network = build_registration(again)
    assert network.runs == [
        StageRun(1, None, steps=3, step_shrink=2, step_bending=1.5, spacing_mm=(3.0, 2.0, 1.0))
    ]
    clone = type(network).from_config(network.get_config())
    assert clone.runs == network.runs


def test_steps_asked_of_any_registration_take_coarse_voxels_and_cannot_fold():
    affine = AffineConfig(3, kernels=2, poolings=2, dense_units=(2,))
    coarse = DeformableConfig((4, 3, 4), kernels=4)
    fine = DeformableConfig((2, 2, 2), kernels=4, pass_limit=0.3)
    known = DeformableConfig((3, 3, 3), kernels=4, steps=3, step_shrink=1, step_bending=0.2)
    config = RegistrationConfig((affine, coarse, fine, known)).with_deformable_steps(7)
    assert config.stages == (
        affine,
        replace(coarse, steps=7, step_shrink=2, pass_limit=0.4),
        replace(fine, steps=7, step_shrink=1, pass_limit=0.3),
        replace(known, steps=7),
    )
    without = config.with_deformable_steps(0)
    assert [stage.steps for stage in without.stages[1:]] == [0, 0, 0]
    flat = RegistrationConfig((DeformableConfig((4, 4), kernels=2),)).with_deformable_steps(2)
    assert flat.stages[0].pass_limit == 0.48
    with pytest.raises(ValueError, match="need a deformable stage"):
        RegistrationConfig((affine,)).with_deformable_steps(1)
    thin = RegistrationConfig((DeformableConfig((4, 4), transformer="thin_plate_spline"),))
    with pytest.raises(ValueError, match="need a B-spline"):
        thin.with_deformable_steps(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": -1}, "must not be negative"),
        ({"step_bending": -0.1}, "must not be negative"),
        ({"step_shrink": 8}, "no more than the control point spacing"),
        ({"steps": 2, "transformer": "thin_plate_spline"}, "need a B-spline"),
        ({"steps": 2, "diffeomorphic": True}, "need a B-spline"),
        ({"steps": 2, "displacement_limit": 0.4}, "without a limit"),
    ],
)
def test_steps_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DeformableConfig((2, 2), kernels=4, **changes)
