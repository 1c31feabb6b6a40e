import numpy as np
import pytest
import SimpleITK as sitk

from registration.affine_refinement import AffinePrior, AffineRefiner
from registration.geometry import ImageGrid
from registration.preprocessing import prepare_volume
from tests.registration.torso import (
    HEART,
    mean_distance_mm,
    oblique_chest_grid,
    small_affine,
    torso_scan,
)

FREE = AffinePrior(np.eye(4), weight=1e-5)


@pytest.fixture(scope="module")
def refiner():
    grid = ImageGrid.centered((90, 70, 80), (4.0, 4.0, 4.0), (0.0, 0.0, 0.0))
    return AffineRefiner(prepare_volume(torso_scan(grid)), HEART.scaled(1.2))


def test_recovers_a_known_affine_from_25_mm_away(refiner):
    known = small_affine(shift=(100.0, -60.0, 340.0))
    scan = torso_scan(oblique_chest_grid((100.0, -60.0, 340.0)), known, noise_hu=15.0)
    start = np.eye(4)
    start[:3, 3] = (115.0, -45.0, 355.0)
    assert mean_distance_mm(start, known) > 24.0
    ((found, similarity),) = refiner.refine(prepare_volume(scan), [start], FREE)
    assert mean_distance_mm(found, known) < 1.5
    assert similarity > 0.98


def test_recovers_a_known_affine_in_a_tight_field_of_view(refiner):
    known = small_affine(shift=(3.0, 4.0, -5.0))
    grid = ImageGrid.centered((140, 140, 45), (1.4, 1.4, 3.0), (28.0, -30.0, -20.0))
    ((found, _),) = refiner.refine(prepare_volume(torso_scan(grid, known)), [np.eye(4)], FREE)
    assert mean_distance_mm(found, known) < 2.5


def test_starts_that_end_together_agree_and_are_listed_in_order(refiner):
    known = small_affine()
    volume = prepare_volume(torso_scan(oblique_chest_grid(), known))
    starts = [np.eye(4), known, np.eye(4)]
    ends = refiner.refine(volume, starts, FREE)
    assert len(ends) == 3
    for matrix, _ in ends:
        assert mean_distance_mm(matrix, known) < 1.5


def test_similarity_is_minus_one_where_nothing_overlaps(refiner):
    volume = prepare_volume(torso_scan(oblique_chest_grid()))
    far = np.eye(4)
    far[2, 3] = 5000.0
    assert refiner.similarity(volume, far) == -1.0
    ((matrix, similarity),) = refiner.refine(volume, [far])
    np.testing.assert_array_equal(matrix, far)
    assert similarity == -1.0


def test_similarity_does_not_mind_linear_changes_of_a_single_window():
    grid = ImageGrid.centered((90, 70, 80), (4.0, 4.0, 4.0), (0.0, 0.0, 0.0))
    image = torso_scan(grid)
    window = [(-900.0, 250.0)]
    refiner = AffineRefiner(prepare_volume(image), HEART, windows_hu=window)
    weaker = prepare_volume(sitk.Cast(image, sitk.sitkFloat32) * 0.5)
    assert refiner.similarity(weaker, np.eye(4)) == pytest.approx(1.0, abs=0.01)


def test_a_heavy_prior_keeps_the_shape():
    grid = ImageGrid.centered((90, 70, 80), (4.0, 4.0, 4.0), (0.0, 0.0, 0.0))
    refiner = AffineRefiner(prepare_volume(torso_scan(grid)), HEART.scaled(1.2))
    volume = prepare_volume(torso_scan(oblique_chest_grid(), small_affine()))
    ((matrix, _),) = refiner.refine(volume, [np.eye(4)], AffinePrior(np.eye(4), weight=10.0))
    np.testing.assert_allclose(matrix[:3, :3], np.eye(3), atol=0.01)


def test_precision_tells_scale_rotation_and_shape_apart():
    prior = AffinePrior(
        np.eye(4), sigma_mm=2.0, sigma_scale=0.15, sigma_rotation=0.2, sigma_shape=0.1, weight=1.0
    )
    linear = prior.precision[3:, 3:]
    scale = (0.15 * np.eye(3)).ravel()
    rotation = 0.2 * np.array([0, -1, 0, 1, 0, 0, 0, 0, 0.0])
    shear = 0.1 * np.array([0, 1, 0, 1, 0, 0, 0, 0, 0.0]) / np.sqrt(2.0)
    for deviation in (scale, rotation, shear):
        assert deviation @ linear @ deviation == pytest.approx(1.0)
    assert prior.precision[0, 0] == pytest.approx(0.25)


def test_a_constant_scan_is_not_correlated(refiner):
    grid = oblique_chest_grid()
    volume = prepare_volume(grid.to_image(np.full(grid.shape, 30, dtype=np.int16)))
    assert refiner.similarity(volume, np.eye(4)) == pytest.approx(0.0, abs=1e-6)
