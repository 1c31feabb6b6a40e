from __future__ import annotations

import numpy as np
import pytest
from keras import ops
from scipy.ndimage import gaussian_filter

from registration.similarity import (
    folding_penalty,
    local_normalized_cross_correlation,
    normalized_cross_correlation,
    normalized_mutual_information,
)

RNG = np.random.default_rng(5)
A = RNG.uniform(0, 1, (3, 12, 10, 8, 1)).astype(np.float32)
B = (0.5 * A + 0.5 * RNG.uniform(0, 1, A.shape)).astype(np.float32)


def numpy_of(tensor) -> np.ndarray:
    return ops.convert_to_numpy(tensor)


def test_correlation_is_that_of_numpy_for_every_item():
    expected = [np.corrcoef(A[i].ravel(), B[i].ravel())[0, 1] for i in range(3)]
    np.testing.assert_allclose(numpy_of(normalized_cross_correlation(A, B)), expected, atol=2e-4)


def test_correlation_of_the_batch_pools_all_voxels():
    expected = np.corrcoef(A.ravel(), B.ravel())[0, 1]
    pooled = normalized_cross_correlation(A, B, per_batch=True)
    assert float(pooled) == pytest.approx(expected, abs=2e-4)


def test_correlation_sees_only_what_the_mask_shows():
    mask = RNG.uniform(size=(*A.shape[:-1], 1)) < 0.4
    spoiled = np.where(mask, B, 100.0)
    expected = [np.corrcoef(A[i][mask[i]], B[i][mask[i]])[0, 1] for i in range(3)]
    np.testing.assert_allclose(
        numpy_of(normalized_cross_correlation(A, spoiled, mask)), expected, atol=5e-4
    )


def test_correlation_ignores_gain_and_offset_and_knows_its_sign():
    np.testing.assert_allclose(
        numpy_of(normalized_cross_correlation(A, -2.0 * A + 5.0)), -1.0, atol=2e-4
    )


def test_constant_images_and_empty_masks_correlate_to_zero():
    constant = np.full_like(A, 0.3)
    np.testing.assert_allclose(numpy_of(normalized_cross_correlation(A, constant)), 0.0, atol=1e-5)
    empty = np.zeros_like(A)
    np.testing.assert_allclose(numpy_of(normalized_cross_correlation(A, B, empty)), 0.0, atol=1e-5)


def test_local_correlation_forgives_a_smooth_bias_field():
    rng = np.random.default_rng(0)
    texture = gaussian_filter(rng.normal(size=(48, 48)), 1.5)
    texture = (texture - texture.min()) / np.ptp(texture)
    bias = np.linspace(0.5, 3.0, 48)[:, None] + np.linspace(0, 2, 48)[None]
    a, b = texture[None, ..., None], (texture * bias)[None, ..., None]
    assert float(local_normalized_cross_correlation(a, b, window=7)[0]) > 0.8
    shuffled = rng.permutation(texture.ravel()).reshape(a.shape)
    assert float(local_normalized_cross_correlation(a, shuffled, window=7)[0]) < 0.2


def masked_pair(shape, window):
    """Texture equal within a box, noise around it, and the box; deeper than half a window."""
    rng = np.random.default_rng(3)
    fixed = gaussian_filter(rng.normal(size=shape), 1.5)
    fixed = ((fixed - fixed.min()) / np.ptp(fixed)).astype(np.float32)
    mask = np.zeros(shape, np.float32)
    mask[tuple(slice(window // 2, -(window // 2)) for _ in shape)] = 1.0
    moved = np.where(mask > 0, fixed, rng.uniform(size=shape)).astype(np.float32)
    return [a[None, ..., None] for a in (fixed, moved, mask)]


@pytest.mark.parametrize(("shape", "window"), [((20, 26), 7), ((12, 14, 10), 5)])
def test_local_correlation_of_equal_images_is_one_whatever_lies_outside_the_mask(shape, window):
    fixed, moved, mask = masked_pair(shape, window)
    found = numpy_of(local_normalized_cross_correlation(fixed, moved, mask, window=window))
    # the floor of the variances takes a little of the faintest windows
    np.testing.assert_allclose(found, 1.0, atol=0.03)


@pytest.mark.parametrize("spoiled", [-3.0, 50.0])
def test_local_correlation_sees_only_what_the_mask_shows(spoiled):
    fixed, _, mask = masked_pair((12, 14, 10), 5)
    moved = fixed + 0.1 * np.random.default_rng(4).uniform(size=fixed.shape).astype(np.float32)
    a, b = (np.where(mask > 0, image, spoiled).astype(np.float32) for image in (fixed, moved))
    expected = numpy_of(local_normalized_cross_correlation(fixed, moved, mask, window=5))
    np.testing.assert_allclose(
        numpy_of(local_normalized_cross_correlation(a, b, mask, window=5)), expected, atol=1e-6
    )


def test_local_correlation_is_that_of_numpy_in_the_part_of_each_window_that_the_mask_shows():
    rng = np.random.default_rng(6)
    fixed, moved = rng.uniform(0, 1, (2, 9, 11))
    mask = rng.uniform(size=(9, 11)) < 0.5
    squares = []
    for row, column in np.argwhere(mask):
        window = (slice(max(row - 2, 0), row + 3), slice(max(column - 2, 0), column + 3))
        shown = mask[window]
        if shown.mean() >= 1 / 8:
            squares.append(np.corrcoef(fixed[window][shown], moved[window][shown])[0, 1] ** 2)
    found = local_normalized_cross_correlation(
        *(a[None, ..., None] for a in (fixed, moved, mask)), window=5
    )
    np.testing.assert_allclose(numpy_of(found), np.mean(squares), atol=1e-3)


def test_local_correlation_drops_windows_that_show_next_to_nothing():
    fixed, moved, mask = masked_pair((20, 26), 7)
    speckled = mask.copy()
    speckled[0, 1, 1] = 1.0  # alone in its window
    found, expected = (
        numpy_of(local_normalized_cross_correlation(fixed, moved, weight, window=3))
        for weight in (speckled, mask)
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)
    nothing = local_normalized_cross_correlation(fixed, moved, 0.0 * mask, window=7)
    np.testing.assert_array_equal(numpy_of(nothing), 0.0)


def test_mutual_information_sees_through_any_mapping_of_intensities():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 4, (1, 30, 30, 1)) / 3.0
    remapped = np.array([0.9, 0.1, 0.6, 0.3])[(a * 3).astype(int)]
    independent = rng.integers(0, 4, a.shape) / 3.0
    related = float(normalized_mutual_information(a, remapped)[0])
    unrelated = float(normalized_mutual_information(a, independent)[0])
    assert unrelated < 1.05 < 1.3 < related


def test_mutual_information_respects_the_mask():
    rng = np.random.default_rng(0)
    a = rng.uniform(size=(1, 40, 40, 1))
    b = np.where(np.arange(40)[None, :, None, None] < 20, a, rng.uniform(size=a.shape))
    left = np.broadcast_to(np.arange(40)[None, :, None, None] < 20, a.shape).astype(float)
    assert float(normalized_mutual_information(a, b, left)[0]) > 0.2 + float(
        normalized_mutual_information(a, b, 1.0 - left)[0]
    )


def test_folding_penalty_is_the_mean_depth_below_zero():
    determinants = np.array([[1.0, 0.5, -2.0, 0.0], [1.0, 1.0, 1.0, 1.0]], np.float32)
    np.testing.assert_allclose(numpy_of(folding_penalty(determinants)), [0.5, 0.0])


def test_even_windows_are_refused():
    with pytest.raises(ValueError, match=r"positive odd number\. Received: window=4"):
        local_normalized_cross_correlation(A, B, window=4)
