import numpy as np
import pytest
from keras import ops
from scipy import ndimage

from registration.affine_steps import affine_steps
from registration.layers.affine_field import AffineField
from registration.networks.affine_stage import AffineConfig
from registration.networks.registration_network import RegistrationConfig, build_registration
from registration.warping import warp

SHAPES = {2: (61, 72), 3: (33, 42, 47)}
SPACING = {2: (1.5, 2.0), 3: (1.0, 1.5, 2.5)}


def smooth_image(shape, seed=0):
    noise = np.random.default_rng(seed).normal(size=shape)
    image = ndimage.gaussian_filter(noise, 4.0)
    return ((image - image.min()) / np.ptp(image)).astype(np.float32)


def middle_mm(shape, spacing):
    """Middle of an image, (x, y, z), mm."""
    return (np.array(shape[::-1]) - 1) / 2 * np.array(spacing)


def moved_by_scipy(image, matrix, spacing):
    """`fixed(p) = moving(matrix p)`, points (x, y, z) in mm from the middle of the image."""
    d = image.ndim
    scale = np.diag(spacing[::-1])
    linear = np.linalg.inv(scale) @ matrix[:d, :d][::-1, ::-1] @ scale
    shift = matrix[:d, d][::-1] / np.array(spacing[::-1])
    middle = (np.array(image.shape) - 1) / 2
    offset = middle - linear @ middle + shift
    return ndimage.affine_transform(image, linear, offset, order=3, mode="nearest")


def some_affine(dimension, seed=3, size=1.0):
    rng = np.random.default_rng(seed)
    matrix = np.eye(dimension + 1)
    matrix[:dimension, :dimension] += size * rng.uniform(-0.08, 0.08, (dimension, dimension))
    matrix[:dimension, dimension] = size * rng.uniform(-4, 4, dimension)
    return matrix


def batch(*images):
    return ops.convert_to_tensor(np.stack(images)[..., None].astype(np.float32))


def found(fixed, moving, start, **options):
    matrix = ops.convert_to_tensor(np.asarray(start, np.float32))
    return ops.convert_to_numpy(affine_steps(fixed, moving, matrix, **options))


def largest_error_mm(matrix, truth, shape, spacing):
    """Largest distance in the inner half of the image."""
    reach = middle_mm(shape, spacing) / 2
    corners = np.stack(np.meshgrid(*[(-r, r) for r in reach], indexing="ij"), -1)
    points = np.concatenate([corners.reshape(-1, len(shape)), np.ones((2 ** len(shape), 1))], 1)
    return np.abs(points @ (matrix - truth).T).max()


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("shrink", [1, 2])
def test_a_known_affine_is_found(dimension, shrink):
    spacing, truth = SPACING[dimension], some_affine(dimension)
    moving = smooth_image(SHAPES[dimension])
    fixed = moved_by_scipy(moving, truth, spacing)
    start = np.eye(dimension + 1)
    assert largest_error_mm(start, truth, moving.shape, spacing) > 4
    matrix = found(batch(fixed), batch(moving), [start], spacing=spacing, steps=8, shrink=shrink)
    assert largest_error_mm(matrix[0], truth, moving.shape, spacing) < 0.05 * shrink


def test_pairs_of_a_batch_do_not_meet():
    spacing, moving = SPACING[2], smooth_image(SHAPES[2])
    truths = [some_affine(2, seed) for seed in (1, 2)]
    fixed = [moved_by_scipy(moving, truth, spacing) for truth in truths]
    options = {"spacing": spacing, "steps": 6}
    both = found(batch(*fixed), batch(moving, moving), [np.eye(3)] * 2, **options)
    for number, image in enumerate(fixed):
        alone = found(batch(image), batch(moving), [np.eye(3)], **options)
        np.testing.assert_allclose(both[number], alone[0], atol=1e-4)


def test_the_start_is_kept_where_no_step_helps():
    spacing, image = SPACING[2], smooth_image(SHAPES[2])
    options = {"spacing": spacing, "steps": 8}
    flat = np.full_like(image, 0.4)
    start = some_affine(2)
    np.testing.assert_allclose(found(batch(flat), batch(flat), [start], **options)[0], start)
    np.testing.assert_allclose(found(batch(image), batch(flat), [start], **options)[0], start)
    # so far away that nothing is seen
    away = np.eye(3)
    away[:2, 2] = 1e4
    assert np.array_equal(found(batch(image), batch(image), [away], **options)[0], away)
    exact = found(batch(image), batch(image), [np.eye(3)], **options)[0]
    np.testing.assert_allclose(exact, np.eye(3), atol=1e-4)


def cylinder(radius):
    """A bright cylinder in a wider, darker one, both along the first axis."""
    z, y, x = np.ogrid[:36, :48, :36]
    distance = np.hypot(y - 24.0, x - 18.0) + 0.0 * z
    edges = 1.0 / (1.0 + np.exp(distance - 13.5)), 2.0 / (1.0 + np.exp(distance - radius))
    return sum(edges) / 3.0


def test_nothing_moves_along_an_axis_on_which_images_do_not_change():
    fixed, moving = cylinder(7.2), cylinder(5.4)
    start = np.eye(4)
    start[:3] = [[0.87, 0.04, 0.0, 0.8], [0.06, 0.83, 0.05, 1.5], [0.05, 0.03, 0.94, 0.2]]
    options = {"spacing": (1.0, 1.0, 1.0), "steps": 8}
    matrix = found(batch(fixed), batch(moving), [start], **options)[0]
    np.testing.assert_allclose(matrix[2, :3], start[2, :3], atol=0.03)
    # the start tilts the cylinder, which tells a little: less than a voxel
    np.testing.assert_allclose(matrix[2, 3], start[2, 3], atol=1.0)


def test_steps_keep_most_of_the_fixed_image_within_the_moving_one():
    rng = np.random.default_rng(0)
    wide = ndimage.gaussian_filter(rng.normal(size=(60, 120)), 14.0)
    wide = (wide - wide.min()) / np.ptp(wide)
    # nearest is a shift of 34 voxels, which would leave more than a third of the image unseen
    fixed, moving = wide[:, :80], wide[:, 34:114]
    matrix = found(batch(fixed), batch(moving), [np.eye(3)], spacing=(1.0, 1.0), steps=40)[0]
    y, x = np.mgrid[:60, :80]
    points = np.stack([x - 39.5, y - 29.5, np.ones(x.shape)], -1) @ matrix.T
    inside = (np.abs(points[..., 0]) <= 39.5) & (np.abs(points[..., 1]) <= 29.5)
    assert 0.79 <= inside.mean() < 0.95


def test_what_lies_beyond_the_moving_image_is_not_compared():
    spacing = (1.0, 1.0)
    wide = smooth_image((61, 100))
    # the same scene, cut off at two places: the shift between them is 14 voxels along x
    fixed, moving = wide[:, :80], wide[:, 14:94]
    truth = np.eye(3)
    truth[0, 2] = -14.0
    start = np.eye(3)
    start[0, 2] = -9.0
    matrix = found(batch(fixed), batch(moving), [start], spacing=spacing, steps=15)[0]
    np.testing.assert_allclose(matrix, truth, atol=0.02)


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("hidden", ["fixed", "moving"])
@pytest.mark.parametrize("shrink", [1, 2])
def test_what_a_mask_hides_moves_nothing(dimension, hidden, shrink):
    spacing, truth = SPACING[dimension], some_affine(dimension, size=0.7)
    moving = smooth_image(SHAPES[dimension])
    images = {"fixed": moved_by_scipy(moving, truth, spacing), "moving": moving.copy()}
    masks = {f"{name}_mask": np.ones_like(moving) for name in images}
    # a blank part with an edge of its own, as of a margin
    images[hidden][: len(moving) // 4] = masks[f"{hidden}_mask"][: len(moving) // 4] = 0.0
    pair = [batch(images[name]) for name in ("fixed", "moving")]
    options = {"spacing": spacing, "steps": 10, "shrink": shrink}
    start = [np.eye(dimension + 1)]
    masks = {name: batch(mask) for name, mask in masks.items()}
    errors = [
        largest_error_mm(found(*pair, start, **options, **given)[0], truth, moving.shape, spacing)
        for given in (masks, {})
    ]
    assert errors[0] < 0.1 * shrink < 0.5 < errors[1]


def test_masks_of_ones_change_nothing():
    spacing, truth = SPACING[2], some_affine(2)
    moving = smooth_image(SHAPES[2])
    pair = batch(moved_by_scipy(moving, truth, spacing)), batch(moving)
    ones = batch(np.ones_like(moving))
    options = {"spacing": spacing, "steps": 8}
    plain = found(*pair, [np.eye(3)], **options)
    masked = found(*pair, [np.eye(3)], **options, fixed_mask=ones, moving_mask=ones)
    np.testing.assert_allclose(masked, plain, atol=1e-4)


def test_one_mask_is_not_enough():
    image = batch(smooth_image(SHAPES[2]))
    with pytest.raises(ValueError, match="both masks or none"):
        found(image, image, [np.eye(3)], spacing=(1.0, 1.0), steps=1, fixed_mask=image)


def test_steps_belong_to_the_stage():
    spacing, truth = SPACING[3], some_affine(3, size=0.7)
    moving = smooth_image(SHAPES[3])
    pair = batch(moved_by_scipy(moving, truth, spacing)), batch(moving)
    layout = {"kernels": 4, "poolings": 2, "fusion": "pair", "head": "votes", "shrink": 2}
    plain, stepping = (
        build_registration(
            RegistrationConfig((AffineConfig(3, steps=steps, **layout),), spacing_mm=spacing)
        )
        for steps in (0, 12)
    )
    stepping.set_weights(plain.get_weights())
    before, after = (network(list(pair)) for network in (plain, stepping))
    matrix = ops.convert_to_numpy(after["stages"][0]["matrix"])
    assert largest_error_mm(matrix[0], truth, moving.shape, spacing) < 0.3
    field = AffineField(spacing)(after["stages"][0]["matrix"], pair[0])
    np.testing.assert_allclose(after["displacement_field"], field, atol=1e-4)
    np.testing.assert_allclose(after["moved"], warp(pair[1], field), atol=1e-4)
    errors = [np.abs(ops.convert_to_numpy(o["moved"] - pair[0])).mean() for o in (before, after)]
    assert errors[1] < 0.3 * errors[0]


@pytest.mark.parametrize("changes", [{"steps": -1}, {"step_shrink": 0}])
def test_settings_refuse_steps_that_cannot_be(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        AffineConfig(2, **changes)


def test_voxels_of_the_steps_are_those_of_the_network_unless_told():
    for changes, expected in (({"shrink": 2}, 2), ({"shrink": 2, "step_shrink": 4}, 4), ({}, 1)):
        network = build_registration(RegistrationConfig((AffineConfig(3, steps=3, **changes),)))
        assert network.runs[0].step_shrink == expected
