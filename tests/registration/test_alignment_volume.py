import numpy as np
import pytest
from scipy import ndimage

from registration.alignment_volume import AlignmentVolume
from registration.geometry import ImageGrid
from registration.volume_sampler import VolumeSampler

GRID = ImageGrid((21, 18, 15), (4.0, 4.0, 4.0), (-31.0, 25.0, 300.0))


def volume(valid=None, seed=0):
    noise = np.random.default_rng(seed).normal(size=GRID.shape)
    hu = (ndimage.gaussian_filter(noise, 1.0) * 900.0 - 300.0).clip(-900.0, 250.0)
    valid = np.ones(GRID.shape) if valid is None else valid
    hu = np.where(valid > 0, hu, -900.0)
    return AlignmentVolume(
        hu.astype(np.float32), valid.astype(np.float32), GRID, (0.0, 0.0, 0.0), False
    )


def test_a_crop_keeps_every_voxel_where_it_was():
    whole = volume()
    center = GRID.physical_points([10.0, 4.0, 9.0])
    part = whole.cropped(center, 14.0)
    points = part.grid.voxel_points()
    index = np.rint(GRID.indices(points)).astype(int)
    np.testing.assert_array_equal(part.hu, whole.hu[index[..., 2], index[..., 1], index[..., 0]])
    assert part.grid.contains(center)
    assert part.grid.size == (9, 9, 9)


def test_a_crop_beyond_the_edge_is_what_there_is():
    part = volume().cropped((-1000.0, 60.0, 320.0), 50.0)
    assert part.grid.size[0] == 1
    assert part.grid.origin[0] == GRID.origin[0]


def test_smoothing_is_a_gaussian_in_millimetres():
    whole = volume()
    expected = ndimage.gaussian_filter(whole.hu.astype(float), 2.0, mode="nearest")
    inner = np.s_[5:-5, 6:-6, 6:-6]
    np.testing.assert_allclose(whole.smoothed(8.0)[inner], expected[inner], atol=6.0)


def test_what_lies_outside_the_field_of_view_does_not_bleed_in():
    valid = np.ones(GRID.shape)
    valid[:, :, :8] = 0.0
    constant = AlignmentVolume(
        np.where(valid > 0, 40.0, -900.0).astype(np.float32),
        valid.astype(np.float32),
        GRID,
        (0.0, 0.0, 0.0),
        False,
    )
    np.testing.assert_allclose(constant.smoothed(4.0)[:, :, 8:], 40.0, atol=0.5)


def test_halves_are_means_of_two_voxels_at_their_middle():
    whole = volume()
    half = whole.halved()
    assert half.grid.size == (10, 9, 7)
    expected = whole.hu[4:6, 6:8, 2:4].mean()
    assert half.hu[2, 3, 1] == pytest.approx(expected, abs=1e-2)
    np.testing.assert_allclose(
        half.grid.physical_points([1, 3, 2]), GRID.physical_points([2.5, 6.5, 4.5])
    )


def test_halves_count_as_covered_if_half_of_them_is():
    valid = np.ones(GRID.shape)
    valid[:, :, :3] = 0.0
    half = volume(valid).halved()
    assert not half.valid[:, :, 0].any()
    assert half.valid[:, :, 1:].all()


def test_sampling_agrees_with_map_coordinates():
    whole = volume()
    index = np.random.default_rng(1).uniform(0.0, np.array(GRID.size) - 1.0, (300, 3))
    value, _, covered = VolumeSampler(whole, 0.0)(GRID.physical_points(index))
    expected = ndimage.map_coordinates(whole.hu.astype(float), index[:, ::-1].T, order=1)
    np.testing.assert_allclose(value, expected, atol=1e-2)
    assert covered.all()


def test_gradients_are_those_of_finite_differences_per_millimetre():
    sampler = VolumeSampler(volume(), 0.0)
    index = np.random.default_rng(2).integers(1, 13, (50, 3)) + 0.4
    points = GRID.physical_points(index)
    _, gradient, _ = sampler(points)
    for axis in range(3):
        step = np.zeros(3)
        step[axis] = 0.05
        ahead, behind = sampler(points + step)[0], sampler(points - step)[0]
        np.testing.assert_allclose(gradient[:, axis], (ahead - behind) / 0.1, atol=1e-2)


def test_beyond_the_grid_nothing_is_covered():
    _, _, covered = VolumeSampler(volume(), 0.0)(
        GRID.physical_points([[-0.1, 3.0, 3.0], [3.0, 17.1, 3.0], [3.0, 3.0, 7.0]])
    )
    assert covered.tolist() == [0.0, 0.0, 1.0]
