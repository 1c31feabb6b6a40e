import numpy as np
from scipy import ndimage

from registration.alignment_volume import AlignmentVolume
from registration.geometry import ImageGrid
from registration.network_input import CubeSampler, to_channels
from registration.preprocessing import LOWEST_HU

GRID = ImageGrid((9, 7, 6), (4.0, 4.0, 4.0), (-11.0, 25.0, 300.0))


def volume(valid=None):
    hu = np.random.default_rng(0).uniform(-800.0, 200.0, GRID.shape).astype(np.float32)
    valid = np.ones(GRID.shape, np.float32) if valid is None else valid
    return AlignmentVolume(hu, valid, GRID, (0.0, 0.0, 0.0), False)


def test_sampling_agrees_with_map_coordinates():
    scan = volume()
    index = np.random.default_rng(1).uniform(0.0, [8.0, 6.0, 5.0], (200, 3))
    hu, valid = CubeSampler(scan, smoothing_mm=0.0)(GRID.physical_points(index))
    expected = ndimage.map_coordinates(scan.hu, index[:, ::-1].T, order=1)
    np.testing.assert_allclose(hu, expected, atol=0.05)
    assert valid.all()


def test_outside_is_air_without_field_of_view():
    hu, valid = CubeSampler(volume(), smoothing_mm=0.0)(
        GRID.physical_points([[-0.2, 3.0, 3.0], [4.0, 6.3, 2.0], [4.0, 3.0, 9.0]])
    )
    assert hu.tolist() == [LOWEST_HU] * 3
    assert not valid.any()


def test_padding_inside_the_image_has_no_field_of_view():
    valid = np.ones(GRID.shape, np.float32)
    valid[:, :, :4] = 0.0
    hu, seen = CubeSampler(volume(valid), smoothing_mm=0.0)(
        GRID.physical_points([[2.0, 3.0, 3.0], [6.0, 3.0, 3.0]])
    )
    assert seen.tolist() == [0.0, 1.0]
    assert hu[0] == LOWEST_HU


def test_channels_are_attenuation_soft_tissue_and_field_of_view():
    channels = to_channels(
        np.array([-900.0, -325.0, -30.0, 250.0, 100.0]), np.array([1, 1, 1, 1, 0])
    )
    np.testing.assert_allclose(channels[:, 0], [0.0, 0.5, 870 / 1150, 1.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(channels[:, 1], [0.0, 0.0, 0.5, 1.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(channels[:, 2], [1, 1, 1, 1, 0])
