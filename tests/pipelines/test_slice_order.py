from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from pipelines.slice_order import misplaced_slices


def body(slices: int = 30, *, noise_hu: float = 20.0) -> np.ndarray:
    """An ellipse of tissue in air, whose size and place change along the axis, `(z, y, x)`."""
    rng = np.random.default_rng(3)
    z, y, x = np.mgrid[:slices, :96, :120].astype(np.float32)
    along = z / slices
    width, shift = 30 + 15 * along, 12 * np.sin(3 * along)
    inside = ((x - 60 - shift) / width) ** 2 + ((y - 48) / 30) ** 2 < 1
    return np.where(inside, 40.0, -1000.0) + rng.normal(0, noise_hu, z.shape)


def scan(volume: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(volume.astype(np.int16))
    image.SetSpacing((2.5, 2.5, 3.0))
    return image


@pytest.mark.parametrize("noise_hu", [0.0, 60.0])
def test_slices_in_order_are_left_alone(noise_hu):
    assert misplaced_slices(scan(body(noise_hu=noise_hu))).size == 0


def test_two_exchanged_slices_are_found():
    volume = body()
    volume[[8, 22]] = volume[[22, 8]]
    assert {8, 22} <= set(misplaced_slices(scan(volume)).tolist())


def test_slices_in_any_order_are_found_misplaced():
    volume = body()[np.random.default_rng(0).permutation(30)]
    assert misplaced_slices(scan(volume)).size >= 4


def test_repeated_and_padded_slices_say_nothing():
    volume = body(noise_hu=0.0)
    volume[:6] = -1000.0
    volume[12] = volume[13] = volume[14]
    assert misplaced_slices(scan(volume)).size == 0


def test_two_slices_cannot_be_judged():
    assert misplaced_slices(scan(body(2))).size == 0
