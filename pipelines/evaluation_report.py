"""Writing an evaluation: JSON for programs, Markdown for papers, one HTML file for people."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.evaluation import evaluate_pairs
from pipelines.evaluation_figures import draw_figures
from pipelines.pages import page
from pipelines.score_pairs import ScorePairs
from pipelines.version import program_version

CAPTIONS = {
    "agreement": "Predicted against reference score; vertical lines are predicted intervals.",
    "bland_altman": "Differences, with bias and limits of agreement.",
    "bland_altman_ratio": "The same as ratios, for scores that span orders of magnitude.",
    "confusion": "Scans per reference (rows) and predicted (columns) risk category.",
    "calibration": "Reference scores of the scans of each predicted category.",
}


def write_evaluation(pairs: ScorePairs, out: Path) -> dict[str, Any]:
    """Evaluate and write `evaluation.json`, `.md`, `.html` and `figures/*.png`.

    Args:
        pairs: Reference and predicted scores.
        out: Folder, created if need be; files of these names are replaced.

    Returns:
        What `evaluation.json` holds.

    Raises:
        OSError: If a file cannot be written.

    Source:
        Own.
    """
    record = {"version": program_version(), **evaluate_pairs(pairs)}
    figures = draw_figures(pairs)
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for name, png in figures.items():
        (out / "figures" / f"{name}.png").write_bytes(png)
    text = json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False)
    (out / "evaluation.json").write_text(text + "\n", encoding="utf-8")
    (out / "evaluation.md").write_text(to_markdown(record), encoding="utf-8")
    html = page(
        "evaluation.html",
        record=record,
        rows=measure_rows(record),
        figures={name: base64.b64encode(png).decode() for name, png in figures.items()},
        captions=CAPTIONS,
    )
    (out / "evaluation.html").write_text(html, encoding="utf-8")
    return record


def measure_rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The measures as text: a header, then a row per measure and a column per group.

    Args:
        record: What `evaluate_pairs` returns.

    Returns:
        Rows of equal length, the first is the header.

    Source:
        Own.
    """
    groups = {"all": record["all"], **record["kinds"]}
    rows: list[tuple[str, ...]] = [("measure", *groups)]
    texts = [_texts(group) for group in groups.values()]
    rows.extend((name, *(text[name] for text in texts)) for name in texts[0])
    return rows


def to_markdown(record: Mapping[str, Any]) -> str:
    """The evaluation as a Markdown page that refers to the figures."""
    counts = record["counts"]
    lines = ["# Predicted against reference calcium scores", "", _told(counts), ""]
    header, *rows = measure_rows(record)
    lines += [_line(header), _line(["---"] * len(header)), *map(_line, rows), ""]
    confusion = record["all"]["confusion"]
    lines += ["Rows: reference category. Columns: predicted category.", ""]
    lines += [_line(["", *confusion["categories"]])]
    lines += [_line(["---"] * (len(confusion["categories"]) + 1))]
    for name, row in zip(confusion["categories"], confusion["counts"], strict=True):
        lines.append(_line([f"**{name}**", *map(str, row)]))
    lines.append("")
    lines += [f"![{caption}](figures/{name}.png)\n" for name, caption in CAPTIONS.items()]
    return "\n".join(lines)


def _told(counts: Mapping[str, int]) -> str:
    return (
        f"Scans with both scores: {counts['pairs']}, flagged for review: {counts['review']}. "
        f"Reference scans refused or failed: {counts['reference_without_score']}, unknown to the "
        f"predictions: {counts['reference_without_prediction']}. "
        f"Predictions without a reference: {counts['prediction_without_reference']}."
    )


def _texts(group: Mapping[str, Any]) -> dict[str, str]:
    bias, ratio = group["bland_altman"], group["bland_altman_ratio"]
    zero, interval = group["zero"], group["interval"]
    return {
        "scans": str(group["n"]),
        "ICC(2,1), absolute agreement": _with_interval(group["icc_2_1"]),
        "ICC(2,1) of log(score + 1)": _with_interval(group["icc_2_1_log"]),
        "linearly weighted kappa": _with_interval(group["linear_kappa"]),
        "same risk category": _percent(group["same_category"]),
        "within one category": _percent(group["within_one_category"]),
        "Spearman": _number(group["spearman"], 3),
        "Pearson of log(score + 1)": _number(group["pearson_log"], 3),
        "calcium found where there is some": _percent(zero["sensitivity"], zero["n_positive"]),
        "no calcium found where there is none": _percent(zero["specificity"], zero["n_negative"]),
        "bias": _with_interval(bias["bias"], 1),
        "limits of agreement": _range(bias, 1),
        "ratio of (score + 1)": _with_interval(ratio["bias"], 2),
        "limits of the ratio": _range(ratio, 2),
        "median absolute error": _number(group["median_absolute_error"], 1),
        "reference within the interval": _percent(interval["coverage"], interval["n"]),
    }


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None, n: int | None = None) -> str:
    text = "-" if value is None else f"{100 * value:.1f} %"
    return text if n is None else f"{text} of {n}"


def _range(limits: Mapping[str, float | None], digits: int) -> str:
    return f"{_number(limits['lower'], digits)} to {_number(limits['upper'], digits)}"


def _with_interval(interval: Mapping[str, float | None], digits: int = 3) -> str:
    value, low, high = (interval[name] for name in ("value", "low", "high"))
    if low is None or high is None:
        return _number(value, digits)
    return f"{_number(value, digits)} ({_number(low, digits)} to {_number(high, digits)})"


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"
