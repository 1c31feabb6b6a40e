import numpy as np
import pytest

from registration.alignment_batches import AlignmentBatches, AlignmentExample, AugmentationRanges
from registration.geometry import ImageGrid, transform_points
from registration.network_input import CubeSampler, to_channels
from registration.preprocessing import prepare_volume
from tests.registration.torso import HEART, oblique_chest_grid, small_affine, torso_scan

CUBE = ImageGrid.centered([16] * 3, [20.0] * 3, HEART.center_mm)
STILL = AugmentationRanges(elastic_sd_mm=0.0, noise_hu=0.0, tight_share=0.0, cut_share=0.0)


@pytest.fixture(scope="module")
def example():
    known = small_affine(shift=(60.0, -30.0, 210.0))
    volume = prepare_volume(torso_scan(oblique_chest_grid((60.0, -30.0, 210.0)), known))
    return AlignmentExample.from_volume("torso", volume, known)


def test_the_residual_undoes_the_misalignment(example):
    """Under `A M` the heart's middle is shown where `inverse(M)` puts it, and nowhere else."""
    batches = AlignmentBatches([example], CUBE, HEART, STILL)
    cubes, residuals = batches.draw(np.random.default_rng(0), 6)
    for cube, residual in zip(cubes, residuals, strict=True):
        wrong = example.matrix @ np.linalg.inv(residual.astype(float))
        points = transform_points(wrong, CUBE.voxel_points().reshape(-1, 3))
        _, valid = example.sampler(points)
        np.testing.assert_array_equal(cube[..., 2].ravel(), valid)
        shown = transform_points(wrong @ residual, np.array(HEART.center_mm))
        true = transform_points(example.matrix, np.array(HEART.center_mm))
        np.testing.assert_allclose(shown, true, atol=1e-2)


def test_misalignments_stay_within_their_ranges(example):
    batches = AlignmentBatches([example], CUBE, HEART, STILL)
    _, residuals = batches.draw(np.random.default_rng(1), 40)
    linear = np.linalg.inv(residuals[:, :3, :3].astype(float))
    scales = np.linalg.svd(linear)[1]
    assert scales.max() < 1.45
    assert scales.min() > 0.7
    assert scales.std() > 0.03
    moved = np.array([transform_points(r, np.array(HEART.center_mm)) for r in residuals])
    away = np.linalg.norm(moved - HEART.center_mm, axis=1)
    assert 5.0 < np.median(away) < 60.0


def test_tight_fields_of_view_hide_the_rest(example):
    tight = AugmentationRanges(tight_share=1.0, residual_share=0.0)
    cubes, _ = AlignmentBatches([example], CUBE, HEART, tight).draw(np.random.default_rng(2), 8)
    seen = cubes[..., 2].mean(axis=(1, 2, 3)) * 320.0**3
    assert seen.max() < 250.0 * 250.0 * 170.0 * 1.6
    assert seen.min() > 0.0
    hidden = cubes[..., 2] == 0
    assert not cubes[..., 0][hidden].any()


def test_equal_seeds_draw_equal_batches(example):
    batches = AlignmentBatches([example], CUBE, HEART)
    one, other, different = (batches.draw(np.random.default_rng(seed), 2) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])
    assert np.abs(one[0] - different[0]).max() > 0.1


def test_aligned_cube_is_that_of_the_unmoved_torso(example):
    """Oracle: the torso itself, sampled without any transform."""
    still = prepare_volume(torso_scan(oblique_chest_grid()))
    points = CUBE.voxel_points().reshape(-1, 3)
    expected = to_channels(*CubeSampler(still)(points))[:, 0]
    found = to_channels(*example.sampler(transform_points(example.matrix, points)))[:, 0]
    near = HEART.scaled(1.5).contains(points)
    assert near.sum() > 100
    assert np.abs(found - expected)[near].mean() < 0.03


def test_refuses_to_draw_from_nothing():
    with pytest.raises(ValueError, match=r"at least one scan. Received: none"):
        AlignmentBatches([], CUBE, HEART)
