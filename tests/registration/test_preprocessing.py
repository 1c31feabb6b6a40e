import numpy as np
import pytest

from registration.geometry import ImageGrid
from registration.preprocessing import HIGHEST_HU, LOWEST_HU, prepare_volume
from tests.registration.torso import oblique_chest_grid, torso_hu, torso_scan


def test_values_are_those_of_the_formula_at_the_same_physical_points():
    volume = prepare_volume(torso_scan(oblique_chest_grid((12.0, -7.0, 300.0)), shifted(300.0)))
    points = volume.grid.voxel_points()
    local = points - np.array([0.0, 0.0, 300.0])
    expected = np.clip(torso_hu(local), LOWEST_HU, HIGHEST_HU)
    steps = np.abs(np.stack(np.gradient(expected))).max(axis=0)
    interior = (steps < 5.0) & (volume.valid > 0) & (np.abs(local[..., 2]) < 150.0)
    interior &= np.abs(local[..., 1]) < 100.0
    assert interior.sum() > 10_000
    error = np.abs(volume.hu - expected)[interior]
    assert np.quantile(error, 0.95) < 20.0


def shifted(z_mm):
    matrix = np.eye(4)
    matrix[2, 3] = z_mm
    return matrix


def test_start_of_a_whole_chest_lies_midway_between_the_lungs():
    volume = prepare_volume(torso_scan(oblique_chest_grid((0.0, 0.0, 300.0)), shifted(300.0)))
    assert volume.wide
    np.testing.assert_allclose(volume.start_mm, (2.0, -2.0, 315.0), atol=8.0)


def test_start_of_a_tight_field_is_its_middle():
    grid = ImageGrid.centered((128, 128, 40), (1.5, 1.5, 3.0), (30.0, -25.0, -20.0))
    volume = prepare_volume(torso_scan(grid))
    assert not volume.wide
    np.testing.assert_allclose(volume.start_mm, (30.0, -25.0, -20.0), atol=2.1)


@pytest.mark.parametrize("padding", [-2000, -3024, -1024])
def test_circular_padding_is_outside_the_field_of_view(padding):
    grid = ImageGrid.centered((120, 120, 20), (3.0, 3.0, 4.0), (10.0, 5.0, 0.0))
    hu = torso_hu(grid.voxel_points())
    away = np.linalg.norm(grid.voxel_points()[..., :2] - [10.0, 5.0], axis=-1)
    hu[away > 180.0] = padding
    volume = prepare_volume(grid.to_image(hu.astype(np.int16)))
    distance = np.linalg.norm(volume.grid.voxel_points()[..., :2] - [10.0, 5.0], axis=-1)
    assert not volume.valid[distance > 186.0].any()
    assert volume.valid[distance < 174.0].all()
    assert (volume.hu[volume.valid == 0] == LOWEST_HU).all()


def test_noisy_air_in_the_corners_is_within_the_field_of_view():
    grid = ImageGrid.centered((120, 120, 20), (3.0, 3.0, 4.0), (0.0, 0.0, 0.0))
    volume = prepare_volume(torso_scan(grid, noise_hu=8.0))
    assert volume.valid.all()


def test_a_table_behind_the_patient_is_removed():
    grid = ImageGrid.centered((130, 130, 40), (3.2, 3.2, 5.0), (0.0, 30.0, 0.0))
    hu = torso_hu(grid.voxel_points())
    behind = grid.voxel_points()[..., 1]
    hu[(behind > 160.0) & (behind < 168.0)] = 100.0
    volume = prepare_volume(grid.to_image(hu.astype(np.int16)))
    rear = volume.grid.voxel_points()[..., 1] > 150.0
    assert volume.hu[rear].max() == LOWEST_HU
    spine = volume.hu[np.abs(volume.grid.voxel_points() - [0.0, 85.0, 0.0]).max(axis=-1) < 8.0]
    assert spine.min() > 150.0


def test_feet_first_storage_order_changes_nothing():
    upright = ImageGrid((60, 60, 30), (6.0, 6.0, 8.0), (-177.0, -177.0, -116.0))
    flipped = ImageGrid(
        upright.size,
        upright.spacing,
        (177.0, -177.0, 116.0),
        (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
    )
    one, other = (prepare_volume(torso_scan(grid)) for grid in (upright, flipped))
    np.testing.assert_allclose(other.start_mm, one.start_mm, atol=1e-6)
    np.testing.assert_allclose(other.hu, one.hu, atol=1.0)


def test_all_padding_is_no_field_of_view():
    grid = ImageGrid.centered((40, 40, 10), (4.0, 4.0, 5.0), (0.0, 0.0, 0.0))
    volume = prepare_volume(grid.to_image(np.full(grid.shape, -3024, dtype=np.int16)))
    assert not volume.valid.any()


def test_refuses_a_plane_image():
    with pytest.raises(ValueError, match=r"three-dimensional. Received: 2-D"):
        prepare_volume(ImageGrid((4, 4), (1.0, 1.0), (0.0, 0.0)).empty_image())
