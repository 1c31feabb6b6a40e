import numpy as np
import pytest

from atlas.atlas_mean import AtlasMean
from atlas.sharpening import SIGMA_VOX, sharpened
from registration.geometry import ImageGrid

GRID = ImageGrid((33, 12, 10), (2.0, 2.0, 2.0), (5.0, -6.0, 7.0))


def mean_of(values: np.ndarray, coverage: np.ndarray | None = None) -> AtlasMean:
    coverage = np.full(GRID.shape, 4.0, np.float32) if coverage is None else coverage
    deviation = np.zeros(GRID.shape, np.float32)
    return AtlasMean(values.astype(np.float32), deviation, coverage, GRID, 4, "other")


def along_x(profile: np.ndarray) -> np.ndarray:
    return np.broadcast_to(profile, GRID.shape)


@pytest.mark.parametrize("amount", [0.25, 0.5])
def test_a_wave_grows_by_what_the_gaussian_takes_of_it(amount):
    """A Gaussian of integers, as ITK has it, takes 1 - exp(-sigma^2 (1 - cos k)) of cos(k x)."""
    k = 2.0 * np.pi / 16.0
    wave = 100.0 * np.cos(k * np.arange(33))
    gain = 1.0 + amount * (1.0 - np.exp(-(SIGMA_VOX**2) * (1.0 - np.cos(k))))
    neighbors = np.stack([np.roll(wave, 1), wave, np.roll(wave, -1)])
    expected = np.clip(gain * wave, neighbors.min(axis=0), neighbors.max(axis=0))
    found = sharpened(mean_of(along_x(wave)), amount).values[5, 6]
    np.testing.assert_allclose(found[6:-6], expected[6:-6], atol=0.1)
    assert found[16] == pytest.approx(100.0)  # a crest stays: edges get no rim
    assert found[14] > wave[14] + 0.5


def test_an_edge_gets_steeper_and_no_value_leaves_its_neighborhood():
    blurred = 500.0 / (1.0 + np.exp(-(np.arange(33) - 16.0) / 1.5))
    found = sharpened(mean_of(along_x(blurred)), 0.8).values[4, 5]
    assert np.gradient(found)[16] > 1.05 * np.gradient(blurred)[16]
    assert found.min() >= np.float32(blurred.min())
    assert found.max() <= np.float32(blurred.max())
    assert (np.diff(found) >= 0.0).all()


def test_slopes_and_what_cannot_be_trusted_stay():
    ramp = along_x(10.0 * np.arange(33))
    np.testing.assert_allclose(sharpened(mean_of(ramp), 1.0).values[..., 6:-6], ramp[..., 6:-6],
                               atol=1e-2)  # fmt: skip
    noise = np.random.default_rng(0).normal(0.0, 50.0, GRID.shape)
    np.testing.assert_array_equal(sharpened(mean_of(noise), 0.0).values, noise.astype(np.float32))
    coverage = np.full(GRID.shape, 4.0, np.float32)
    coverage[:5] = 0.0
    mean = mean_of(noise, coverage)
    found = sharpened(mean, 1.0)
    np.testing.assert_array_equal(found.values[:5], mean.values[:5])
    assert (found.values[5:] != mean.values[5:]).any()
    np.testing.assert_array_equal(found.coverage, coverage)
