"""Agreement measures against worked examples in print and arithmetic done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from calcium.agreement import (
    Interval,
    bland_altman,
    bootstrap_interval,
    confusion_matrix,
    intraclass_correlations,
    linear_weighted_kappa,
    log_pearson,
    risk_categories,
    spearman,
)

SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
)
"""Table 2 of Shrout and Fleiss 1979: four judges, six targets."""

PEAK_FLOW_LARGE = [494, 395, 516, 434, 476, 557, 413, 442, 650]
PEAK_FLOW_LARGE += [433, 417, 656, 267, 478, 178, 423, 427]
PEAK_FLOW_MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658]
PEAK_FLOW_MINI += [445, 432, 626, 260, 477, 259, 350, 451]
"""Bland and Altman 1986, first readings of both peak flow meters, l/min."""


def test_intraclass_correlations_are_those_of_shrout_and_fleiss() -> None:
    icc = intraclass_correlations(SHROUT_FLEISS)
    assert round(icc.icc_1_1.value, 2) == 0.17
    assert round(icc.icc_2_1.value, 2) == 0.29
    assert round(icc.icc_3_1.value, 2) == 0.71


def test_intervals_are_those_other_programs_print_for_shrout_and_fleiss() -> None:
    # R package psych, function ICC, on the same table.
    icc = intraclass_correlations(SHROUT_FLEISS)
    assert (icc.icc_1_1.low, icc.icc_1_1.high) == pytest.approx((-0.133, 0.723), abs=2e-3)
    assert (icc.icc_2_1.low, icc.icc_2_1.high) == pytest.approx((0.019, 0.761), abs=2e-3)
    assert (icc.icc_3_1.low, icc.icc_3_1.high) == pytest.approx((0.342, 0.946), abs=2e-3)


def test_offset_lowers_agreement_but_not_consistency() -> None:
    scores = np.array([0.0, 10.0, 40.0, 90.0])
    icc = intraclass_correlations(np.stack([scores, scores + 50.0], axis=1))
    assert icc.icc_3_1.value == pytest.approx(1.0)
    # Rows: 2 x var(scores); columns: 4 x 2 x 25², error 0.
    rows, columns = 2 * scores.var(ddof=1), 4 * 2 * 25.0**2
    assert icc.icc_2_1.value == pytest.approx(rows / (rows + 2 * columns / 4))


def test_identical_scores_agree_perfectly() -> None:
    icc = intraclass_correlations([[1.0, 1.0], [5.0, 5.0], [7.0, 7.0]])
    assert icc.icc_2_1 == icc.icc_3_1 == Interval(1.0, 1.0, 1.0)


@pytest.mark.parametrize("table", [[[1.0, 2.0]], [[3.0, 3.0], [3.0, 3.0]]])
def test_correlation_is_undefined_without_variation(table: list[list[float]]) -> None:
    assert math.isnan(intraclass_correlations(table).icc_2_1.value)


def values(table: list[list[float]]) -> tuple[float, float, float]:
    icc = intraclass_correlations(table)
    return icc.icc_1_1.value, icc.icc_2_1.value, icc.icc_3_1.value


@pytest.mark.parametrize("table", [[[1.0, 2.0]] * 3, [[0.1, 0.3]] * 3, [[0.1, 0.7]] * 7])
def test_an_offset_between_raters_alone_is_no_correlation(table: list[list[float]]) -> None:
    # Mean squares of rows and residuals are 0: ICC(2,1) is 0 / offset, ICC(3,1) is 0 / 0.
    within = intraclass_correlations(table).icc_1_1.value
    assert within == pytest.approx(-1.0)
    one, two, three = values(table)
    assert (one, two) == (within, 0.0)
    assert math.isnan(three)
    assert math.isnan(intraclass_correlations(table).icc_2_1.low)


def test_exchanged_scores_have_no_absolute_agreement() -> None:
    # Mean squares: rows 0, columns 0, residuals 1. ICC(2,1) divides by 0 + 1 + 2 (0 - 1) / 2.
    one, two, three = values([[1.0, 2.0], [2.0, 1.0]])
    assert (one, three) == (-1.0, -1.0)
    assert math.isnan(two)


def test_small_differences_of_large_scores_are_no_rounding_errors() -> None:
    # Rows are 2 x 1e-6, residuals 0.5 x 1e-6 beside 1e8.
    table = 1e4 + 1e-3 * np.array([[1.0, 2.0], [2.0, 1.0], [3.0, 3.0], [3.0, 4.0]])
    small = intraclass_correlations(table)
    plain = intraclass_correlations((table - 1e4) * 1e3)
    assert small.icc_2_1.value == pytest.approx(plain.icc_2_1.value, abs=1e-6)
    assert small.icc_3_1.value == pytest.approx(plain.icc_3_1.value, abs=1e-6)


@pytest.mark.parametrize("table", [[1.0, 2.0], [[1.0], [2.0]], [[1.0, math.nan], [2.0, 3.0]]])
def test_incomplete_ratings_are_refused(table: list[float]) -> None:
    with pytest.raises(ValueError, match="ratings must be a finite table"):
        intraclass_correlations(table)


def test_weighted_kappa_is_that_of_a_published_table() -> None:
    # SAS/STAT documentation of PROC FREQ: skin condition by two dermatologists.
    table = [[10, 4, 1, 0], [5, 10, 12, 2], [2, 4, 12, 5], [0, 2, 6, 13]]
    assert linear_weighted_kappa(table) == pytest.approx(0.5082, abs=5e-5)


def test_weighted_kappa_by_hand() -> None:
    # 10 subjects; one is off by one category. Rows sum to 5, 3, 2; columns to 6, 2, 2.
    table = [[5, 0, 0], [1, 2, 0], [0, 0, 2]]
    observed = 1 * 1
    chance = (5 * 2 * 1 + 5 * 2 * 2 + 3 * 6 * 1 + 3 * 2 * 1 + 2 * 6 * 2 + 2 * 2 * 1) / 10
    assert linear_weighted_kappa(table) == pytest.approx(1 - observed / chance)


def test_kappa_is_zero_for_independent_raters() -> None:
    assert linear_weighted_kappa(np.outer([2, 3, 5], [1, 4, 5])) == pytest.approx(0.0)


def test_kappa_is_undefined_if_all_lie_in_one_category() -> None:
    assert math.isnan(linear_weighted_kappa([[7, 0], [0, 0]]))
    assert math.isnan(linear_weighted_kappa(np.zeros((5, 5))))


def test_kappa_refuses_what_is_no_table_of_counts() -> None:
    with pytest.raises(ValueError, match=r"Received: shape \(2, 3\)"):
        linear_weighted_kappa(np.ones((2, 3)))


def test_confusion_matrix_has_the_reference_in_rows() -> None:
    reference, predicted = risk_categories([0.0, 5.0, 5.0, 401.0]), risk_categories([0, 0, 11, 401])
    matrix = confusion_matrix(reference, predicted)
    assert matrix.shape == (5, 5)
    assert matrix[1, 0] == matrix[1, 2] == matrix[0, 0] == matrix[4, 4] == 1
    assert matrix.sum() == 4


def test_confusion_matrix_refuses_unknown_categories() -> None:
    with pytest.raises(ValueError, match=r"must lie in 0 to 4\. Received: 0 to 5"):
        confusion_matrix([0, 5], [0, 1])
    with pytest.raises(ValueError, match="of one length"):
        confusion_matrix([0, 1], [0])


def test_limits_of_agreement_are_those_of_bland_and_altman() -> None:
    agreement = bland_altman(PEAK_FLOW_MINI, PEAK_FLOW_LARGE)
    assert round(agreement.bias.value, 1) == -2.1
    assert round(agreement.sd, 1) == 38.8
    # The paper prints -79.7 and 75.5, computed with 2 sd from rounded values.
    assert agreement.lower == pytest.approx(-2.118 - 1.96 * 38.765, abs=0.01)
    assert agreement.upper == pytest.approx(-2.118 + 1.96 * 38.765, abs=0.01)
    # And -22.0 to 17.8 for the 95 % confidence interval of the bias.
    assert (agreement.bias.low, agreement.bias.high) == pytest.approx((-22.0, 17.8), abs=0.06)


def test_one_pair_has_a_bias_and_no_limits() -> None:
    agreement = bland_altman([3.0], [5.0])
    assert agreement.bias.value == 2.0
    assert math.isnan(agreement.lower)
    assert math.isnan(bland_altman([], []).bias.value)


def test_spearman_by_hand_with_ties() -> None:
    # Ranks 1.5, 1.5, 3, 4 against 1, 2, 4, 3.
    a, b = np.array([1.5, 1.5, 3, 4]) - 2.5, np.array([1, 2, 4, 3]) - 2.5
    expected = (a @ b) / math.sqrt((a @ a) * (b @ b))
    assert spearman([0, 0, 7, 900], [1, 2, 50, 40]) == pytest.approx(expected)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_log_correlation_sees_equal_ratios() -> None:
    reference = np.array([0.0, 9.0, 99.0, 999.0])
    assert log_pearson(reference, 3 * (reference + 1) - 1) == pytest.approx(1.0)
    assert math.isnan(log_pearson([1.0], [1.0]))


def test_bootstrap_interval_of_a_mean_is_the_normal_one() -> None:
    values = np.random.default_rng(3).normal(10.0, 2.0, size=400)
    interval = bootstrap_interval(lambda a, b: float((b - a).mean()), np.zeros(400), values)
    half_width = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert interval.value == pytest.approx(values.mean())
    assert interval.high - interval.value == pytest.approx(half_width, rel=0.1)
    assert interval.value - interval.low == pytest.approx(half_width, rel=0.1)


def test_bootstrap_leaves_out_undefined_resamples() -> None:
    interval = bootstrap_interval(spearman, [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], n_resamples=50)
    assert (interval.value, interval.low, interval.high) == pytest.approx((1.0, 1.0, 1.0))
    undefined = bootstrap_interval(spearman, [1.0, 1.0], [1.0, 2.0], n_resamples=10)
    assert math.isnan(undefined.value)
    assert math.isnan(undefined.low)


def test_pairs_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Received: \(2,\) and \(1,\)"):
        spearman([1.0, 2.0], [1.0])
