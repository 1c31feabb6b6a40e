"""How well a network scores lattice scans, fast enough to ask during training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calcium.agreement import confusion_matrix, linear_weighted_kappa, risk_categories
from calcium.counting_rule import CountingRule, fit_counting_rule, lesion_attention
from calcium.feedback import Decision, decide
from calcium.heart_field import LATTICE_SIZE
from calcium.lattice_scan import LatticeScan
from calcium.networks.slice_inputs import INPUT_CHANNELS
from calcium.networks.slice_regression import slice_scores
from calcium.touching_lesions import decided_lesions

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Network input `(n, 256, 256, 10)` to its output."""


@dataclass(frozen=True, slots=True)
class ScanOutcome:
    """Truth and prediction of one scan.

    Args:
        name: Name of the scan.
        group: Patient or phantom.
        truth: True score.
        score: Predicted score.
        found: Part of the true score that was counted.
    """

    name: str
    group: str
    truth: float
    score: float
    found: float

    @property
    def false_points(self) -> float:
        """Part of the prediction that is not coronary."""
        return max(0.0, self.score - self.found)


def lattice_attention(
    predict: Predict, scan: LatticeScan, *, batch_size: int = 8
) -> NDArray[np.float32]:
    """Attention at the points of a scan, shape `(m,)`."""
    attention = np.zeros(len(scan.points), np.float32)
    numbers = np.unique(scan.points[:, 0])
    for start in range(0, len(numbers), batch_size):
        chosen = numbers[start : start + batch_size]
        inputs = np.empty((len(chosen), LATTICE_SIZE, LATTICE_SIZE, INPUT_CHANNELS), np.float32)
        for item, number in enumerate(chosen):
            inputs[item] = scan.crop(int(number), (0, 0), LATTICE_SIZE)[0]
        output = predict(inputs)
        for item, number in enumerate(chosen):
            at = slice(*np.searchsorted(scan.points[:, 0], [number, number + 1]))
            rows, cols = scan.points[at, 1:].T
            attention[at] = output[item, rows, cols, 0]
    return attention


def additive_outcome(
    scan: LatticeScan,
    attention: NDArray[np.float32],
    decision: Decision,
    rule: CountingRule | None = None,
) -> ScanOutcome:
    """Outcome of a scan under a decision rule."""
    flat, shape = flat_points(scan)
    value = decide(attention, scan.density, flat, shape, decision, rule, spacing_mm=scan.spacing_mm)
    share = value / np.maximum(scan.density, 1e-12)
    found = float((share * scan.coronary).sum())
    return ScanOutcome(scan.name, scan.group, scan.agatston, float(value.sum()), found)


def counting_rule_of(
    scans: Sequence[LatticeScan], attention: Sequence[NDArray[np.float32]]
) -> CountingRule:
    """Rule fitted to the lesions of scans that took no part in training.

    Args:
        scans: At least one.
        attention: Attention at the points of each, from `lattice_attention`.
    """
    parts = []
    for scan, values in zip(scans, attention, strict=True):
        label = decided_lesions(values, scan.density, *flat_points(scan), scan.spacing_mm)
        sums = [np.bincount(label, points) for points in (scan.density, scan.coronary)]
        parts.append([*sums, lesion_attention(label, values, scan.density)])
    possible, coronary, attended = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return fit_counting_rule(possible, attended, coronary > 0.5 * possible)


def flat_points(scan: LatticeScan) -> tuple[NDArray[np.int64], tuple[int, ...]]:
    """Points of a scan in the flattened lattice volume, and that volume's shape."""
    shape = (len(scan.hu), LATTICE_SIZE, LATTICE_SIZE)
    flat = np.ravel_multi_index(tuple(scan.points.T.astype(np.int64)), shape)
    return flat.astype(np.int64), shape


def regressed_outcome(predict: Predict, scan: LatticeScan, *, batch_size: int = 8) -> ScanOutcome:
    """Outcome of a scan under the plain network; what it counted is not known."""
    total = 0.0
    numbers = np.unique(scan.points[:, 0])
    for start in range(0, len(numbers), batch_size):
        chosen = numbers[start : start + batch_size]
        inputs = np.stack([scan.crop(int(n), (0, 0), LATTICE_SIZE)[0] for n in chosen])
        total += float(slice_scores(predict(inputs)).sum())
    return ScanOutcome(scan.name, scan.group, scan.agatston, total, float("nan"))


def summary(outcomes: Sequence[ScanOutcome]) -> dict[str, float]:
    """Mean log error, category agreement, and points found and falsely counted.

    Args:
        outcomes: One per scan, at least one.

    Returns:
        `log_error` (mean absolute difference of `log1p`), `kappa` (linear weights),
        `found` and `false` (shares of all true points).
    """
    truth = np.array([o.truth for o in outcomes])
    score = np.array([o.score for o in outcomes])
    points = max(float(truth.sum()), 1e-9)
    return {
        "log_error": float(np.abs(np.log1p(truth) - np.log1p(score)).mean()),
        "kappa": linear_weighted_kappa(
            confusion_matrix(risk_categories(truth), risk_categories(np.maximum(score, 0.0)))
        ),
        "found": float(sum(o.found for o in outcomes)) / points,
        "false": float(sum(o.false_points for o in outcomes)) / points,
    }
