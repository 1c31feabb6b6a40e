from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from registration.blank_margins import content_box, content_masks, has_blank_margin
from registration.geometry import ImageGrid

TURNED = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.5).GetMatrix()
GRID = ImageGrid((16, 13, 9), (0.9, 1.4, 3.0), (-31.0, 57.0, 803.0), TURNED)


@pytest.mark.parametrize("margin", [0, -1000])
def test_blank_planes_at_the_faces_are_margins_and_blank_voxels_within_are_not(margin):
    array = np.random.default_rng(0).normal(40.0, 9.0, (9, 13, 16)).astype(np.float32)
    everything = tuple(slice(0, n) for n in array.shape)
    assert content_box(array) == everything
    array[2:5, 3:6, 4] = margin
    assert content_box(array) == everything
    assert not has_blank_margin(array)
    array[:, :, 14:] = array[:2] = array[:, 11:] = margin
    assert has_blank_margin(array)
    assert content_box(array) == (slice(2, 9), slice(0, 11), slice(0, 14))
    assert content_box(np.zeros((4, 5), np.int16)) == (slice(0, 4), slice(0, 5))


def test_nothing_is_compared_beyond_the_moving_image_or_in_margins():
    array = np.random.default_rng(0).normal(size=GRID.shape).astype(np.float32)
    array[:3, :, :] = array[:, :2, :] = -5.0
    away = GRID.direction_matrix @ [0.9 * 4, 0.0, 0.0]  # columns
    shifted = sitk.TranslationTransform(3, away.tolist())
    masks = content_masks(GRID.to_image(array), GRID.to_image(array), GRID, shifted)
    expected = np.zeros(GRID.shape)
    expected[3:, 2:] = 1.0
    np.testing.assert_allclose(masks["fixed_mask"][0, ..., 0], expected, atol=1e-5)
    expected[:, :, -4:] = 0.0
    np.testing.assert_allclose(masks["moving_mask"][0, ..., 0], expected, atol=1e-5)
