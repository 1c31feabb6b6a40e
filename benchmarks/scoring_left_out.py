"""Scores of real patients that were left out of the training, with calcium put into them.

    calcium-score train scoring SCANS --out MODEL --work FOLD --hold-out NAME ... (once per fold)
    python benchmarks/scoring_left_out.py FOLD... --out DIR [--phantoms PHANTOMS]

Every FOLD is the `--work` folder of a training that left patients out; their simulated scans
have chosen neither the step nor the counting rule. What is true of a scan is what was put into
it, and the patient's own calcium as annotated. Their own scans, with nothing put into them, are
told apart. Atlas and alignment are those of MODEL.

Predicted and true scores go to `calibration_predicted.csv` and `calibration_reference.csv`, for
`calcium-score train calibration`; PHANTOMS is the `--out` folder of `scoring_phantoms.py`, whose
scans come first in them.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results_table import write_csv, write_results
from benchmarks.scoring_methods import agreement_of
from pipelines.scoring_scans import UNCHANGED

HELD_OUT = "*/held_out.csv"
"""Scores of a fold, in the folder of its network."""


def main() -> None:
    """Pool the folds and print the agreement of every patient and of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folds", nargs="+", type=Path, metavar="FOLD")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--phantoms", type=Path, help="results of scoring_phantoms.py")
    options = parser.parse_args()
    rows = [row for fold in options.folds for path in fold.glob(HELD_OUT) for row in read(path)]
    if not rows:
        raise SystemExit("no FOLD holds a held_out.csv: train with --hold-out first")
    own = [row for row in rows if str(row["scan"]).endswith(UNCHANGED)]
    simulated = [row for row in rows if row not in own]
    write_results("scoring_left_out_scans", simulated, options.out)
    print(write_results("scoring_left_out", by_patient(simulated), options.out))
    predicted, reference = calibration_tables(simulated, options.phantoms)
    write_csv(options.out / "calibration_predicted.csv", predicted)
    write_csv(options.out / "calibration_reference.csv", reference)
    if own:
        print(write_results("scoring_left_out_unchanged", own, options.out))


def read(path: Path) -> list[dict[str, object]]:
    """Scans of one fold."""
    with path.open(newline="", encoding="utf-8") as stream:
        return [
            {
                "scan": row["scan_id"],
                "patient": row["group"],
                "kind": row["kind"],
                "truth": float(row["truth"]),
                "score": float(row["agatston"]),
                "found": float(row["found"]),
            }
            for row in csv.DictReader(stream)
        ]


def calibration_tables(
    rows: Sequence[Mapping[str, object]], phantoms: Path | None
) -> tuple[list[Mapping[str, object]], list[Mapping[str, object]]]:
    """Predicted and true scores as `train calibration` reads them.

    Args:
        rows: Scans of left-out patients.
        phantoms: Folder with the score tables of `scoring_phantoms.py`, which come first.
    """
    predicted: list[Mapping[str, object]] = []
    reference: list[Mapping[str, object]] = []
    if phantoms is not None:
        for table, ending in ((predicted, "predicted"), (reference, "reference")):
            path = phantoms / f"scoring_phantoms_{ending}.csv"
            with path.open(newline="", encoding="utf-8") as stream:
                columns = ("scan_id", "kind", "agatston")
                for row in csv.DictReader(stream):
                    table.append({name: row[name] for name in columns if name in row})
    predicted += [
        {"scan_id": row["scan"], "kind": row["kind"], "agatston": row["score"]} for row in rows
    ]
    reference += [{"scan_id": row["scan"], "agatston": row["truth"]} for row in rows]
    return predicted, reference


def by_patient(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Agreement of every patient, of either kind of scan, and of all."""
    patients = sorted({str(row["patient"]) for row in rows})
    groups = [(name, [r for r in rows if r["patient"] == name]) for name in patients]
    groups += [(kind, [r for r in rows if r["kind"] == kind]) for kind in ("cardiac", "chest")]
    groups.append(("all", list(rows)))
    table = []
    for name, part in groups:
        if not part:
            continue
        total = sum(float(str(row["truth"])) for row in part)
        found = sum(float(str(row["found"])) for row in part)
        score = sum(float(str(row["score"])) for row in part)
        table.append(
            {
                "patient or kind": name,
                **agreement_of(part),
                "points found": found / total if total else None,
                "of the score not coronary": (score - found) / score if score else None,
            }
        )
    return table


if __name__ == "__main__":
    main()
