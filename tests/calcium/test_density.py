"""The Agatston density: hand arithmetic, edges, connectivity, and an independent slow sum."""

from __future__ import annotations

import math

import numpy as np
import pytest

from calcium.density import (
    agatston_density,
    agatston_weight,
    find_candidates,
    structuring_element,
)
from calcium.presets import PRESETS, Preset, to_preset
from registration.geometry import ImageGrid

BACKGROUND_HU = 40.0


def make_grid(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> ImageGrid:
    """Oblique grid away from the origin: none of it may change a score."""
    c, s = math.cos(0.3), math.sin(0.3)
    direction = (c, -s, 0.0, s, c, 0.0, 0.0, 0.0, 1.0)
    return ImageGrid((shape[2], shape[1], shape[0]), spacing, (-91.0, 17.5, -340.0), direction)


def soft_tissue(shape: tuple[int, int, int]) -> np.ndarray:
    return np.full(shape, BACKGROUND_HU, dtype=np.float32)


def components(hu: np.ndarray, grid: ImageGrid, preset: str = "agatston-1990") -> np.ndarray:
    """Component of every voxel, from 1; 0 below 130 HU."""
    found = find_candidates(hu, grid, preset)
    return found.to_volume(found.component + 1.0)


def test_four_pixels_of_one_mm_at_250_hu_score_eight() -> None:
    hu = soft_tissue((2, 6, 7))
    hu[1, 2:4, 3:5] = 250.0
    density = agatston_density(hu, make_grid(hu.shape, (1.0, 1.0, 3.0)))
    assert density.sum() == pytest.approx(4 * 1.0 * 2)
    assert np.unique(density).tolist() == [0.0, 2.0]
    assert density.dtype == np.float32


def test_thin_slices_are_scaled_to_three_millimeters() -> None:
    hu = soft_tissue((6, 6, 6))
    hu[1:5, 2:4, 2:4] = 400.0
    density = agatston_density(hu, make_grid(hu.shape, (0.5, 0.5, 0.5)))
    assert density.sum() == pytest.approx(4 * (4 * 0.25 * 4) * 0.5 / 3.0)


@pytest.mark.parametrize(
    ("hu_value", "weight"),
    [(129.9, 0), (130, 1), (199.9, 1), (200, 2), (299.9, 2), (300, 3), (399.9, 3), (400, 4)],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weight_changes_exactly_at_the_edges(hu_value: float, weight: int, dtype: type) -> None:
    hu = soft_tissue((1, 5, 5)).astype(dtype)
    hu[0, 1:3, 1:4] = hu_value
    density = agatston_density(hu, make_grid(hu.shape, (0.8, 0.6, 2.5)))
    assert density.sum() == pytest.approx(6 * 0.8 * 0.6 * weight * 2.5 / 3.0)


def test_weight_follows_the_lesion_peak_in_each_slice() -> None:
    hu = soft_tissue((3, 5, 6))
    hu[0, 1, 1:5] = 150.0
    hu[1, 1, 1:5] = 150.0
    hu[1, 1, 2] = 410.0
    grid = make_grid(hu.shape, (1.0, 0.5, 3.0))
    per_slice = agatston_density(hu, grid, "agatston-1990").sum(axis=(1, 2))
    assert per_slice.tolist() == [4 * 0.5 * 1, 4 * 0.5 * 4, 0.0]
    assert agatston_density(hu, grid, "qurai-2018").sum() == pytest.approx(2.0 * 1 + 2.0 * 4)
    assert agatston_density(hu, grid, "ai-cac-2025").sum() == pytest.approx(2.0 * 4 + 2.0 * 4)


def test_pixels_that_touch_at_a_corner_split_with_four_neighbors() -> None:
    hu = soft_tissue((1, 6, 6))
    hu[0, 1:3, 1:3] = 150.0
    hu[0, 3:5, 3:5] = 350.0
    grid = make_grid(hu.shape, (1.0, 1.0, 3.0))
    assert agatston_density(hu, grid, "agatston-1990").sum() == pytest.approx(8 * 3)
    assert agatston_density(hu, grid, "agatston-4conn").sum() == pytest.approx(4 * 1 + 4 * 3)


@pytest.mark.parametrize(("spacing_mm", "score"), [(0.5, 4 * 0.25 * 1), (0.499, 0.0)])
def test_lesions_of_one_square_millimeter_count_and_smaller_ones_do_not(
    spacing_mm: float, score: float
) -> None:
    hu = soft_tissue((1, 4, 4))
    hu[0, 1:3, 1:3] = 160.0
    grid = make_grid(hu.shape, (spacing_mm, spacing_mm, 3.0))
    assert agatston_density(hu, grid).sum() == pytest.approx(score)


def test_least_volume_of_a_three_dimensional_lesion_counts_all_its_slices() -> None:
    grid = make_grid((4, 4, 4), (0.5, 0.5, 3.0))
    hu = soft_tissue((4, 4, 4))
    hu[1, 1, 1] = hu[2, 2, 2] = 160.0  # 2 x 0.75 mm³, touching at a corner
    assert agatston_density(hu, grid, "agatston-1990").sum() == 0.0
    assert agatston_density(hu, grid, "qurai-2018").sum() == pytest.approx(2 * 0.25)
    hu[2, 2, 2] = BACKGROUND_HU
    assert agatston_density(hu, grid, "qurai-2018").sum() == 0.0


def test_single_voxels_score_nothing_where_two_are_asked_for() -> None:
    grid = make_grid((3, 4, 4), (1.0, 1.0, 3.0))
    hu = soft_tissue((3, 4, 4))
    hu[1, 1, 1] = 500.0
    assert agatston_density(hu, grid, "ai-cac-2025").sum() == 0.0
    hu[2, 1, 1] = 140.0
    assert agatston_density(hu, grid, "ai-cac-2025").sum() == pytest.approx(2 * 4)


def test_slices_do_not_touch_in_plane() -> None:
    hu = np.full((3, 2, 2), 150.0, dtype=np.float32)
    grid = make_grid(hu.shape, (1.0, 1.0, 3.0))
    labels = components(hu, grid)
    assert [np.unique(plane).tolist() for plane in labels] == [[1], [2], [3]]
    assert np.unique(components(hu, grid, "ai-cac-2025")).tolist() == [1]


def test_opposite_image_borders_do_not_touch() -> None:
    hu = soft_tissue((2, 3, 4))
    hu[0, :, 0] = hu[0, :, 3] = 150.0
    labels = components(hu, make_grid(hu.shape, (1.0, 1.0, 3.0)))
    assert np.unique(labels[0, :, 0]).tolist() != np.unique(labels[0, :, 3]).tolist()
    assert not labels[1].any()


def test_nan_and_padding_never_count() -> None:
    hu = np.full((1, 4, 4), np.nan, dtype=np.float32)
    hu[0, 0] = -3024.0
    assert agatston_density(hu, make_grid(hu.shape, (1.0, 1.0, 3.0))).sum() == 0.0
    assert agatston_weight(np.array([np.nan])).tolist() == [0]


@pytest.mark.parametrize("name", list(PRESETS))
def test_empty_scan_has_no_candidates(name: str) -> None:
    hu = soft_tissue((2, 3, 4))
    found = find_candidates(hu, make_grid(hu.shape, (1.0, 1.0, 3.0)), name)
    assert found.n_components == 0
    assert found.flat_index.size == found.density.size == 0
    assert found.to_volume(found.density).shape == hu.shape


def test_mask_cuts_components_and_hides_the_peak_outside() -> None:
    hu = soft_tissue((1, 4, 8))
    hu[0, 1:3, 1:7] = 150.0
    hu[0, 1:3, 4] = 450.0
    mask = np.ones(hu.shape, dtype=bool)
    mask[0, :, 4] = False
    density = agatston_density(hu, make_grid(hu.shape, (1.0, 1.0, 3.0)), mask=mask)
    assert density.sum() == pytest.approx(6 * 1 + 4 * 1)


def slow_score(hu: np.ndarray, grid: ImageGrid, preset: Preset) -> float:
    """Agatston score by flood fill, one voxel at a time, in plain Python."""
    reach = {4: (0, 1), 8: (0, 2), 6: (1, 1), 18: (1, 2), 26: (1, 3)}[preset.connectivity]
    todo = {tuple(i) for i in np.argwhere(hu >= 130).tolist()}
    area, total = grid.spacing[0] * grid.spacing[1], 0.0
    while todo:
        lesion, queue = set(), [todo.pop()]
        while queue:
            here = queue.pop()
            lesion.add(here)
            near = [
                other
                for other in todo
                if abs(other[0] - here[0]) <= reach[0]
                and max(abs(a - b) for a, b in zip(other, here, strict=True)) <= 1
                and sum(abs(a - b) for a, b in zip(other, here, strict=True)) <= reach[1]
            ]
            todo -= set(near)
            queue += near
        if len(lesion) * area < preset.min_area_mm2 or len(lesion) < preset.min_voxels:
            continue
        if len(lesion) * area * grid.spacing[2] < preset.min_volume_mm3:
            continue
        for z in {voxel[0] for voxel in lesion}:
            part = [voxel for voxel in lesion if voxel[0] == z]
            peak = max(hu[v] for v in (part if preset.peak == "slice" else lesion))
            weight = 1 if peak < 200 else 2 if peak < 300 else 3 if peak < 400 else 4
            total += len(part) * area * weight * grid.spacing[2] / 3
    return total


@pytest.mark.parametrize("name", list(PRESETS))
@pytest.mark.parametrize("seed", range(3))
def test_density_sums_to_the_flood_fill_score(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    hu = rng.normal(60.0, 90.0, size=(5, 9, 11)).astype(np.float32)
    grid = make_grid(hu.shape, (0.9, 0.7, 2.5))
    preset = to_preset(name)
    expected = slow_score(hu, grid, preset)
    assert expected > 10.0
    assert agatston_density(hu, grid, preset).sum() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", list(PRESETS))
def test_score_survives_flips_and_slice_order(name: str) -> None:
    rng = np.random.default_rng(5)
    hu = rng.normal(60.0, 90.0, size=(4, 8, 6))
    grid = make_grid(hu.shape, (0.9, 0.7, 2.5))
    score = agatston_density(hu, grid, name).sum()
    for axis in range(3):
        assert agatston_density(np.flip(hu, axis), grid, name).sum() == pytest.approx(score)


def test_wrong_shapes_are_named() -> None:
    grid = make_grid((2, 3, 4), (1.0, 1.0, 3.0))
    with pytest.raises(ValueError, match=r"volume \(2, 4, 3\), grid \(2, 3, 4\)"):
        find_candidates(np.zeros((2, 4, 3)), grid)
    with pytest.raises(ValueError, match="mask must have the shape of the scan"):
        find_candidates(np.zeros((2, 3, 4)), grid, mask=np.zeros((2, 3, 3), dtype=bool))


def test_presets_refuse_what_they_cannot_mean() -> None:
    with pytest.raises(ValueError, match=r"Received: agatston-1991"):
        to_preset("agatston-1991")
    with pytest.raises(ValueError, match="connectivity must be one of"):
        Preset("odd", connectivity=5)
    with pytest.raises(ValueError, match="connectivity must be one of"):
        structuring_element(12)
    with pytest.raises(ValueError, match="min_area_mm2 needs in-plane connectivity"):
        Preset("odd", connectivity=26, min_area_mm2=1.0)


@pytest.mark.parametrize("connectivity", [4, 8, 6, 18, 26])
def test_structuring_element_has_its_namesake_number_of_neighbors(connectivity: int) -> None:
    assert structuring_element(connectivity).sum() == connectivity + 1
