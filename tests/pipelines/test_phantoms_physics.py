"""Phantom physics against closed forms: mass, partial volume, noise, geometry."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.phantoms.acquisition import (
    KERNELS,
    Sampling,
    correlated_noise,
    noise_gain,
    render_grid,
    resample,
)
from pipelines.phantoms.deposit import HU_PER_HYDROXYAPATITE, Cloud, deposit, smear
from pipelines.phantoms.plaques import wall_cloud
from pipelines.phantoms.pose import Pose
from pipelines.phantoms.shapes import Canvas, TubeField, capsule, ellipsoid, refine
from registration.geometry import ImageGrid

OFF_GRID = ImageGrid((70, 64, 12), (0.45, 0.45, 2.5), (-13.3, 41.7, -207.2))


def image_of(cloud: Cloud, sampling: Sampling) -> np.ndarray:
    hu = np.zeros(sampling.grid.shape)
    for patch in deposit(cloud, sampling):
        hu[patch.box] += patch.hu
    return hu


def cube_cloud(center: np.ndarray, side_mm: float, density_mg_cm3: float) -> Cloud:
    """A solid cube of hydroxyapatite on a regular lattice of 9 points a side."""
    ticks = (np.arange(9) - 4) / 9 * side_mm
    points = np.stack(np.meshgrid(ticks, ticks, ticks), axis=-1).reshape(-1, 3) + center
    contrast = density_mg_cm3 * HU_PER_HYDROXYAPATITE[120] * side_mm**3 / len(points)
    return Cloud(points, np.full(len(points), contrast))


@pytest.mark.parametrize("kernel", ["soft", "standard", "sharp"])
@pytest.mark.parametrize("spacing_mm", [1.0, 2.5, 3.0])
def test_image_of_a_plaque_holds_its_mass(kernel: str, spacing_mm: float) -> None:
    grid = ImageGrid((70, 64, 14), (0.45, 0.45, spacing_mm), (-13.3, 41.7, -207.2))
    sampling = Sampling(grid, KERNELS[kernel], spacing_mm)
    center = grid.center + np.array([0.21, -0.13, 0.3 * spacing_mm])
    side_mm, density_mg_cm3 = 1.5, 800.0
    hu = image_of(cube_cloud(center, side_mm, density_mg_cm3), sampling)
    mass_mg = 800.0 * 1.5**3 / 1000.0
    measured_mg = hu.sum() * 0.45 * 0.45 * spacing_mm / 1000.0 / 1.30
    assert measured_mg == pytest.approx(mass_mg, rel=0.01)


def test_overlapping_slices_see_the_mass_once_per_overlap() -> None:
    grid = ImageGrid((70, 64, 30), (0.45, 0.45, 1.0), (-13.3, 41.7, -207.2))
    sampling = Sampling(grid, KERNELS["soft"], 3.0)
    on_a_slice = grid.physical_points([[35.2, 31.4, 14.0]])[0]
    hu = image_of(cube_cloud(on_a_slice, 0.8, 1000.0 / 0.512), sampling)
    assert hu.sum() * 0.45 * 0.45 * 1.0 == pytest.approx(1300.0, rel=0.01)
    assert np.count_nonzero(hu.max(axis=(1, 2)) > 0.3 * hu.max()) == 3


def test_a_speck_between_two_slices_is_shared_equally() -> None:
    sampling = Sampling(OFF_GRID, KERNELS["standard"], 2.5)
    between = OFF_GRID.physical_points([[34.0, 30.0, 5.5]])
    hu = image_of(Cloud(between, np.array([1000.0])), sampling)
    per_slice = hu.sum(axis=(1, 2))
    assert per_slice[5] == pytest.approx(per_slice[6], rel=1e-4)
    assert per_slice[[5, 6]].sum() == pytest.approx(per_slice.sum(), rel=1e-3)


def test_a_speck_peaks_at_the_pixel_it_lies_in() -> None:
    sampling = Sampling(OFF_GRID, KERNELS["standard"], 2.5)
    hu = image_of(Cloud(OFF_GRID.physical_points([[50, 12, 7]]), np.array([1000.0])), sampling)
    assert np.argwhere(hu == hu.max()).tolist() == [[7, 12, 50]]


def test_motion_smears_but_keeps_mass() -> None:
    sampling = Sampling(OFF_GRID, KERNELS["standard"], 2.5)
    still = cube_cloud(OFF_GRID.center, 1.0, 900.0)
    moved = smear(still, np.array([4.0, 2.0, 0.0]), 7, np.random.default_rng(0))
    sharp, blurred = image_of(still, sampling), image_of(moved, sampling)
    assert blurred.sum() == pytest.approx(sharp.sum(), rel=0.005)
    assert blurred.max() < 0.7 * sharp.max()


def test_material_outside_the_field_of_view_leaves_no_trace() -> None:
    sampling = Sampling(OFF_GRID, KERNELS["soft"], 2.5)
    far = OFF_GRID.physical_points([[300.0, 30.0, 5.0]])
    assert deposit(Cloud(far, np.array([1000.0])), sampling) == []


def test_wall_plaque_fills_a_ring_of_known_volume() -> None:
    line = np.stack([np.zeros(40), np.zeros(40), np.arange(40.0)], axis=1)
    rng = np.random.default_rng(3)
    points, volume = wall_cloud(line, 2.0, 20.0, 10.0, np.pi, 1.0, rng)
    radius = np.hypot(points[:, 0], points[:, 1])
    assert radius.min() >= 1.5 - 1e-9
    assert radius.max() <= 2.5 + 1e-9
    assert points[:, 2].min() >= 15.0
    assert points[:, 2].max() <= 25.0
    # half of a tube of 10 mm unrolls to a sheet; its inscribed ellipse covers pi/4 of it
    assert volume == pytest.approx(np.pi / 4 * 10.0 * 0.5 * np.pi * (2.5**2 - 1.5**2), rel=1e-9)


@pytest.mark.parametrize("kernel", ["soft", "sharp"])
def test_noise_has_unit_variance_and_little_power_at_low_frequency(kernel: str) -> None:
    gain = noise_gain((96, 130), 0.6, KERNELS[kernel])
    rng = np.random.default_rng(5)
    slices = np.stack([correlated_noise(rng, (96, 130), gain) for _ in range(30)])
    assert slices.std() == pytest.approx(1.0, abs=0.02)
    power = (np.abs(np.fft.fft2(slices)) ** 2).mean(axis=0)
    frequency = np.hypot(
        *np.meshgrid(np.fft.fftfreq(96, 0.6), np.fft.fftfreq(130, 0.6), indexing="ij")
    )
    peak = KERNELS[kernel].noise_peak_per_mm
    low = power[(frequency > 0.1 * peak) & (frequency < 0.2 * peak)].mean()
    middle = power[(frequency > 0.8 * peak) & (frequency < 1.2 * peak)].mean()
    # a ramp gives 0.15, its kernel at the peak takes exp(-0.5) of the other, a floor adds some
    assert low / middle == pytest.approx(0.15 / np.exp(-0.5), abs=0.12)


def test_uniform_objects_keep_their_value_through_the_scanner() -> None:
    sampling = Sampling(ImageGrid((40, 36, 7), (0.8, 0.8, 3.0), (5.0, -9.0, 100.0)),
                        KERNELS["sharp"], 3.0)  # fmt: skip
    canvas = Canvas(render_grid(sampling, 1.3), lambda p: p, lambda p: p, background_hu=40.0)
    np.testing.assert_allclose(resample(canvas, sampling), 40.0, atol=0.05)


def test_a_painted_ball_has_its_volume_and_place_after_the_scanner() -> None:
    grid = ImageGrid((90, 80, 20), (0.7, 0.7, 2.5), (-31.0, 12.0, -70.0))
    sampling = Sampling(grid, KERNELS["standard"], 2.5)
    canvas = Canvas(render_grid(sampling, 1.2), lambda p: p, lambda p: p, background_hu=0.0)
    center = grid.center + np.array([3.0, -2.0, 1.0])
    canvas.paint_ellipsoid(center, (14.0, 14.0, 14.0), 100.0, 7)
    hu = resample(canvas, sampling).astype(float)
    assert hu.sum() * grid.voxel_volume_mm3 / 100 == pytest.approx(4 / 3 * np.pi * 14**3, rel=0.01)
    middle = np.tensordot(hu, grid.voxel_points(), axes=3) / hu.sum()
    np.testing.assert_allclose(middle, center, atol=0.05)


def test_distances_to_simple_shapes() -> None:
    points = tuple(np.array([[v]], np.float32) for v in (3.0, 4.0, 0.0))
    assert ellipsoid(points, (0, 0, 0), (2, 2, 2))[0, 0] == pytest.approx(3.0)
    assert ellipsoid(points, (0, 0, 0), (3, 1, 1), np.eye(3)[[1, 0, 2]])[0, 0] > 0
    assert capsule(points, (0, 0, 0), (0, 8, 0), (1.0, 2.0))[0, 0] == pytest.approx(1.5)


def test_tubes_paint_only_near_their_path() -> None:
    grid = ImageGrid((40, 30, 25), (1.0, 1.0, 1.0), (-20.0, 5.0, 60.0))
    canvas = Canvas(grid, lambda p: p, lambda p: p)
    tubes = TubeField(canvas)
    tubes.add([[-13.2, 20.3, 72.4], [10.1, 20.3, 72.4]], 4.6)
    tubes.paint(50.0, 4)
    inside = np.argwhere(canvas.labels == 4)
    volume = np.pi * 4.6**2 * 23.3 + 4 / 3 * np.pi * 4.6**3
    assert len(inside) == pytest.approx(volume, rel=0.03)
    assert np.all(np.abs(inside[:, 1] + 5.0 - 20.3) <= 4.6)


def test_boxes_hold_what_lies_inside_and_nothing_else() -> None:
    grid = ImageGrid((40, 30, 25), (1.0, 2.0, 1.5), (-20.0, 5.0, 60.0))
    canvas = Canvas(grid, lambda p: p - 10.0, lambda p: p + 10.0)
    low, high = np.array([-25.0, 10.0, 55.0]), np.array([-21.0, 15.0, 58.0])
    box = canvas.box(low, high, 0.0)
    assert box is not None
    inside = np.all([(p >= a) & (p <= b) for p, a, b in zip(canvas.points, low, high, strict=True)],
                    axis=0)  # fmt: skip
    assert inside.any()
    assert inside[box].sum() == inside.sum()
    assert inside[box].size < 3 * inside.sum()
    for axis in range(3):
        for side in (-1, 1):
            shift = np.zeros(3)
            shift[axis] = side * 200.0
            assert canvas.box(low + shift, high + shift) is None


def test_refining_a_linear_field_is_exact() -> None:
    z, y, x = np.meshgrid(np.arange(3), np.arange(4), np.arange(5), indexing="ij")
    fine = refine(1.0 * z - 2.0 * y + 3.0 * x, (9, 10, 21))
    wanted = (
        np.linspace(0, 2, 9)[:, None, None]
        - 2 * np.linspace(0, 3, 10)[:, None]
        + 3 * np.linspace(0, 4, 21)
    )
    np.testing.assert_allclose(fine, wanted, atol=1e-5)


def test_pose_is_invertible() -> None:
    rng = np.random.default_rng(2)
    pose = Pose.sample(rng, scale=(1.1, 0.9, 1.05), roll_deg=9.0, warp_mm=7.0, offset=(3, -80, 40))
    points = rng.uniform(-150, 150, (50, 3))
    np.testing.assert_allclose(pose.to_anatomy(pose.to_scanner(points)), points, atol=2e-3)
