from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from registration.geometry import ImageGrid
from registration.pair_preparation import (
    IntensityScaling,
    NoOverlapError,
    check_overlap,
    gray_image,
    initial_transform,
    on_grid,
    prepare_pair,
    working_grid,
)

TURNED = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.5).GetMatrix()
GRID = ImageGrid((16, 13, 9), (0.9, 1.4, 3.0), (-31.0, 57.0, 803.0), TURNED)


def test_percentiles_become_zero_and_one_and_the_rest_is_clipped():
    values = np.arange(101.0).reshape(1, 101)
    scaled = IntensityScaling(percentiles=(10.0, 90.0)).apply(values)
    # the 10th percentile of 0..100 is 10, the 90th is 90
    assert scaled[0, [0, 10, 50, 90, 100]].tolist() == pytest.approx([0, 0, 0.5, 1, 1])


@pytest.mark.parametrize("percentiles", [(0.0, 100.0), (0.5, 99.5), (37.3, 61.9)])
@pytest.mark.parametrize("size", [1, 2, 7, 500])
def test_limits_are_those_of_numpy(percentiles, size):
    values = np.random.default_rng(size).normal(size=size).astype(np.float32)
    found = IntensityScaling(percentiles=percentiles).limits(values)
    assert found == pytest.approx(np.percentile(values, percentiles), abs=1e-6)


def test_window_scales_every_image_alike():
    scaling = IntensityScaling(window=(-1000, 200))
    assert scaling.apply(np.array([-1000, -400, 500], np.int16)).tolist() == pytest.approx(
        [0.0, 0.5, 1.0]
    )


def test_constant_images_are_zero():
    assert not IntensityScaling().apply(np.full((3, 4), 7.0)).any()


def test_bad_scalings_are_refused():
    with pytest.raises(ValueError, match="percentiles must rise"):
        IntensityScaling(percentiles=(60.0, 40.0))
    with pytest.raises(ValueError, match="window must rise"):
        IntensityScaling(window=(200.0, -1000.0))


def test_working_grid_keeps_middle_direction_and_field_of_view():
    grid = working_grid(GRID, (1.8, 1.8, 4.5))
    assert grid.size == (8, 10, 6)  # 14.4, 18.2 and 27 mm
    assert grid.spacing == (1.8, 1.8, 4.5)
    assert grid.direction == GRID.direction
    np.testing.assert_allclose(grid.center, GRID.center, atol=1e-9)
    assert working_grid(GRID, None) is GRID
    with pytest.raises(ValueError, match="spacing_mm needs 3 values"):
        working_grid(GRID, (1.0, 1.0))


def test_centers_are_brought_onto_each_other():
    moving = ImageGrid((20, 8, 9), (1.0, 1.5, 2.0), (300.0, -4.0, 77.0))
    transform = initial_transform(GRID, moving, "centers")
    np.testing.assert_allclose(transform.TransformPoint(GRID.center.tolist()), moving.center)
    assert initial_transform(GRID, moving, "identity") is None
    with pytest.raises(ValueError, match="'identity' or 'centers'"):
        initial_transform(GRID, moving, "moments")
    with pytest.raises(ValueError, match="as many axes"):
        initial_transform(GRID, ImageGrid((3, 3), (1, 1), (0, 0)), "identity")


def test_a_linear_ramp_is_the_same_ramp_on_every_grid():
    """Values of an image that is its own physical x stay x, wherever the grid samples it."""
    grid = working_grid(GRID, (1.8, 2.1, 4.5))
    image = GRID.to_image(GRID.voxel_points()[..., 0].astype(np.float32))
    sampled = on_grid(image, grid)
    inside = np.all(
        (GRID.indices(grid.voxel_points()) >= 2)
        & (GRID.indices(grid.voxel_points()) <= np.array(GRID.size) - 3),
        axis=-1,
    )
    assert inside.sum() > 50
    np.testing.assert_allclose(sampled[inside], grid.voxel_points()[..., 0][inside], atol=1e-3)


def test_beyond_the_image_its_border_goes_on_and_labels_end():
    image = sitk.GetImageFromArray(np.array([[1.0, 2.0, 4.0]]))
    wide = ImageGrid((7, 1), (1.0, 1.0), (-2.0, 0.0))
    assert on_grid(image, wide)[0].tolist() == [1, 1, 1, 2, 4, 4, 4]
    assert on_grid(image, wide, labels=True)[0].tolist() == [0, 0, 1, 2, 4, 0, 0]


def test_reducing_an_image_averages_noise_away():
    rng = np.random.default_rng(0)
    image = sitk.GetImageFromArray(rng.normal(size=(64, 64)))
    coarse = on_grid(image, ImageGrid((16, 16), (4.0, 4.0), (1.5, 1.5)))
    # linear interpolation alone keeps a variance of 1/4 here; the Gaussian of 1.6 voxels
    # leaves about 1 / (4 pi 1.6²) = 0.03
    assert coarse.var() == pytest.approx(0.03, rel=0.4)


@pytest.mark.parametrize("order", [(2, 0, 1), (1, 2, 0), (0, 2, 1)])
def test_an_image_is_smoothed_alike_however_its_axes_are_stored(order):
    """The same voxels at the same places, cut sagittally or axially, are the same image."""
    image = GRID.to_image(np.random.default_rng(2).normal(size=GRID.shape))
    turned = sitk.Flip(sitk.PermuteAxes(image, order), (True, False, True))
    grid = working_grid(GRID, (3.6, 1.4, 6.0))
    np.testing.assert_allclose(on_grid(turned, grid), on_grid(image, grid), atol=1e-5)


def test_pair_is_scaled_by_native_voxels_and_placed_middle_on_middle():
    fixed = GRID.to_image(np.random.default_rng(1).normal(size=GRID.shape))
    elsewhere = ImageGrid(GRID.size, GRID.spacing, (500.0, 0.0, 0.0), GRID.direction)
    moving = elsewhere.to_image(7.0 * sitk.GetArrayFromImage(fixed) - 3.0)
    pair = prepare_pair(fixed, moving, scaling=IntensityScaling(), initialization="centers")
    assert pair.grid == GRID
    np.testing.assert_allclose(pair.fixed, pair.moving, atol=1e-4)
    with pytest.raises(ValueError, match="one value per voxel"):
        prepare_pair(fixed, sitk.Compose(moving, moving), scaling=IntensityScaling())


@pytest.mark.parametrize("hole", [np.nan, -np.inf])
def test_an_image_with_holes_is_refused_by_name(hole):
    whole = np.random.default_rng(1).normal(size=GRID.shape)
    holed = whole.copy()
    holed[4, 6, 8] = hole
    images = {"fixed": GRID.to_image(whole), "moving": GRID.to_image(whole)}
    for name in images:
        with pytest.raises(ValueError, match=f"the {name} image holds values that are not numbers"):
            prepare_pair(**images | {name: GRID.to_image(holed)}, scaling=IntensityScaling())


def test_gray_images_written_in_colors_are_gray():
    gray = sitk.Cast(sitk.GetImageFromArray(np.arange(12).reshape(3, 4)), sitk.sitkUInt8)
    gray.SetSpacing((0.5, 2.0))
    found = gray_image(sitk.Compose(gray, gray, gray))
    assert sitk.GetArrayFromImage(found).tolist() == sitk.GetArrayFromImage(gray).tolist()
    assert found.GetSpacing() == (0.5, 2.0)
    with pytest.raises(ValueError, match=r"or be gray. Received: 3"):
        gray_image(sitk.Compose(gray, gray, gray + 1))


def test_images_that_share_no_point_are_told_with_where_they_lie():
    fixed = ImageGrid((4, 5), (2.0, 1.0), (10.0, -3.0))  # 9 to 17, -3.5 to 1.5
    turned = (0.0, -1.0, 1.0, 0.0)  # x to y, y to -x: -0.5 to 3.5 above, 0 to -4.5 beside
    near = ImageGrid((4, 5), (1.0, 1.0), (18.0, 0.0), turned)  # 13.5 to 18.5, -0.5 to 3.5
    check_overlap(fixed, near)
    far = ImageGrid((4, 5), (1.0, 1.0), (22.0, 0.0), turned)  # 17.5 to 22.5
    places = r"\(9, -3\.5\) to \(17, 1\.5\) mm.*\(17\.5, -0\.5\) to \(22\.5, 3\.5\)"
    with pytest.raises(NoOverlapError, match=rf"do not overlap.*{places}"):
        check_overlap(fixed, far)
