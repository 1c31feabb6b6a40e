"""The same patients scanned again, one thing changed: by how much does the score change?

    python benchmarks/scoring_robustness.py --out DIR [--subjects 12] [--model FOLDER]

Phantoms of seeds that no training uses are scanned once, and again with other start offset,
slices, kernel, noise, field of view, pose and tube voltage (`pipelines/phantoms/rescan.py`).
The second scan's own true score is in the table, too: where it changes, a perfect reader's
answer does as well. ICC and category are those of the second scan against the first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.results_table import write_results
from benchmarks.scoring_methods import Case, common_options, use_threads
from calcium.agreement import intraclass_correlations, risk_categories
from pipelines.model import load_model
from pipelines.phantoms import STANDARD
from pipelines.phantoms.phantom import Patient
from pipelines.phantoms.rescan import Rescan

FIRST_SEED = 650_000
"""Seed of the first phantom."""

FIRST = "first scan"

RESCANS: dict[str, Rescan] = {
    "noise alone": Rescan(),
    "start offset": Rescan(start_offset_mm=1.3),
    "turned 10 deg": Rescan(rotation_deg=10.0),
    "turned -10 deg": Rescan(rotation_deg=-10.0),
    "turned 15 deg": Rescan(rotation_deg=15.0),
    "shifted 20 mm": Rescan(translation_mm=(14.0, 10.0, -10.0)),
    "slices 1.25 mm": Rescan(slice_spacing_mm=1.25),
    "slices 5 mm": Rescan(slice_spacing_mm=5.0),
    "slices 8 mm": Rescan(slice_spacing_mm=8.0),
    "soft kernel": Rescan(kernel="soft"),
    "sharp kernel": Rescan(kernel="sharp"),
    "half the dose": Rescan(noise_factor=1.41),
    "quarter of the dose": Rescan(noise_factor=2.0),
    "field of view 300 mm": Rescan(field_of_view_mm=300.0),
    "100 kV": Rescan(kvp=100),
    "140 kV": Rescan(kvp=140),
}

TEST_RETEST = ("noise alone", "start offset", "turned 10 deg", "turned -10 deg")
"""What a patient who is scanned again differs by."""


def main() -> None:
    """Scan, score and print the table."""
    parser = common_options(__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=12)
    parser.add_argument("--seed", type=int, default=FIRST_SEED, help="first phantom seed")
    options = parser.parse_args()
    use_threads(options.threads)
    model = load_model(options.model)
    rows = []
    for name, case in _cases(options.seed, options.subjects):
        transform = model.aligner.align(case.image).atlas_to_scan
        score = model.scorer.score(case.image, transform, kind=case.kind).agatston
        rows.append(
            {
                "case": case.name,
                "kind": case.kind,
                "scan": name,
                "truth": round(case.truth, 2),
                "score": round(score, 2),
            }
        )
        print(case.name, name, rows[-1]["truth"], rows[-1]["score"], flush=True)
    write_results("scoring_robustness_scans", rows, options.out)
    print(write_results("scoring_robustness", changes(rows), options.out))


def _cases(seed: int, subjects: int) -> Iterator[tuple[str, Case]]:
    """Every scan of every patient, the first one first."""
    for number in range(subjects):
        kind = "chest" if number % 2 else "cardiac"
        name = f"{kind}-{seed + number}"
        patient = Patient.draw(kind, seed + number, STANDARD)
        for scan, change in {FIRST: Rescan(noise_seed=0), **RESCANS}.items():
            phantom = patient.scan(change)
            yield scan, Case(name, kind, phantom.image, phantom.truth.agatston["agatston-1990"])


def changes(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Every kind of second scan against the first, and the test-retest ones together.

    Args:
        rows: `case`, `scan`, `truth` and `score` of every scan.
    """
    by_scan: dict[str, dict[str, Mapping[str, object]]] = {}
    for row in rows:
        by_scan.setdefault(str(row["scan"]), {})[str(row["case"])] = row
    first = by_scan.pop(FIRST)
    pairs = {
        name: [(first[case], row) for case, row in scans.items()] for name, scans in by_scan.items()
    }
    table = [_change(name, found) for name, found in pairs.items()]
    together = [pair for name in TEST_RETEST for pair in pairs.get(name, [])]
    if together:
        table.append(_change("test-retest: noise, offset, 10 deg", together))
    return table


def _change(
    name: str, pairs: Sequence[tuple[Mapping[str, object], Mapping[str, object]]]
) -> dict[str, object]:
    score, truth = (
        np.array([[float(str(scan[key])) for scan in pair] for pair in pairs])
        for key in ("score", "truth")
    )
    return {
        "second scan": name,
        "n": len(pairs),
        "ICC(2,1)": intraclass_correlations(score).icc_2_1.value if len(pairs) > 2 else None,
        "same category": _same_category(score),
        "median change": _median_change(score),
        "same category, truth": _same_category(truth),
        "median change, truth": _median_change(truth),
    }


def _same_category(scores: np.ndarray) -> float:
    first, second = (risk_categories(column) for column in scores.T)
    return float((first == second).mean())


def _median_change(scores: np.ndarray) -> float | None:
    """Median of the change relative to the first score, where that is not zero."""
    some = scores[:, 0] > 0
    return float(np.median(scores[some, 1] / scores[some, 0] - 1.0)) if some.any() else None


if __name__ == "__main__":
    main()
