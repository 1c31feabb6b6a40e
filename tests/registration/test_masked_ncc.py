import numpy as np
import pytest
from keras import ops

from registration.losses.masked_ncc import MaskedNCC
from tests.registration.gradients import gradient


def pair(seed=0, shape=(2, 4, 5, 6)):
    rng = np.random.default_rng(seed)
    fixed = rng.normal(size=shape)
    moved = rng.normal(size=shape)
    region = (rng.random(shape) > 0.4).astype(float)
    coverage = (rng.random(shape) > 0.3).astype(float)
    return fixed, region, moved, coverage


def losses(fixed, region, moved, coverage):
    loss = MaskedNCC(reduction="none")
    return np.asarray(
        loss(np.stack([fixed, region], axis=-1), np.stack([moved, coverage], axis=-1))
    )


def test_is_one_minus_the_correlation_coefficient_over_the_overlap():
    fixed, region, moved, coverage = pair()
    values = losses(fixed, region, moved, coverage)
    for image in range(2):
        both = (region[image] * coverage[image]) > 0
        expected = 1 - np.corrcoef(fixed[image][both], moved[image][both])[0, 1]
        assert values[image] == pytest.approx(expected, abs=1e-5)


def test_linear_intensity_changes_cost_nothing_and_inversion_costs_two():
    fixed, region, _, coverage = pair(1)
    np.testing.assert_allclose(losses(fixed, region, 3 * fixed - 7, coverage), 0.0, atol=1e-4)
    np.testing.assert_allclose(losses(fixed, region, -fixed, coverage), 2.0, atol=1e-4)


def test_what_lies_outside_the_masks_does_not_matter():
    fixed, region, moved, coverage = pair(2)
    spoiled = np.where(coverage > 0, moved, 1e3)
    np.testing.assert_allclose(
        losses(fixed, region, spoiled, coverage),
        losses(fixed, region, moved, coverage),
        atol=1e-5,
    )


@pytest.mark.parametrize("what", ["empty overlap", "constant image"])
def test_degenerate_pairs_count_as_uncorrelated(what):
    fixed, region, moved, coverage = pair(3)
    if what == "empty overlap":
        coverage = np.zeros_like(coverage)
    else:
        moved = np.full_like(moved, 4.0)
    np.testing.assert_allclose(losses(fixed, region, moved, coverage), 1.0, atol=1e-3)


def test_gradient_is_that_of_finite_differences():
    fixed, region, moved, coverage = pair(4, (1, 3, 3, 3))
    y_true = np.stack([fixed, region], axis=-1).astype("float32")

    def value(image):
        image = ops.cast(image, "float32")
        return MaskedNCC()(y_true, ops.stack([image, coverage.astype("float32")], axis=-1))

    found = gradient(value, moved)
    for position in [(0, 0, 1, 2), (0, 2, 2, 0), (0, 1, 1, 1)]:
        step = np.zeros_like(moved)
        step[position] = 1e-2
        ends = [float(value((moved + sign * step).astype("float32"))) for sign in (-1, 1)]
        assert found[position] == pytest.approx((ends[1] - ends[0]) / 2e-2, rel=0.02, abs=1e-4)


def test_config_round_trip():
    loss = MaskedNCC(name="similarity")
    assert MaskedNCC.from_config(loss.get_config()).get_config() == loss.get_config()
