"""Predicted and reference scores from two tables, joined scan by scan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.source_names import names_in_source
from pipelines.table_rows import UnusableTable, read_rows

KEY_COLUMNS = ("scan_id", "scan", "source")
"""Columns of a reference table that may name the scan, the first present is used."""

SCORED_STATUSES = ("ok", "review")
"""Statuses of `scores.csv` that carry a score."""


@dataclass(frozen=True, slots=True)
class ScorePairs:
    """Reference and predicted score of every scan that has both.

    Args:
        names: What the reference calls each scan.
        reference: Reference Agatston scores, shape `(n,)`.
        predicted: Predicted Agatston scores, shape `(n,)`.
        low: Lower bound of the predicted interval, NaN where there is none, shape `(n,)`.
        high: Upper bound, shape `(n,)`.
        kinds: `cardiac`, `chest` or empty, per scan.
        statuses: `ok` or `review`, per scan; empty where the table has no such column.
        presets: Definition that the predicted score follows, per scan; empty likewise.
        models: Name and version of the model that predicted it, per scan; empty likewise.
        without_score: Reference scans that were refused, failed or carry no score.
        without_prediction: Reference scans that the predicted table does not know.
        without_reference: Number of scored rows that no reference names.
    """

    names: tuple[str, ...]
    reference: NDArray[np.float64]
    predicted: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    kinds: tuple[str, ...]
    statuses: tuple[str, ...]
    presets: tuple[str, ...]
    models: tuple[str, ...]
    without_score: tuple[str, ...] = ()
    without_prediction: tuple[str, ...] = ()
    without_reference: int = 0

    def select(self, chosen: NDArray[np.bool_]) -> ScorePairs:
        """The pairs where `chosen`, shape `(n,)`, is True; what is missing is not counted."""
        index = np.flatnonzero(chosen)
        return ScorePairs(
            tuple(self.names[i] for i in index),
            self.reference[index],
            self.predicted[index],
            self.low[index],
            self.high[index],
            tuple(self.kinds[i] for i in index),
            tuple(self.statuses[i] for i in index),
            tuple(self.presets[i] for i in index),
            tuple(self.models[i] for i in index),
        )


def read_pairs(predicted_csv: Path, reference_csv: Path) -> ScorePairs:
    """Join a table of predictions with a table of reference scores.

    A reference names a scan by `scan_id`, or by `scan` or `source`: the source in
    `scores.csv`, or a folder or file name in it where that is unambiguous.

    Args:
        predicted_csv: Table with `scan_id` and `agatston`, as `scores.csv` of a run.
        reference_csv: Table with a column `scan_id`, `scan` or `source`, and `agatston`.

    Returns:
        The pairs, in the order of the reference.

    Raises:
        UnusableTable: If a column is missing, a row has more cells than the header, a score
            is not a number or negative, a scan is named twice or by nothing, a name is
            ambiguous, or no scan is in both.

    Source:
        Own.
    """
    predictions = read_rows(predicted_csv, ("scan_id", "agatston"))
    references = read_rows(reference_csv, ("agatston",))
    names = _names(references, reference_csv.name)
    found = [_find_row(name, predictions, predicted_csv.name) for name in names]
    _refuse_rows_named_twice(names, found, reference_csv.name)
    pairs, unscored, unknown = [], [], []
    for name, (line, truth), at in zip(names, references.items(), found, strict=True):
        if at is None:
            unknown.append(name)
        elif not _is_scored(predictions[at]):
            unscored.append(name)
        else:
            score = _score(truth, "agatston", f"line {line} of {reference_csv.name}")
            pairs.append((name, score, at))
    if not pairs:
        raise UnusableTable(
            f"no scan has a score in both tables: {reference_csv.name} names {len(names)} scans, "
            f"{len(unknown)} are unknown to {predicted_csv.name} and {len(unscored)} have no score"
        )
    n_scored = sum(_is_scored(row) for row in predictions.values())
    matched = _to_pairs(pairs, predictions, predicted_csv.name)
    return replace(
        matched,
        without_score=tuple(unscored),
        without_prediction=tuple(unknown),
        without_reference=n_scored - len(pairs),
    )


def _names(references: Mapping[int, dict[str, str]], table: str) -> list[str]:
    """What the rows of a reference table, by line, call their scans."""
    columns = next(iter(references.values()))
    key = next((column for column in KEY_COLUMNS if column in columns), None)
    if key is None:
        raise UnusableTable(f"{table} must have one of the columns {', '.join(KEY_COLUMNS)}")
    names = [row[key].strip() for row in references.values()]
    for line, name in zip(references, names, strict=True):
        if not name.strip("/"):  # would fit every row without a source
            raise UnusableTable(f"line {line} of {table} names no scan: its column {key} is empty")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UnusableTable(f"{table} names the scan {twice!r} twice")
    return names


def _refuse_rows_named_twice(names: Sequence[str], found: Sequence[int | None], table: str) -> None:
    """Two names may be of one scan: a folder and a file in it, or a scan_id and a source."""
    first: dict[int, str] = {}
    for name, line in zip(names, found, strict=True):
        if line is None:
            continue
        other = first.setdefault(line, name)
        if other != name:
            raise UnusableTable(
                f"{table} names one scan twice, as {other!r} and as {name!r}; keep one of the rows"
            )


def _find_row(name: str, predictions: Mapping[int, dict[str, str]], table: str) -> int | None:
    """Line of the prediction of a scan; of a scored one before one that was refused."""
    spelled = name.rstrip("/")
    tests = (
        lambda row: row["scan_id"] == name,
        lambda row: row.get("source", "").rstrip("/") == spelled,
        lambda row: spelled in names_in_source(row.get("source", "")),
    )
    for test in tests:
        matches = [line for line, row in predictions.items() if test(row)]
        scored = [line for line in matches if _is_scored(predictions[line])]
        if len(scored) > 1:
            raise UnusableTable(
                f"{name!r} fits {len(scored)} scored rows of {table}; name them by scan_id"
            )
        if matches:
            return (scored or matches)[0]
    return None


def _is_scored(row: Mapping[str, str]) -> bool:
    return row.get("status", "ok") in SCORED_STATUSES and row["agatston"].strip() != ""


def _score(row: Mapping[str, str], column: str, place: str) -> float:
    text = row[column].strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise UnusableTable(f"{place}: {column} must be a score of 0 or more. Received: {text!r}")
    return value


def _bound(row: Mapping[str, str], column: str, place: str) -> float:
    return _score(row, column, place) if row.get(column, "").strip() else math.nan


def _to_pairs(
    pairs: Sequence[tuple[str, float, int]], predictions: Mapping[int, dict[str, str]], table: str
) -> ScorePairs:
    """Names and true scores with what stands on the lines of their predictions."""
    rows = [(f"line {line} of {table}", predictions[line]) for _, _, line in pairs]

    def column(name: str) -> tuple[str, ...]:
        return tuple(row.get(name, "").strip() for _, row in rows)

    return ScorePairs(
        names=tuple(name for name, _, _ in pairs),
        reference=np.array([truth for _, truth, _ in pairs]),
        predicted=np.array([_score(row, "agatston", place) for place, row in rows]),
        low=np.array([_bound(row, "agatston_low", place) for place, row in rows]),
        high=np.array([_bound(row, "agatston_high", place) for place, row in rows]),
        kinds=column("kind"),
        statuses=column("status"),
        presets=column("preset"),
        models=column("model"),
    )
