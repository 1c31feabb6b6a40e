"""How well two sets of scores agree: the measures the calcium scoring papers print.

Everywhere `reference` comes first and `predicted` second; differences are predicted
minus reference. What cannot be computed (too few pairs, no variation) is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from calcium.categories import RISK_CATEGORIES, risk_category_index

LIMITS_OF_AGREEMENT_SD = 1.96
"""Half width of the limits of agreement in standard deviations (Bland and Altman 1986)."""

ROUNDING = 1e-12
"""Deviations below this share of the ratings' size are rounding errors (own): float64 holds
sixteen digits, and scores are printed with two decimals."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its confidence interval; NaN where undefined.

    Args:
        value: The estimate.
        low: Lower bound.
        high: Upper bound.
    """

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, slots=True)
class IntraclassCorrelations:
    """Single-rater intraclass correlations, in the naming of Shrout and Fleiss.

    Args:
        icc_1_1: One-way random: every subject has raters of its own.
        icc_2_1: Two-way random, *absolute agreement*: an offset between raters lowers
            it. This is what calcium scoring papers mean by ICC.
        icc_3_1: Two-way mixed, *consistency*: an offset between raters does not matter.
    """

    icc_1_1: Interval
    icc_2_1: Interval
    icc_3_1: Interval


@dataclass(frozen=True, slots=True)
class BlandAltman:
    """Bias and limits of agreement of paired measurements.

    Args:
        bias: Mean of predicted minus reference, with its confidence interval.
        sd: Standard deviation of the differences.
        lower: Lower limit of agreement, bias - 1.96 sd.
        upper: Upper limit of agreement, bias + 1.96 sd.
    """

    bias: Interval
    sd: float
    lower: float
    upper: float


def intraclass_correlations(
    ratings: ArrayLike, *, confidence: float = 0.95
) -> IntraclassCorrelations:
    """Intraclass correlations of a complete table of ratings.

    Args:
        ratings: One row per subject, one column per rater, shape `(n, k)`.
        confidence: Level of the intervals.

    Returns:
        ICC(1,1), ICC(2,1) and ICC(3,1); NaN if there are fewer than two subjects, if
        nothing varies, or where the variance that one of them divides by is not positive.

    Raises:
        ValueError: If the table is not 2-D with two raters or more, or not finite.

    Source:
        Shrout and Fleiss, Psychol Bull 1979;86:420-428; intervals as there, that of
        ICC(2,1) with the correction of McGraw and Wong, Psychol Methods 1996;1:30-46.

    Example:
        >>> icc = intraclass_correlations([[1, 2], [2, 3], [3, 4]])
        >>> round(icc.icc_3_1.value, 3), round(icc.icc_2_1.value, 3)
        (1.0, 0.667)
    """
    table = np.asarray(ratings, dtype=float)
    if table.ndim != 2 or table.shape[1] < 2 or not np.isfinite(table).all():
        raise ValueError(
            "ratings must be a finite table (subjects, raters) with two raters or more. "
            f"Received: shape {table.shape}"
        )
    n, k = table.shape
    undefined = Interval(math.nan)
    if n < 2 or np.ptp(table) == 0:
        return IntraclassCorrelations(undefined, undefined, undefined)
    freedom = (n - 1, n * (k - 1), (n - 1) * (k - 1))
    rows, columns, within, error = _mean_squares(table)
    return IntraclassCorrelations(
        icc_1_1=_consistency(rows, within, k, freedom[0], freedom[1], confidence),
        icc_2_1=_absolute_agreement(rows, columns, error, n, k, confidence),
        icc_3_1=_consistency(rows, error, k, freedom[0], freedom[2], confidence),
    )


def confusion_matrix(
    reference: ArrayLike, predicted: ArrayLike, *, n_categories: int = len(RISK_CATEGORIES)
) -> NDArray[np.int64]:
    """Counts of category pairs: rows are the reference, columns the prediction.

    Args:
        reference: Category indices from 0, shape `(n,)`.
        predicted: Category indices from 0, shape `(n,)`.
        n_categories: Number of categories.

    Returns:
        Counts, int64, shape `(n_categories, n_categories)`; zero without pairs.

    Raises:
        ValueError: If the lengths differ or an index is out of range.

    Source:
        Own.

    Example:
        >>> confusion_matrix([0, 1, 1], [0, 1, 0], n_categories=2).tolist()
        [[1, 0], [1, 1]]
    """
    first, second = (indices.astype(int) for indices in _pairs(reference, predicted))
    both = np.concatenate([first, second])
    if both.size and (both.min() < 0 or both.max() >= n_categories):
        raise ValueError(
            f"category indices must lie in 0 to {n_categories - 1}. "
            f"Received: {both.min()} to {both.max()}"
        )
    counts = np.bincount(first * n_categories + second, minlength=n_categories**2)
    return counts.reshape(n_categories, n_categories).astype(np.int64)


def risk_categories(agatston: ArrayLike) -> NDArray[np.int64]:
    """Risk category index, 0 to 4, of every score, shape `(n,)` in and out.

    Raises:
        ValueError: If a score is negative or not finite.

    Source:
        `calcium.categories`.
    """
    scores = np.asarray(agatston, dtype=float).ravel()
    return np.array([risk_category_index(score) for score in scores], dtype=np.int64)


def linear_weighted_kappa(confusion: ArrayLike) -> float:
    """Cohen's kappa with weights that fall linearly with the distance of categories.

    Args:
        confusion: Counts, shape `(c, c)`.

    Returns:
        1 for perfect agreement, 0 for what chance gives; NaN if everything lies in one
        category, where chance agreement is perfect too.

    Raises:
        ValueError: If the matrix is not square or has negative counts.

    Source:
        Cohen, Psychol Bull 1968;70:213-220.

    Example:
        >>> linear_weighted_kappa([[5, 0, 0], [0, 5, 0], [0, 0, 5]])
        1.0
    """
    counts = np.asarray(confusion, dtype=float)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or (counts < 0).any():
        raise ValueError(
            f"confusion must be a square matrix of counts. Received: shape {counts.shape}"
        )
    category = np.arange(counts.shape[0])
    distance = np.abs(category[:, None] - category[None, :])
    chance = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / max(counts.sum(), 1.0)
    expected = float((distance * chance).sum())
    return 1.0 - float((distance * counts).sum()) / expected if expected > 0 else math.nan


def bland_altman(
    reference: ArrayLike, predicted: ArrayLike, *, confidence: float = 0.95
) -> BlandAltman:
    """Bias and limits of agreement, predicted minus reference.

    For scores that span orders of magnitude, call it with `np.log1p` of both: the
    differences are then ratios of (score + 1).

    Args:
        reference: Scores, shape `(n,)`.
        predicted: Scores of the same subjects, shape `(n,)`.
        confidence: Level of the interval of the bias.

    Returns:
        Bias and limits; NaN spread with fewer than two pairs, all NaN with none.

    Raises:
        ValueError: If the lengths differ.

    Source:
        Bland and Altman, Lancet 1986;327:307-310.

    Example:
        >>> agreement = bland_altman([1.0, 2.0, 3.0], [2.0, 2.0, 5.0])
        >>> agreement.bias.value, agreement.sd
        (1.0, 1.0)
    """
    first, second = _pairs(reference, predicted)
    difference = second - first
    n = difference.size
    bias = float(difference.mean()) if n else math.nan
    if n < 2:
        return BlandAltman(Interval(bias), math.nan, math.nan, math.nan)
    sd = float(difference.std(ddof=1))
    margin = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * sd / math.sqrt(n)
    spread = LIMITS_OF_AGREEMENT_SD * sd
    return BlandAltman(
        Interval(bias, bias - margin, bias + margin), sd, bias - spread, bias + spread
    )


def spearman(reference: ArrayLike, predicted: ArrayLike) -> float:
    """Spearman rank correlation, ties given their mean rank.

    Args:
        reference: Scores, shape `(n,)`.
        predicted: Scores of the same subjects, shape `(n,)`.

    Returns:
        -1 to 1; NaN with fewer than two pairs or if one side does not vary.

    Raises:
        ValueError: If the lengths differ.

    Source:
        Spearman, Am J Psychol 1904;15:72-101.

    Example:
        >>> spearman([0, 10, 400], [1, 9, 5000])
        1.0
    """
    first, second = (stats.rankdata(values) for values in _pairs(reference, predicted))
    return _pearson(first, second)


def log_pearson(reference: ArrayLike, predicted: ArrayLike) -> float:
    """Pearson correlation of log(score + 1).

    Args:
        reference: Scores, not negative, shape `(n,)`.
        predicted: Scores of the same subjects, shape `(n,)`.

    Returns:
        -1 to 1; NaN with fewer than two pairs or if one side does not vary.

    Raises:
        ValueError: If the lengths differ.

    Source:
        Own choice of scale: scores are zero-inflated and span four orders of magnitude.
    """
    first, second = _pairs(reference, predicted)
    return _pearson(np.log1p(first), np.log1p(second))


def bootstrap_interval(
    statistic: Callable[[NDArray[np.float64], NDArray[np.float64]], float],
    reference: ArrayLike,
    predicted: ArrayLike,
    *,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """An estimate with its percentile bootstrap interval over subjects.

    Args:
        statistic: Function of reference and predicted scores.
        reference: Scores, shape `(n,)`.
        predicted: Scores of the same subjects, shape `(n,)`.
        n_resamples: Number of resamples; those where the statistic is NaN are left out.
        confidence: Level of the interval.
        seed: Of the random numbers; the same data and seed give the same interval.

    Returns:
        Estimate and interval; NaN bounds with fewer than two pairs.

    Raises:
        ValueError: If the lengths differ.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    first, second = _pairs(reference, predicted)
    n = first.size
    if n < 2:
        return Interval(statistic(first, second) if n else math.nan)
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, n, size=(n_resamples, n))
    values = np.array([statistic(first[draw], second[draw]) for draw in draws])
    values = values[np.isfinite(values)]
    if not values.size:
        return Interval(statistic(first, second))
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(statistic(first, second), float(low), float(high))


def _pairs(
    reference: ArrayLike, predicted: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.asarray(reference, dtype=float), np.asarray(predicted, dtype=float)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(
            f"reference and predicted must be of one length. Received: {first.shape} and "
            f"{second.shape}"
        )
    return first, second


def _pearson(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    if first.size < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return math.nan
    a, b = first - first.mean(), second - second.mean()
    return float(np.clip((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()), -1.0, 1.0))


def _mean_squares(table: NDArray[np.float64]) -> list[float]:
    """Between subjects, between raters, within subjects, of residuals; 0 for rounding errors."""
    n, k = table.shape
    rows, columns = (table.mean(axis=axis, keepdims=True) for axis in (1, 0))
    squares = (
        k * np.square(rows - table.mean()).sum() / (n - 1),
        n * np.square(columns - table.mean()).sum() / (k - 1),
        np.square(table - rows).sum() / (n * (k - 1)),
        # summed themselves: the difference of two sums would lose what is small beside an offset
        np.square(table - rows - columns + table.mean()).sum() / ((n - 1) * (k - 1)),
    )
    least = ROUNDING**2 * float(np.square(table).mean())
    return [float(square) if square > least else 0.0 for square in squares]


def _consistency(
    rows: float, error: float, k: int, df_rows: int, df_error: int, confidence: float
) -> Interval:
    """ICC(1,1) or ICC(3,1), by whether `error` is the within or the residual mean square."""
    total = rows + (k - 1) * error
    if total <= 0:
        return Interval(math.nan)
    value = (rows - error) / total
    if error == 0:
        return Interval(1.0, 1.0, 1.0)
    quantile = (1 + confidence) / 2
    ratio = rows / error
    low = ratio / float(stats.f.ppf(quantile, df_rows, df_error))
    high = ratio * float(stats.f.ppf(quantile, df_error, df_rows))
    return Interval(value, (low - 1) / (low + k - 1), (high - 1) / (high + k - 1))


def _absolute_agreement(
    rows: float, columns: float, error: float, n: int, k: int, confidence: float
) -> Interval:
    """ICC(2,1) with the interval of McGraw and Wong's ICC(A,1)."""
    total = rows + (k - 1) * error + k * (columns - error) / n
    if total <= 0:
        return Interval(math.nan)
    value = (rows - error) / total
    if columns == 0 and error == 0:
        return Interval(1.0, 1.0, 1.0)
    if value >= 1:
        return Interval(value)
    a = k * value / (n * (1 - value))
    b = 1 + k * value * (n - 1) / (n * (1 - value))
    spread: Sequence[float] = (a * columns, b * error)
    if not any(spread):  # no degrees of freedom either
        return Interval(value)
    freedom = sum(spread) ** 2 / (spread[0] ** 2 / (k - 1) + spread[1] ** 2 / ((n - 1) * (k - 1)))
    quantile = (1 + confidence) / 2
    rest = k * columns + (k * n - k - n) * error
    upper_f = float(stats.f.ppf(quantile, n - 1, freedom))
    lower_f = float(stats.f.ppf(quantile, freedom, n - 1))
    low = n * (rows - upper_f * error) / (upper_f * rest + n * rows)
    high = n * (lower_f * rows - error) / (rest + n * lower_f * rows)
    return Interval(value, low, high)
