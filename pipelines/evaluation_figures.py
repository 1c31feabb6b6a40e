"""Figures of an evaluation: agreement, Bland-Altman, confusion, calibration."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from calcium.agreement import bland_altman, confusion_matrix, risk_categories
from calcium.categories import RISK_CATEGORIES
from pipelines.score_pairs import ScorePairs

CATEGORY_EDGES = (0.5, 10.5, 100.5, 400.5)
"""Scores at which the printed whole number enters the next risk category."""

CATEGORY_COLORS = ("#2e7d5b", "#7d9440", "#d9a436", "#d0702f", "#a4302a")
"""The colors of the categories on every page of the project, very low to high."""

KIND_STYLES = {"cardiac": ("o", "#1a5490"), "chest": ("^", "#8a5200")}
OTHER_STYLE = ("s", "#566370")
FIGURE_INCHES = (5.2, 4.4)
FIGURE_DPI = 120
SCORE_TICKS = (0, 1, 10, 100, 400, 1000, 10000)
RATIO_TICKS = (0.001, 0.01, 0.1, 0.25, 0.5, 1, 2, 4, 10, 100, 1000)


def draw_figures(pairs: ScorePairs) -> dict[str, bytes]:
    """All figures as PNG bytes, by name.

    Args:
        pairs: Reference and predicted scores, at least one pair.

    Returns:
        `agreement`, `bland_altman`, `bland_altman_ratio`, `confusion`, `calibration`.

    Source:
        Own.
    """
    draw = {
        "agreement": _draw_agreement,
        "bland_altman": _draw_bland_altman,
        "bland_altman_ratio": _draw_ratio,
        "confusion": _draw_confusion,
        "calibration": _draw_calibration,
    }
    figures = {}
    for name, fill in draw.items():
        figure = Figure(figsize=FIGURE_INCHES, dpi=FIGURE_DPI, layout="constrained")
        fill(figure.add_subplot(), pairs)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
        figures[name] = buffer.getvalue()
    return figures


def _draw_agreement(axes: Axes, pairs: ScorePairs) -> None:
    top = float(max(pairs.reference.max(), pairs.predicted.max(), 500.0)) * 1.3
    edges = (0.0, *CATEGORY_EDGES, top)
    for low, high, color in zip(edges, edges[1:], CATEGORY_COLORS, strict=False):
        axes.fill_between([low, high], low, high, color=color, alpha=0.16, lw=0)
    axes.plot([0, top], [0, top], color="#16202b", lw=0.8)
    has_interval = np.isfinite(pairs.low) & np.isfinite(pairs.high)
    axes.vlines(
        pairs.reference[has_interval],
        pairs.low[has_interval],
        pairs.high[has_interval],
        color="#aab4be",
        lw=0.8,
    )
    _scatter(axes, pairs, pairs.reference, pairs.predicted)
    for set_scale, axis in ((axes.set_xscale, axes.xaxis), (axes.set_yscale, axes.yaxis)):
        set_scale("symlog", linthresh=1.0)
        ticks = [tick for tick in SCORE_TICKS if tick <= top]
        axis.set_ticks(ticks, [str(tick) for tick in ticks])
        axis.set_ticks([], minor=True)
    axes.set_xlim(-0.15, top)
    axes.set_ylim(-0.15, top)
    axes.set_xlabel("reference Agatston score")
    axes.set_ylabel("predicted Agatston score")
    axes.set_title("Agreement (shaded: same risk category)", fontsize=10)


def _draw_bland_altman(axes: Axes, pairs: ScorePairs) -> None:
    mean = (pairs.reference + pairs.predicted) / 2
    _scatter(axes, pairs, mean, pairs.predicted - pairs.reference)
    agreement = bland_altman(pairs.reference, pairs.predicted)
    _limits(axes, agreement.lower, agreement.bias.value, agreement.upper, "{:.1f}")
    axes.set_xlabel("mean of both scores")
    axes.set_ylabel("predicted − reference")
    axes.set_title("Bland-Altman", fontsize=10)


def _draw_ratio(axes: Axes, pairs: ScorePairs) -> None:
    first, second = np.log1p(pairs.reference), np.log1p(pairs.predicted)
    agreement = bland_altman(first, second)
    _scatter(axes, pairs, np.exp((first + second) / 2), np.exp(second - first))
    axes.set_xscale("log")
    axes.set_yscale("log")
    limits = np.exp([agreement.lower, agreement.bias.value, agreement.upper])
    _limits(axes, limits[0], limits[1], limits[2], "x {:.2f}")
    low, high = axes.get_ylim()
    ticks = [tick for tick in RATIO_TICKS if low <= tick <= high]
    axes.yaxis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_ticks([], minor=True)
    axes.set_xlabel("geometric mean of (score + 1)")
    axes.set_ylabel("(predicted + 1) / (reference + 1)")
    axes.set_title("Bland-Altman of ratios", fontsize=10)


def _draw_confusion(axes: Axes, pairs: ScorePairs) -> None:
    counts = confusion_matrix(risk_categories(pairs.reference), risk_categories(pairs.predicted))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    for (row, column), count in np.ndenumerate(counts):
        ink = "white" if share[row, column] > 0.55 else "#16202b"
        axes.text(column, row, str(count), ha="center", va="center", color=ink)
    ticks = range(len(RISK_CATEGORIES))
    axes.set_xticks(ticks, RISK_CATEGORIES)
    axes.set_yticks(ticks, RISK_CATEGORIES)
    axes.set_xlabel("predicted category")
    axes.set_ylabel("reference category")
    axes.set_title("Scans per risk category (shade: share of the row)", fontsize=10)


def _draw_calibration(axes: Axes, pairs: ScorePairs) -> None:
    category = risk_categories(pairs.predicted)
    for index, color in enumerate(CATEGORY_COLORS):
        values = pairs.reference[category == index]
        if not values.size:
            continue
        jitter = np.linspace(-0.18, 0.18, values.size) if values.size > 1 else np.zeros(1)
        axes.scatter(index + jitter, values, s=14, color=color, alpha=0.7, lw=0)
        axes.hlines(np.median(values), index - 0.3, index + 0.3, color="#16202b", lw=1.6)
        axes.annotate(
            f"n = {values.size}", (index, 1.01), xycoords=("data", "axes fraction"),
            ha="center", fontsize=8,
        )  # fmt: skip
    for edge in CATEGORY_EDGES:
        axes.axhline(edge, color="#aab4be", lw=0.6)
    axes.set_yscale("symlog", linthresh=1.0)
    ticks = [tick for tick in SCORE_TICKS if tick <= max(pairs.reference.max() * 1.3, 500)]
    axes.yaxis.set_ticks(ticks, [str(tick) for tick in ticks])
    axes.yaxis.set_ticks([], minor=True)
    axes.set_ylim(bottom=-0.15)
    axes.set_xticks(range(len(RISK_CATEGORIES)), RISK_CATEGORIES)
    axes.set_xlim(-0.5, len(RISK_CATEGORIES) - 0.5)
    axes.set_xlabel("predicted category")
    axes.set_ylabel("reference Agatston score (bar: median)")


def _scatter(axes: Axes, pairs: ScorePairs, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    kinds = np.array(pairs.kinds)
    for kind in sorted(set(pairs.kinds)):
        marker, color = KIND_STYLES.get(kind, OTHER_STYLE)
        chosen = kinds == kind
        label = f"{kind or 'scans'} ({chosen.sum()})"
        axes.scatter(
            x[chosen], y[chosen], s=18, marker=marker, color=color, alpha=0.75, lw=0, label=label
        )
    if set(pairs.kinds) != {""}:
        axes.legend(fontsize=8, frameon=False, loc="upper left")


def _limits(axes: Axes, lower: float, middle: float, upper: float, form: str) -> None:
    for value, style in ((lower, "--"), (middle, "-"), (upper, "--")):
        if np.isfinite(value):
            axes.axhline(value, color="#16202b", lw=0.9, ls=style)
            axes.annotate(
                form.format(value), (1.0, value), xycoords=("axes fraction", "data"),
                ha="right", va="bottom", fontsize=8,
            )  # fmt: skip
