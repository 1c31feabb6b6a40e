import numpy as np
import pytest

from calcium.simulation.inserted import Insert, insert_clouds
from calcium.simulation.physics import (
    Particles,
    Response,
    correlated_noise,
    kernel_filter,
    render_particles,
)
from calcium.simulation.plaques import interpolate_path, nodule, smeared, tube
from registration.geometry import ImageGrid

GRID = ImageGrid((90, 80, 30), (0.5, 0.6, 2.0), (11.0, -70.0, 200.0))
MIDDLE = np.array([33.1, -46.3, 229.2])


def integral_mm3(cloud, response, grid=GRID):
    patch, _ = render_particles(cloud, grid, response)
    return float(patch.sum(dtype=np.float64)) * grid.voxel_volume_mm3


@pytest.mark.parametrize("fwhm", [0.5, 0.9, 1.6])
@pytest.mark.parametrize("offset", [0.0, 0.2, 0.7])
def test_a_speck_keeps_its_mass_in_plane_wherever_it_lies(fwhm, offset):
    speck = Particles((MIDDLE + offset)[None], np.array([80.0]))
    # slices as thick as their spacing tile the axis, so that no mass falls between them
    assert integral_mm3(speck, Response(fwhm, 2.0, 0.8)) == pytest.approx(80.0, rel=0.01)


def test_overlapping_slices_see_the_mass_as_often_as_they_overlap():
    speck = Particles(MIDDLE[None], np.array([50.0]))
    # 5 mm thick every 2 mm: integral over positions is mass, summed over slices 50 as well
    patch, part = render_particles(speck, GRID, Response(0.9, 5.0, 0.6))
    shares = patch.sum((1, 2)) * 0.6 * 0.5 * 5.0
    # a slice that holds the speck whole shows all of it, spread over 5 mm
    assert shares.max() == pytest.approx(50.0, rel=0.01)
    assert part[0].stop - part[0].start == len(shares)


def test_nodules_and_tubes_have_the_volume_of_their_shape():
    rng = np.random.default_rng(0)
    ball = nodule(rng, MIDDLE, (1.5, 2.0, 3.0))
    assert ball.masses.sum() == pytest.approx(4 / 3 * np.pi * 9.0)
    assert np.abs((ball.points_mm - MIDDLE) / (1.5, 2.0, 3.0)).max() <= 1.0
    path = MIDDLE + np.array([[0.0, 0, 0], [3, 4, 0], [3, 4, 12]])
    bar = tube(rng, path, lumen_radius_mm=1.0, wall_mm=1.0, opening_deg=180.0)
    # half a ring of radii 1 and 2 mm, 17 mm long
    assert bar.masses.sum() == pytest.approx(17 * np.pi * (4 - 1) / 2)


def test_motion_spreads_a_plaque_in_plane_and_keeps_its_mass():
    rng = np.random.default_rng(1)
    ball = nodule(rng, MIDDLE, (1.0, 1.0, 1.0))
    moved = smeared(ball, rng, 6.0)
    assert moved.masses.sum() == pytest.approx(ball.masses.sum())
    assert np.ptp(moved.points_mm[:, 2]) == pytest.approx(np.ptp(ball.points_mm[:, 2]))
    assert np.ptp(moved.points_mm[:, :2]) > np.ptp(ball.points_mm[:, :2]) + 3.0


def test_insert_reaches_the_wanted_peak_unless_calcium_cannot():
    volume = np.full(GRID.shape, 40.0, np.float32)
    rng = np.random.default_rng(2)
    big = Insert(nodule(rng, MIDDLE, (3.0, 3.0, 4.0)), 300.0)
    shown = volume + insert_clouds(volume, GRID, [big], Response())
    assert shown.max() == pytest.approx(300.0, abs=0.5)
    speck = Insert(nodule(rng, MIDDLE, (0.15, 0.15, 0.15)), 900.0)
    faint = insert_clouds(volume, GRID, [speck], Response())
    mass = float(faint.sum(dtype=np.float64)) * GRID.voxel_volume_mm3
    # as dense as calcium gets, 2600 HU in a ball of 0.15 mm
    assert mass == pytest.approx(2600 * 4 / 3 * np.pi * 0.15**3, rel=0.35)
    assert faint.max() < 100


def test_what_falls_outside_the_grid_is_cut_off():
    speck = Particles(np.array([[500.0, 0.0, 0.0]]), np.array([10.0]))
    assert render_particles(speck, GRID, Response())[0].size == 0
    edge = Particles(np.array([[11.0 - 0.25, -46.3, 229.2]]), np.array([10.0]))
    # the left half of a symmetric spread, cut at the border of the first voxel
    assert integral_mm3(edge, Response(0.9, 2.0, 0.8)) == pytest.approx(5.0, rel=0.02)


def test_noise_has_the_wanted_strength_and_texture():
    noise = correlated_noise(
        (6, 128, 128), (0.5, 0.5, 3.0), np.random.default_rng(3), sigma_hu=20.0, correlation_mm=0.8
    )
    assert noise.std() == pytest.approx(20.0, rel=1e-4)
    assert abs(noise.mean()) < 1.0
    neighbors = np.corrcoef(noise[:, :, 1:].ravel(), noise[:, :, :-1].ravel())[0, 1]
    slices = np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1]
    assert neighbors > 0.5
    assert abs(slices) < 0.05


def test_kernels_soften_and_sharpen_an_edge_and_keep_flat_areas():
    volume = np.zeros((2, 40, 40), np.float32)
    volume[:, :, 20:] = 100.0
    soft, sharp = kernel_filter(volume, 1.5), kernel_filter(volume, -0.8)
    assert soft[0, 20, 20] < 100.0 < sharp[0, 20, 20]
    assert soft[0, 20, 36] == pytest.approx(100.0, abs=0.1)
    assert sharp[0, 20, 36] == pytest.approx(100.0, abs=0.1)
    assert kernel_filter(volume, 0.0) is volume


def test_points_along_a_path_are_spaced_by_length():
    path = np.array([[0.0, 0, 0], [3, 0, 0], [3, 9, 0]])
    points = interpolate_path(path, [0.0, 0.25, 0.5, 1.0])
    assert points.tolist() == [[0, 0, 0], [3, 0, 0], [3, 3, 0], [3, 9, 0]]
