"""Agreement of predicted scores with reference scores, of all scans and of each kind."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calcium.agreement import (
    BlandAltman,
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
from calcium.categories import RISK_CATEGORIES
from pipelines.score_pairs import ScorePairs

MIN_GROUP_SIZE = 3
"""Groups with fewer pairs are not reported by themselves."""


def evaluate_pairs(pairs: ScorePairs) -> dict[str, Any]:
    """Every measure of agreement, of all pairs and of each kind of scan.

    Args:
        pairs: Reference and predicted scores.

    Returns:
        JSON values: `counts`, `all`, and `kinds` by name; what is undefined is `None`.

    Source:
        `calcium.agreement`.
    """
    kinds = {
        kind: pairs.select(np.array([k == kind for k in pairs.kinds]))
        for kind in sorted(set(pairs.kinds) - {""})
    }
    record = {
        "counts": {
            "pairs": len(pairs.names),
            "review": pairs.statuses.count("review"),
            "reference_without_score": len(pairs.without_score),
            "reference_without_prediction": len(pairs.without_prediction),
            "prediction_without_reference": pairs.without_reference,
        },
        "without_score": list(pairs.without_score),
        "without_prediction": list(pairs.without_prediction),
        "all": _measures(pairs),
        "kinds": {
            kind: _measures(part)
            for kind, part in kinds.items()
            if MIN_GROUP_SIZE <= len(part.names) < len(pairs.names)
        },
    }
    cleaned: dict[str, Any] = _without_nan(record)
    return cleaned


def _measures(pairs: ScorePairs) -> dict[str, Any]:
    reference, predicted = pairs.reference, pairs.predicted
    categories = risk_categories(reference), risk_categories(predicted)
    confusion = confusion_matrix(*categories)
    distance = np.abs(categories[0] - categories[1])
    return {
        "n": len(pairs.names),
        "icc_2_1": asdict(_icc(reference, predicted)),
        "icc_2_1_log": asdict(_icc(np.log1p(reference), np.log1p(predicted))),
        "linear_kappa": asdict(bootstrap_interval(_kappa, *categories)),
        "spearman": spearman(reference, predicted),
        "pearson_log": log_pearson(reference, predicted),
        "same_category": float((distance == 0).mean()),
        "within_one_category": float((distance <= 1).mean()),
        "zero": _zero_detection(categories[0] > 0, categories[1] > 0),
        "confusion": {"categories": list(RISK_CATEGORIES), "counts": confusion.tolist()},
        "bland_altman": asdict(bland_altman(reference, predicted)),
        "bland_altman_ratio": _as_ratio(bland_altman(np.log1p(reference), np.log1p(predicted))),
        "median_absolute_error": float(np.median(np.abs(predicted - reference))),
        "calibration": _calibration(pairs, categories[1]),
        "interval": _interval_coverage(pairs),
    }


def _icc(reference: NDArray[np.float64], predicted: NDArray[np.float64]) -> Interval:
    return intraclass_correlations(np.stack([reference, predicted], axis=1)).icc_2_1


def _kappa(reference: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Linearly weighted kappa of category indices."""
    return linear_weighted_kappa(confusion_matrix(reference, predicted))


def _zero_detection(truth: NDArray[np.bool_], found: NDArray[np.bool_]) -> dict[str, float]:
    """Calcium (category above 0) as the positive finding."""
    n_positive, n_negative = int(truth.sum()), int((~truth).sum())
    return {
        "sensitivity": float((truth & found).sum()) / n_positive if n_positive else math.nan,
        "specificity": float((~truth & ~found).sum()) / n_negative if n_negative else math.nan,
        "n_positive": n_positive,
        "n_negative": n_negative,
    }


def _as_ratio(agreement: BlandAltman) -> dict[str, Any]:
    """Differences of log(score + 1) as ratios (predicted + 1) / (reference + 1)."""
    bias = agreement.bias
    return {
        "bias": {name: math.exp(value) for name, value in asdict(bias).items()},
        "lower": math.exp(agreement.lower),
        "upper": math.exp(agreement.upper),
    }


def _calibration(pairs: ScorePairs, predicted_category: NDArray[np.int64]) -> list[dict[str, Any]]:
    """What the reference says about the scans of each predicted category."""
    rows: list[dict[str, Any]] = []
    for index, category in enumerate(RISK_CATEGORIES):
        chosen = predicted_category == index
        rows.append(
            {
                "predicted_category": category,
                "n": int(chosen.sum()),
                "mean_predicted": float(pairs.predicted[chosen].mean()) if chosen.any() else None,
                "mean_reference": float(pairs.reference[chosen].mean()) if chosen.any() else None,
                "median_reference": (
                    float(np.median(pairs.reference[chosen])) if chosen.any() else None
                ),
            }
        )
    return rows


def _interval_coverage(pairs: ScorePairs) -> dict[str, Any]:
    """How often the printed interval holds the reference."""
    has_interval = np.isfinite(pairs.low) & np.isfinite(pairs.high)
    inside = (pairs.low <= pairs.reference) & (pairs.reference <= pairs.high)
    n = int(has_interval.sum())
    return {"n": n, "coverage": float(inside[has_interval].mean()) if n else math.nan}


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: the same value with `None` in its place."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
