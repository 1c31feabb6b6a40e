"""The demonstration: a small cohort of phantoms, and their truth beside a prediction."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.phantoms.writing import CohortRow, write_cohort
from pipelines.results import ScanResult, json_text
from registration.atomic_files import write_atomically

COHORT_NAME = "cohort.json"
"""What the cohort was made of; without it the cohort is not complete and is made again."""


@dataclass(frozen=True, slots=True)
class DemoPhantom:
    """One phantom of the demonstration.

    Args:
        truth: What is known of it.
        series: Folder of its DICOM series.
    """

    truth: CohortRow
    series: Path


def prepare_cohort(folder: Path, *, subjects: int, seed: int) -> tuple[DemoPhantom, ...]:
    """Write the phantoms, or take those that an earlier call with the same seed finished.

    Args:
        folder: Where they are, one folder each.
        subjects: How many, half cardiac and half chest.
        seed: What they are drawn from.
    """
    recipe = {"subjects": subjects, "seed": seed}
    record = folder / COHORT_NAME
    rows = _finished(record, recipe)
    if rows is None:
        record.unlink(missing_ok=True)
        rows = write_cohort(folder, subjects=subjects, seed=seed)
        values = {**recipe, "phantoms": [asdict(row) for row in rows]}
        write_atomically(record, json_text(values))
    return tuple(DemoPhantom(row, folder / row.name / "series") for row in rows)


def agreement_lines(cohort: Sequence[DemoPhantom], results: Sequence[ScanResult]) -> Iterator[str]:
    """Table of truth beside prediction, one line per phantom, and the agreement.

    Args:
        cohort: The phantoms.
        results: Their results, in the same order.

    Raises:
        ValueError: If there is not one result for each phantom.
    """
    if len(cohort) != len(results):
        raise ValueError(
            "every phantom must have one result. "
            f"Received: {len(cohort)} phantoms, {len(results)} results"
        )
    head = f"{'phantom':<15}{'true Agatston':>14}  {'category':<9}"
    yield f"{head}{'predicted':>10}  category  status"
    same = 0
    for phantom, result in zip(cohort, results, strict=True):
        truth = phantom.truth
        predicted = "-" if result.agatston is None else f"{result.agatston:.1f}"
        category = result.risk_category or "-"
        same += category == truth.category
        reasons = f" {result.reasons}" if result.reasons else ""
        yield (
            f"{truth.name:<15}{truth.agatston:>14.1f}  {truth.category:<9}{predicted:>10}"
            f"  {category:<9} {result.status}{reasons}"
        )
    yield f"Same category in {same} of {len(cohort)}."


def _finished(record: Path, recipe: dict[str, int]) -> list[CohortRow] | None:
    try:
        values = json.loads(record.read_text(encoding="utf-8"))
        if {key: values[key] for key in recipe} != recipe:
            return None
        return [CohortRow(**row) for row in values["phantoms"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
