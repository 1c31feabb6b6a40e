import numpy as np
import pytest
import SimpleITK as sitk
from keras import ops
from scipy import ndimage

from registration.geometry import ImageGrid, affine_matrix
from registration.layers.affine_resampler import AffineResampler
from tests.registration.check_layer import check_layer
from tests.registration.gradients import gradient


def oblique_grid(size, spacing, origin, angle=0.3):
    cosine, sine = np.cos(angle), np.sin(angle)
    direction = (cosine, -sine, 0.0, sine, cosine, 0.0, 0.0, 0.0, 1.0)
    return ImageGrid(size, spacing, origin, direction)


MOVING = oblique_grid((7, 9, 6), (2.0, 1.5, 4.0), (-9.0, 14.0, 120.0))
FIXED = oblique_grid((8, 5, 7), (1.7, 2.1, 3.0), (-10.0, 13.0, 121.0), angle=-0.2)


def skewed_transform():
    transform = sitk.AffineTransform(3)
    transform.SetMatrix([1.1, 0.1, -0.05, -0.08, 0.9, 0.06, 0.02, -0.04, 1.05])
    transform.SetCenter((-3.0, 18.0, 130.0))
    transform.SetTranslation((1.3, -0.7, 2.2))
    return transform


def as_inputs(image, transform, fixed, moving):
    return [
        image.astype("float32"),
        affine_matrix(transform)[None].astype("float32"),
        fixed.index_to_physical_matrix[None].astype("float32"),
        moving.index_to_physical_matrix[None].astype("float32"),
    ]


def test_agrees_with_simpleitk_on_oblique_off_origin_grids():
    array = np.random.default_rng(0).normal(size=MOVING.shape)
    expected = sitk.GetArrayFromImage(
        sitk.Resample(
            MOVING.to_image(array), FIXED.empty_image(), skewed_transform(), sitk.sitkLinear, -5.0
        )
    )
    layer = AffineResampler(FIXED.shape, fill_value=-5.0)
    moved = layer(*as_inputs(array[None, ..., None], skewed_transform(), FIXED, MOVING))
    assert (expected == -5.0).any()
    assert (expected != -5.0).sum() > 50
    np.testing.assert_allclose(moved[0, ..., 0], expected, atol=2e-4)


def test_agrees_with_simpleitk_in_two_dimensions():
    moving = ImageGrid((9, 6), (0.8, 2.0), (3.0, -4.0), (0.8, -0.6, 0.6, 0.8))
    fixed = ImageGrid((5, 8), (1.0, 1.5), (2.0, -2.0))
    transform = sitk.AffineTransform([1.1, 0.2, -0.1, 0.9], [0.4, -0.3], [4.0, 1.0])
    array = np.random.default_rng(1).normal(size=moving.shape)
    expected = sitk.GetArrayFromImage(
        sitk.Resample(moving.to_image(array), fixed.empty_image(), transform, sitk.sitkLinear, 0.0)
    )
    layer = AffineResampler(fixed.shape)
    moved = layer(*as_inputs(array[None, ..., None], transform, fixed, moving))
    assert np.count_nonzero(expected) > 10
    np.testing.assert_allclose(moved[0, ..., 0], expected, atol=1e-4)


def test_agrees_with_map_coordinates_when_the_border_is_repeated():
    array = np.random.default_rng(2).normal(size=(5, 4, 6))
    grid = ImageGrid((6, 4, 5), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    transform = sitk.TranslationTransform(3, (2.4, -1.3, 0.6))
    index = np.stack(np.meshgrid(*map(np.arange, array.shape), indexing="ij")).astype(float)
    index += np.array([0.6, -1.3, 2.4])[:, None, None, None]
    expected = ndimage.map_coordinates(array, index, order=1, mode="nearest")
    moved = AffineResampler(padding="border")(
        *as_inputs(array[None, ..., None], transform, grid, grid)
    )
    np.testing.assert_allclose(moved[0, ..., 0], expected, atol=1e-5)


def test_one_voxel_up_brings_a_bright_voxel_from_slice_4_to_slice_3():
    array = np.zeros((6, 4, 5))
    array[4, 2, 1] = 1.0
    grid = ImageGrid((5, 4, 6), (0.7, 0.9, 2.5), (10.0, -20.0, 30.0))
    transform = sitk.TranslationTransform(3, (0.0, 0.0, 2.5))
    moved = AffineResampler()(*as_inputs(array[None, ..., None], transform, grid, grid))
    assert np.argwhere(np.asarray(moved[0, ..., 0]) > 0.5).tolist() == [[3, 2, 1]]


def test_every_image_of_a_batch_follows_its_own_transform():
    array = np.random.default_rng(3).normal(size=(2, 4, 5, 6, 2)).astype("float32")
    grid = ImageGrid((6, 5, 4), (1.0, 2.0, 3.0), (5.0, 6.0, 7.0))
    shift = np.tile(np.eye(4), (2, 1, 1))
    shift[1, 2, 3] = 3.0
    matrix = grid.index_to_physical_matrix
    moved = np.asarray(AffineResampler()(array, shift, matrix, matrix))
    np.testing.assert_allclose(moved[0], array[0], atol=1e-5)
    np.testing.assert_allclose(moved[1, :3], array[1, 1:], atol=1e-5)
    assert not moved[1, 3].any()


def test_gradient_by_the_transform_is_that_of_finite_differences():
    array = ndimage.gaussian_filter(np.random.default_rng(4).normal(size=(8, 8, 8)), 1.5)
    grid = ImageGrid((8, 8, 8), (1.5, 1.0, 2.0), (0.0, 0.0, 0.0))
    weight = np.random.default_rng(5).normal(size=grid.shape)
    layer = AffineResampler(padding="border")
    start = np.eye(4)
    start[:3, 3] = (0.33, -0.21, 0.47)
    inputs = as_inputs(array[None, ..., None], sitk.AffineTransform(3), grid, grid)

    def objective(shift):
        tensor = ops.cast(shift, "float32")[None]
        moved = layer(inputs[0], tensor, inputs[2], inputs[3])
        return ops.sum(moved[..., 0] * weight.astype("float32"))

    found = gradient(objective, start)
    for axis in range(3):
        ends = []
        for sign in (-1.0, 1.0):
            shifted = start.copy()
            shifted[axis, 3] += sign * 0.01
            ends.append(float(objective(shifted.astype("float32"))))
        assert found[axis, 3] == pytest.approx((ends[1] - ends[0]) / 0.02, rel=0.02, abs=0.02)


def test_keeps_the_contract_of_layers(tmp_path):
    array = np.random.default_rng(6).normal(size=(2, *MOVING.shape, 1))
    inputs = [
        np.repeat(item, 2, axis=0) if len(item) == 1 else item
        for item in as_inputs(array, skewed_transform(), FIXED, MOVING)
    ]

    layer = AffineResampler(FIXED.shape, fill_value=0.5)
    check_layer(layer, inputs, tmp_path, atol=1e-4)


def test_refuses_an_unknown_padding():
    with pytest.raises(ValueError, match=r"padding must be .*Received: reflect"):
        AffineResampler(padding="reflect")
