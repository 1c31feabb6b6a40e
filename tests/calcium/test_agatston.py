"""Scores of a mask: hand arithmetic on oblique grids, lesions, mass, and refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk

from calcium.agatston import mask_on_grid, score_image, score_mask
from calcium.density import find_candidates
from calcium.lesions import group_lesions
from calcium.presets import PRESETS
from registration.geometry import ImageGrid

OBLIQUE = (math.cos(0.2), -math.sin(0.2), 0.0, math.sin(0.2), math.cos(0.2), 0.0, 0.0, 0.0, 1.0)


def make_grid(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> ImageGrid:
    return ImageGrid((shape[2], shape[1], shape[0]), spacing, (12.0, -140.0, 55.5), OBLIQUE)


@pytest.mark.parametrize("name", list(PRESETS))
def test_two_by_two_pixels_at_250_hu_score_eight_under_every_preset(name: str) -> None:
    hu = np.full((3, 6, 5), 30.0)
    hu[1, 2:4, 1:3] = 250.0
    result = score_mask(hu, np.ones(hu.shape), make_grid(hu.shape, (1.0, 1.0, 3.0)), name)
    assert result.preset == name
    assert result.agatston == pytest.approx(8.0)
    assert result.volume_mm3 == pytest.approx(12.0)
    assert result.mean_hu == pytest.approx(250.0)
    assert result.mass_mg is None


@pytest.mark.parametrize("shape", [(4, 2, 2), (2, 4, 2), (2, 2, 4)])
def test_block_of_sixteen_half_millimeter_voxels(shape: tuple[int, int, int]) -> None:
    hu = np.zeros((6, 6, 6))
    hu[tuple(slice(1, 1 + n) for n in shape)] = 400.0
    result = score_mask(hu, hu > 0, make_grid(hu.shape, (0.5, 0.5, 0.5)))
    assert result.agatston == pytest.approx(16.0 * 0.5 / 3.0)
    assert result.volume_mm3 == pytest.approx(2.0)
    assert result.lesions[0].agatston == pytest.approx(2.667, abs=5e-4)


def test_voxels_outside_the_mask_or_below_130_hu_do_not_count() -> None:
    hu = np.full((2, 5, 8), 20.0)
    hu[0, 1:4, 1:7] = 150.0
    hu[0, 2, 5] = 600.0
    mask = np.zeros(hu.shape, dtype=np.uint8)
    mask[:, :, :5] = 3
    result = score_mask(hu, mask, make_grid(hu.shape, (0.8, 0.6, 2.5)))
    assert result.agatston == pytest.approx(12 * 0.8 * 0.6 * 1 * 2.5 / 3)
    assert result.volume_mm3 == pytest.approx(12 * 0.8 * 0.6 * 2.5)


def test_lesion_crosses_slices_and_knows_where_it_is() -> None:
    hu = np.zeros((4, 6, 7))
    hu[1, 1:3, 2:4] = 150.0
    hu[2, 1:3, 2:4] = 310.0
    hu[3, 5, 5:7] = 210.0
    grid = make_grid(hu.shape, (1.0, 0.9, 3.0))
    large, small = score_mask(hu, hu > 0, grid).lesions
    assert large.agatston == pytest.approx(4 * 0.9 * (1 + 3))
    assert large.slice_indices == (1, 2)
    assert large.peak_hu == 310.0
    assert large.volume_mm3 == pytest.approx(8 * 0.9 * 3.0)
    x, y = 2.5 * 1.0, 1.5 * 0.9
    c, s = math.cos(0.2), math.sin(0.2)
    expected = (12.0 + c * x - s * y, -140.0 + s * x + c * y, 55.5 + 1.5 * 3.0)
    assert large.center_mm == pytest.approx(expected)
    assert small.agatston == pytest.approx(2 * 0.9 * 2)
    assert small.slice_indices == (3,)


def test_lesion_scores_sum_to_the_score() -> None:
    hu = np.random.default_rng(2).normal(70.0, 80.0, size=(5, 12, 9))
    grid = make_grid(hu.shape, (0.7, 0.9, 2.0))
    for name in PRESETS:
        result = score_mask(hu, np.ones(hu.shape), grid, name)
        assert len(result.lesions) > 1
        assert sum(lesion.agatston for lesion in result.lesions) == pytest.approx(result.agatston)
        volume_mm3 = sum(lesion.volume_mm3 for lesion in result.lesions)
        assert volume_mm3 == pytest.approx(result.volume_mm3)


def test_mass_is_calibration_times_mean_hu_times_volume() -> None:
    hu = np.zeros((1, 4, 4))
    hu[0, 1:3, 1:3] = [[200.0, 300.0], [250.0, 250.0]]
    grid = make_grid(hu.shape, (1.0, 1.0, 3.0))
    result = score_mask(hu, hu > 0, grid, calibration_mg_per_hu_cm3=0.8)
    assert result.mass_mg == pytest.approx(0.8 * 250.0 * 0.012)


def test_score_uses_slice_spacing_and_not_the_gap_between_masked_slices() -> None:
    hu = np.zeros((5, 4, 4))
    hu[0, 1:3, 1:3] = hu[4, 1:3, 1:3] = 140.0
    result = score_mask(hu, hu > 0, make_grid(hu.shape, (1.0, 1.0, 1.5)))
    assert result.agatston == pytest.approx(2 * 4 * 1 * 1.5 / 3)
    assert len(result.lesions) == 2


def test_empty_mask_scores_zero() -> None:
    hu = np.full((2, 4, 4), 300.0)
    result = score_mask(
        hu,
        np.zeros(hu.shape),
        make_grid(hu.shape, (1.0, 1.0, 3.0)),
        calibration_mg_per_hu_cm3=0.8,
    )
    assert (result.agatston, result.volume_mm3, result.mass_mg) == (0.0, 0.0, 0.0)
    assert result.mean_hu is None
    assert result.lesions == ()


def test_voxels_that_are_not_a_number_do_not_count() -> None:
    hu = np.full((1, 4, 4), np.nan)
    hu[0, 1:3, 1:3] = 150.0
    result = score_mask(hu, np.ones(hu.shape), make_grid(hu.shape, (1.0, 1.0, 3.0)))
    assert result.agatston == pytest.approx(4.0)


def test_lesions_of_zero_contribution_are_none() -> None:
    hu = np.full((1, 3, 3), 200.0)
    grid = make_grid(hu.shape, (1.0, 1.0, 3.0))
    candidates = find_candidates(hu, grid)
    assert group_lesions(candidates, np.zeros(9), grid) == ()


def test_images_are_scored_on_their_own_grid() -> None:
    hu = np.zeros((3, 5, 6), dtype=np.int16)
    hu[1, 1:3, 2:5] = 260
    grid = make_grid(hu.shape, (0.9, 0.5, 2.0))
    mask = sitk.Cast(grid.to_image(hu) > 0, sitk.sitkUInt8)
    result = score_image(grid.to_image(hu), mask, "agatston-4conn")
    assert result.agatston == pytest.approx(6 * 0.9 * 0.5 * 2 * 2.0 / 3.0)


@pytest.fixture
def painted() -> tuple[ImageGrid, np.ndarray]:
    """An oblique grid, and a mask without any symmetry on it."""
    grid = make_grid((3, 5, 6), (0.9, 0.5, 2.0))
    mask = np.zeros(grid.shape, dtype=np.uint8)
    mask[1, 1:4, 2] = mask[2, 2, 2:5] = 1
    return grid, mask


def test_mask_stored_in_another_axis_order_is_the_same_mask(
    painted: tuple[ImageGrid, np.ndarray],
) -> None:
    grid, mask = painted
    image = grid.to_image(mask)
    for stored in (
        sitk.Flip(image, [False, False, True]),
        sitk.Flip(image, [True, True, False]),
        sitk.PermuteAxes(image, [2, 0, 1]),
    ):
        assert np.array_equal(mask_on_grid(stored, grid), mask == 1)


def test_mask_cropped_to_what_was_drawn_is_put_back(
    painted: tuple[ImageGrid, np.ndarray],
) -> None:
    grid, mask = painted
    cropped = grid.to_image(mask)[2:5, 1:4, 1:3]
    assert cropped.GetSize() == (3, 3, 2)
    assert np.array_equal(mask_on_grid(cropped, grid), mask == 1)


def test_rounded_headers_are_forgiven(painted: tuple[ImageGrid, np.ndarray]) -> None:
    grid, mask = painted
    spacing = tuple(s * (1 + 1e-5) for s in grid.spacing)
    origin = tuple(o + 0.01 for o in grid.origin)
    image = ImageGrid(grid.size, spacing, origin, grid.direction).to_image(mask)
    assert np.array_equal(mask_on_grid(image, grid), mask == 1)


@pytest.mark.parametrize(
    ("spacing", "shift_mm", "angle"),
    [
        ((0.9, 0.5, 3.0), 0.0, 0.2),
        ((0.9, 0.5, 2.0), 0.3, 0.2),
        ((0.9, 0.5, 2.0), 90.0, 0.2),
        ((0.9, 0.5, 2.0), 0.0, 0.25),
        ((0.45, 0.25, 1.0), 0.0, 0.2),
    ],
)
def test_mask_on_another_lattice_is_refused(
    painted: tuple[ImageGrid, np.ndarray],
    spacing: tuple[float, float, float],
    shift_mm: float,
    angle: float,
) -> None:
    grid, mask = painted
    c, s = math.cos(angle), math.sin(angle)
    origin = (grid.origin[0] + shift_mm, *grid.origin[1:])
    other = ImageGrid(grid.size, spacing, origin, (c, -s, 0, s, c, 0, 0, 0, 1))
    with pytest.raises(ValueError, match=r"on the voxels of the scan.*6 x 5 x 3 voxels of 0\.9"):
        mask_on_grid(other.to_image(mask), grid)


def test_mask_larger_than_its_scan_is_refused(painted: tuple[ImageGrid, np.ndarray]) -> None:
    grid, mask = painted
    larger = sitk.ConstantPad(grid.to_image(mask), [0, 0, 0], [0, 0, 1])
    with pytest.raises(ValueError, match=r"Mask: 6 x 5 x 4 voxels"):
        mask_on_grid(larger, grid)


def test_mask_with_several_channels_is_refused(painted: tuple[ImageGrid, np.ndarray]) -> None:
    grid, mask = painted
    image = grid.to_image(mask)
    with pytest.raises(ValueError, match="3 dimensions, 2 components"):
        mask_on_grid(sitk.Compose(image, image), grid)


def test_unknown_preset_is_refused_before_anything_is_computed() -> None:
    with pytest.raises(ValueError, match=r"preset must be one of agatston-1990.*Received: mine"):
        score_mask(
            np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), make_grid((1, 2, 2), (1, 1, 1)), "mine"
        )


@pytest.mark.parametrize("outside", [math.nan, math.inf])
def test_mask_whose_background_is_no_number_is_refused(
    painted: tuple[ImageGrid, np.ndarray], outside: float
) -> None:
    grid, mask = painted
    values = np.where(mask == 1, 1.0, outside).astype(np.float32)
    with pytest.raises(ValueError, match=r"write 0 outside.*Received: 84 of 90 voxels"):
        mask_on_grid(grid.to_image(values), grid)
    with pytest.raises(ValueError, match="write 0 outside"):
        score_mask(np.full(grid.shape, 300.0), values, grid)
