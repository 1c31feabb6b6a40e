import numpy as np
import pytest

from calcium.calibration import (
    BIN_EDGES,
    LEAST_PER_BIN,
    Calibration,
    ErrorBin,
    coverage,
    fit_calibration,
)
from calcium.categories import risk_category


def scored(rng, n, spread):
    """Predictions of every size, and truths that differ by a factor."""
    predicted = np.where(rng.random(n) < 0.2, 0.0, np.exp(rng.uniform(0.0, 7.0, n)))
    truth = np.expm1(np.maximum(np.log1p(predicted) + rng.normal(0.0, spread, n), 0.0))
    return predicted, truth


def test_ninety_percent_of_fresh_scans_lie_inside_for_either_kind():
    rng = np.random.default_rng(0)
    parts = {"cardiac": scored(rng, 1200, 0.2), "chest": scored(rng, 1200, 0.6)}
    kinds = [kind for kind, (p, _) in parts.items() for _ in p]
    predicted, truth = (np.concatenate([part[k] for part in parts.values()]) for k in (0, 1))
    calibration = fit_calibration(predicted, truth, kinds, preset="agatston-1990")
    widths = {}
    for kind, spread in (("cardiac", 0.2), ("chest", 0.6)):
        fresh, reality = scored(rng, 3000, spread)
        fresh, reality = fresh[fresh > 0], reality[fresh > 0]
        intervals = [calibration.interval(value, kind) for value in fresh]
        assert coverage(intervals, reality) == pytest.approx(0.9, abs=0.025)
        low, high = calibration.interval(200.0, kind)
        assert low < 200.0 < high
        widths[kind] = high - low
    # exp(1.645 x 0.6) against exp(1.645 x 0.2)
    assert widths["chest"] > 2.5 * widths["cardiac"]


def test_chances_of_categories_are_the_shares_of_errors_that_lead_there():
    # of a prediction of 99, four errors: to 0, to 49, to itself, to 199
    errors = tuple(float(np.log1p(t) - np.log1p(99.0)) for t in (0.0, 49.0, 99.0, 199.0))
    bins = {"chest": (ErrorBin(0.0, errors[0], errors[-1], errors),)}
    calibration = Calibration("agatston-1990", bins)
    chances = calibration.category_probabilities(99.0, "chest")
    assert chances == {"0": 0.25, "1-10": 0.0, "11-100": 0.5, "101-400": 0.25, ">400": 0.0}
    assert calibration.interval(99.0, "chest") == pytest.approx((0.0, 199.0))
    assert calibration.interval(99.0, "cardiac") is None
    assert calibration.category_probabilities(99.0, "cardiac") is None


def test_bins_are_those_of_the_categories_and_joined_where_scans_are_few():
    edges = [0.0, *BIN_EDGES]
    predicted = np.repeat([edge + 1e-6 for edge in edges], LEAST_PER_BIN)
    kinds = ["cardiac"] * len(predicted)
    whole = fit_calibration(predicted, predicted, kinds, preset="p")
    assert [b.start for b in whole.bins["cardiac"]] == edges
    assert whole.counts == {"cardiac": 5 * LEAST_PER_BIN}
    few = fit_calibration(predicted[:-1], predicted[:-1], kinds[:-1], preset="p")
    assert [b.start for b in few.bins["cardiac"]] == edges[:-1]
    # a scan short of the second bin: it goes with the third, as none of them is without calcium
    short = np.delete(predicted, LEAST_PER_BIN)
    few = fit_calibration(short, short, kinds[1:], preset="p")
    assert [b.start for b in few.bins["cardiac"]] == [0.0, edges[1], *edges[3:]]
    none = fit_calibration(predicted[:5], predicted[:5], kinds[:5], preset="p")
    assert none.bins == {}


def test_zero_predictions_have_no_negative_end_and_may_hide_calcium():
    truth = np.zeros(40)
    truth[:4] = 30.0
    calibration = fit_calibration(np.zeros(40), truth, ["chest"] * 40, preset="p")
    assert calibration.interval(0.0, "chest") == pytest.approx((0.0, 30.0), rel=1e-3)
    chances = calibration.category_probabilities(0.0, "chest")
    assert chances["0"] == pytest.approx(0.9, abs=0.03)
    assert chances["0"] + chances["11-100"] == pytest.approx(1.0)


def test_a_calibration_comes_back_from_its_fragment():
    rng = np.random.default_rng(3)
    predicted, truth = scored(rng, 300, 0.3)
    calibration = fit_calibration(predicted, truth, ["chest"] * 300, preset="agatston-1990")
    assert Calibration.from_dict(calibration.to_dict()) == calibration
    for score in (0.0, 3.0, 80.0, 2000.0):
        chances = calibration.category_probabilities(score, "chest")
        assert sum(chances.values()) == pytest.approx(1.0)
        assert chances[risk_category(score)] > 0.0
