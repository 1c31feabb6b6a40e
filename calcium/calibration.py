"""What a score is worth: a 90 % interval, and the chance of every risk category.

Both come from scans with a known score that took no part in training. Errors are compared
on a logarithmic scale, apart for cardiac and chest scans and for low and high predictions, as
they are larger where little calcium is seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calcium.categories import RISK_CATEGORIES, risk_category

MISS_RATE = 0.10
"""Share of scans whose score lies outside the interval."""

BIN_EDGES = (0.5, 10.5, 100.5, 400.5)
"""Predictions that start another bin: those of the risk categories, of scores as printed."""

LEAST_PER_BIN = 20
"""Scans below which a bin is joined with its neighbor: 19 are the fewest for which the
finite-sample quantile at 5 % exists."""

KEPT_QUANTILES = 41
"""Errors kept of every bin, evenly spaced in rank, for the chances of categories."""

DIGITS = 4
"""Decimals of errors in files."""


@dataclass(frozen=True, slots=True)
class ErrorBin:
    """Errors of predictions of about one size.

    Args:
        start: Smallest prediction of the bin.
        low: Lower end of the interval relative to the prediction, of `log1p` scores, at most 0.
        high: Upper end, at least 0.
        errors: `log1p(truth) - log1p(prediction)` of held-out scans, ascending.
    """

    start: float
    low: float
    high: float
    errors: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Errors of a model on scans that took no part in its training.

    Args:
        preset: Definition of the score that they were measured under.
        bins: Bins by kind of scan (`"cardiac"`, `"chest"`), smallest predictions first.
        counts: Scans by kind that they come from.

    Source:
        Split conformal prediction within groups: Vovk, Machine Learning 2013;92:349-376;
        Lei et al., J Am Stat Assoc 2018;113:1094-1111.
    """

    preset: str
    bins: Mapping[str, tuple[ErrorBin, ...]]
    counts: Mapping[str, int] = field(default_factory=dict)

    def interval(self, agatston: float, kind: str) -> tuple[float, float] | None:
        """Scores between which the truth lies for 90 % of scans; holds the prediction.

        Args:
            agatston: Predicted score.
            kind: `"cardiac"` or `"chest"`.

        Returns:
            Lower and upper end, or `None` for a kind without calibration.
        """
        found = self._bin(agatston, kind)
        if found is None:
            return None
        size = math.log1p(agatston)
        # a prediction below one half prints as zero, and none is smaller
        low = math.expm1(max(0.0, size + found.low)) if agatston >= BIN_EDGES[0] else 0.0
        return min(low, agatston), math.expm1(size + found.high)

    def category_probabilities(self, agatston: float, kind: str) -> dict[str, float] | None:
        """Chance of every risk category, given the prediction.

        Args:
            agatston: Predicted score.
            kind: `"cardiac"` or `"chest"`.

        Returns:
            Category to chance; they sum to 1. `None` for a kind without calibration.
        """
        found = self._bin(agatston, kind)
        if found is None:
            return None
        size = math.log1p(agatston)
        names = [risk_category(math.expm1(max(0.0, size + error))) for error in found.errors]
        return {name: names.count(name) / len(names) for name in RISK_CATEGORIES}

    def _bin(self, agatston: float, kind: str) -> ErrorBin | None:
        bins = self.bins.get(kind, ())
        return next((b for b in reversed(bins) if agatston >= b.start), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "preset": self.preset,
            "counts": dict(self.counts),
            "bins": {kind: [asdict(b) for b in bins] for kind, bins in self.bins.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """The calibration that `to_dict` described.

        Raises:
            KeyError: If a part is missing.
            TypeError: If a bin has other values than an `ErrorBin`.
        """
        bins = {
            kind: tuple(ErrorBin(**{**b, "errors": tuple(b["errors"])}) for b in found)
            for kind, found in values["bins"].items()
        }
        return cls(str(values["preset"]), bins, dict(values["counts"]))


def fit_calibration(
    predicted: ArrayLike, truth: ArrayLike, kinds: Sequence[str], *, preset: str
) -> Calibration:
    """Calibration from scans with known scores that took no part in training.

    Args:
        predicted: Predicted scores, shape `(n,)`.
        truth: True scores, shape `(n,)`.
        kinds: Kind of every scan.
        preset: Definition of the scores.

    Returns:
        Bins of every kind that has at least `LEAST_PER_BIN` scans; others are left out.
    """
    scores = np.asarray(predicted, dtype=float)
    errors = np.log1p(np.asarray(truth, dtype=float)) - np.log1p(scores)
    of_kind = np.asarray(kinds)
    bins, counts = {}, {}
    for kind in dict.fromkeys(kinds):
        here = of_kind == kind
        if np.count_nonzero(here) >= LEAST_PER_BIN:
            bins[kind] = _bins(scores[here], errors[here])
            counts[kind] = int(np.count_nonzero(here))
    return Calibration(preset, bins, counts)


def _bins(scores: NDArray[np.float64], errors: NDArray[np.float64]) -> tuple[ErrorBin, ...]:
    number = np.searchsorted(BIN_EDGES, scores, side="right")
    groups = [errors[number == k] for k in range(len(BIN_EDGES) + 1)]
    starts = [0.0, *BIN_EDGES]
    while len(groups) > 1 and min(map(len, groups)) < LEAST_PER_BIN:
        smallest = min(range(len(groups)), key=lambda k: len(groups[k]))
        # predictions of no calcium err in another way than any other: joined with them last
        first = smallest - 1 if smallest > 1 or smallest == len(groups) - 1 else smallest
        groups[first : first + 2] = [np.concatenate(groups[first : first + 2])]
        del starts[first + 1]
    return tuple(_error_bin(start, group) for start, group in zip(starts, groups, strict=True))


def _error_bin(start: float, errors: NDArray[np.float64]) -> ErrorBin:
    ordered = np.sort(errors)
    n = len(ordered)
    outside = MISS_RATE / 2
    low = ordered[max(0, math.floor((n + 1) * outside) - 1)]
    high = ordered[min(n - 1, math.ceil((n + 1) * (1 - outside)) - 1)]
    ranks = (np.arange(KEPT_QUANTILES) + 0.5) / KEPT_QUANTILES
    kept = np.quantile(ordered, ranks, method="inverted_cdf")
    return ErrorBin(
        start,
        round(min(0.0, float(low)), DIGITS),
        round(max(0.0, float(high)), DIGITS),
        tuple(round(float(error), DIGITS) for error in kept),
    )


def coverage(intervals: Sequence[tuple[float, float]], truth: ArrayLike) -> float:
    """Share of true scores inside their intervals.

    Example:
        >>> coverage([(0.0, 2.0), (5.0, 9.0)], [1.0, 10.0])
        0.5
    """
    inside = [low <= t <= high for (low, high), t in zip(intervals, np.asarray(truth), strict=True)]
    return float(np.mean(inside))
