"""When a lesion counts: the attention it needs, by its size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

ATTENTION_FLOOR = 1e-4
"""Attention is kept this far from 0 and 1 before its logit is taken."""

RIDGE = 0.01
"""Weight of the squared coefficients in the fit: lesions of one class alone have no best fit."""


@dataclass(frozen=True, slots=True)
class CountingRule:
    """Attention that a lesion must exceed, never less than one half.

    Training shows coronary lesions far more often than a scan holds them, and of small
    candidates nearly all are noise: so small ones need more than one half. The needed logit
    falls linearly with the logarithm of the lesion's score.

    Args:
        logit_at_one: Needed logit of a lesion that would score 1 point.
        logit_per_log_score: Fall of it per natural logarithm of the score.

    Example:
        >>> CountingRule(2.0, 1.0).needed_attention([1.0, 1000.0]).round(3).tolist()
        [0.881, 0.5]
    """

    logit_at_one: float = 0.0
    logit_per_log_score: float = 0.0

    @classmethod
    def from_dict(cls, fragment: Mapping[str, float]) -> CountingRule:
        """Rule of a JSON fragment that `to_dict` wrote."""
        return cls(float(fragment["logit_at_one"]), float(fragment["logit_per_log_score"]))

    def to_dict(self) -> dict[str, float]:
        """JSON fragment."""
        return asdict(self)

    def needed_attention(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Attention to be exceeded by lesions of some scores, both of shape `(n,)`."""
        size = np.log(np.maximum(np.asarray(scores, dtype=float), 1e-9))
        logit = np.maximum(self.logit_at_one - self.logit_per_log_score * size, 0.0)
        return np.asarray(1.0 / (1.0 + np.exp(-logit)))


def lesion_attention(
    label: NDArray[np.integer], attention: NDArray[np.floating], weight: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Attention of lesions as wholes: of the weighted mean logit of their points.

    A network is sure of some parts of a large lesion and not of others. The mean of logits
    lets the sure ones say more than the mean of the attention itself would.

    Args:
        label: Lesion of each point, from 0, shape `(n,)`.
        attention: Attention of each point, 0-1, shape `(n,)`.
        weight: Density of each point, shape `(n,)`.

    Returns:
        Shape `(lesions,)`.

    Example:
        >>> lesion_attention(np.array([0, 0]), np.array([0.5, 0.9]), np.array([1.0, 1.0])).round(2)
        array([0.75])
    """
    total = np.bincount(label, weight)
    mean = np.bincount(label, weight * logit_of(attention)) / np.maximum(total, 1e-12)
    return np.asarray(1.0 / (1.0 + np.exp(-mean)))


def logit_of(attention: ArrayLike) -> NDArray[np.float64]:
    """Logit of attention, which is kept `ATTENTION_FLOOR` from 0 and 1."""
    share = np.clip(np.asarray(attention, float), ATTENTION_FLOOR, 1.0 - ATTENTION_FLOOR)
    return np.asarray(np.log(share) - np.log1p(-share))


def fit_counting_rule(
    scores: ArrayLike, attention: ArrayLike, is_coronary: ArrayLike
) -> CountingRule:
    """Rule under which a lesion counts if it is more likely coronary than not.

    A logistic regression on the logit of the attention and the logarithm of the score, each
    lesion weighted by `log1p` of its score, as categories are logarithmic.

    Args:
        scores: What each lesion would score, above zero, shape `(n,)`.
        attention: Attention of each, see `lesion_attention`, 0-1, shape `(n,)`.
        is_coronary: Truth, shape `(n,)`; of scans that took no part in training.

    Returns:
        The rule; the plain half if there are not both kinds of lesions, or if attention does
        not tell them apart.
    """
    size = np.log(np.asarray(scores, dtype=float))
    truth = np.asarray(is_coronary, dtype=bool)
    if truth.all() or not truth.any():
        return CountingRule()
    inputs = np.stack([np.ones_like(size), logit_of(attention), size], axis=1)
    weight = np.log1p(np.exp(size))

    def loss(coefficients: NDArray[np.float64]) -> float:
        logit = inputs @ coefficients
        fit = weight * (np.logaddexp(0.0, logit) - truth * logit)
        return float(fit.sum() + RIDGE * (coefficients**2).sum())

    offset, slope, growth = minimize(loss, np.array([0.0, 1.0, 0.0])).x
    if slope <= 0:
        return CountingRule()
    return CountingRule(float(-offset / slope), float(growth / slope))
