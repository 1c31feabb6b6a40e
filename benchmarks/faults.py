"""What `calcium-score run` makes of damaged, odd and mislabeled series.

    python benchmarks/faults.py --data FOLDER --out DIR [--model FOLDER] [--methods NAME,NAME]

Every DICOM series in the folder is copied once for each of the faults of `fault_kinds.py`, each
copy with UIDs of its own and the fault, and one run scores all copies of it. A harmless change
must leave the score as it is, an unusable series must be refused with the right reason, and what
the headers hide must at least be noticed: a wrong number that looks right is the worst answer.
Lost rows and patients' names in the output are counted, too.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pydicom
from fault_kinds import FAULTS, UNTOUCHED, Fault
from pydicom.uid import generate_uid
from results_table import write_results
from series_changes import Files, encoded

from pipelines.discovery import SeriesCandidate, find_series

IDENTITY = "Nobody^Known"
"""Name and number of the patient in every copy; they must turn up nowhere."""

VERDICTS = (
    "as expected",
    "other result",
    "other reason",
    "not refused",
    "unnoticed",
    "refused in vain",
    "failed",
    "lost",
)
"""How a copy can end: well, or in one of the other ways."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of DICOM series")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="model folder, by default the shipped one")
    parser.add_argument("--methods", help="names of faults, comma-separated; by default all")
    options = parser.parse_args()
    wanted = options.methods.split(",") if options.methods else None
    faults = [fault for fault in FAULTS if wanted is None or fault.name in wanted]
    series = [c for c in find_series([options.data]) if c.kind == "dicom" and c.modality == "CT"]
    if not faults or not series:
        raise SystemExit("there is no such fault" if series else "there is no DICOM series of CT")
    rows, named = [], 0
    for number, candidate in enumerate(series):
        work = options.out / f"series-{number:03d}"
        print(f"{candidate.source}: {len(faults)} faults", file=sys.stderr, flush=True)
        found = run_copies(candidate, [UNTOUCHED, *faults], work, options.model)
        named += files_naming_the_patient(work / "run")
        rows += verdicts(candidate.source, faults, found)
        shutil.rmtree(work)
    notes = [
        f"{len(series)} series, {len(rows)} copies. Files that name the patient: {named}.",
    ]
    print(write_results("faults", rows, options.out, table=by_fault(faults, rows), notes=notes))


def run_copies(
    candidate: SeriesCandidate, faults: Sequence[Fault], work: Path, model: Path | None
) -> dict[str, list[dict[str, str]]]:
    """Rows of `scores.csv` of every copy, by the folder of its fault."""
    shutil.rmtree(work, ignore_errors=True)
    originals = read_series(candidate)
    for fault in faults:
        write_copy(originals, fault, work / "copies" / fault.folder)
    command = [sys.executable, "-m", "pipelines", "run", str(work / "copies")]
    command += ["--out", str(work / "run"), *(["--model", str(model)] if model else [])]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode not in (0, 3):
        raise SystemExit(f"the run ended with {ended.returncode}:\n{ended.stderr[-2000:]}")
    with (work / "run" / "scores.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    found: dict[str, list[dict[str, str]]] = {fault.folder: [] for fault in faults}
    for row in rows:
        found[Path(row["source"]).parts[1].split(" [")[0]].append(row)  # `FOLDER [some files]`
    return found


def read_series(candidate: SeriesCandidate) -> Files:
    """Datasets of a series from feet to head, under plain names."""
    datasets = [pydicom.dcmread(path) for path in candidate.files]
    datasets.sort(key=lambda item: float(item.ImagePositionPatient[2]))
    return {f"IM{number:04d}.dcm": item for number, item in enumerate(datasets, start=1)}


def write_copy(originals: Files, fault: Fault, folder: Path) -> None:
    """Write a series with a fault, under UIDs and a patient's name of its own."""
    files = {name: deepcopy(item) for name, item in originals.items()}
    series_uid, study_uid = generate_uid(), generate_uid()
    for item in files.values():
        item.SeriesInstanceUID, item.StudyInstanceUID = series_uid, study_uid
        item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        item.PatientName = item.PatientID = IDENTITY
    fault.change(files)
    folder.mkdir(parents=True)
    for name, item in files.items():
        (folder / name).write_bytes(item if isinstance(item, bytes) else encoded(item))


def verdicts(
    source: str, faults: Sequence[Fault], found: Mapping[str, Sequence[Mapping[str, str]]]
) -> list[dict[str, Any]]:
    """A row per fault: what came of it, and whether that is right."""
    (untouched,) = found[UNTOUCHED.folder]
    rows = []
    for fault in faults:
        own = found[fault.folder]
        row = next((r for r in own if r["status"] in ("ok", "review")), own[0] if own else {})
        rows.append(
            {
                "method": fault.name,
                "case": source,
                "expected": " or ".join(fault.codes) or fault.expected,
                "verdict": verdict(fault, row, untouched),
                "status": row.get("status"),
                "reasons": row.get("reasons"),
                "agatston": row.get("agatston"),
                "untouched": untouched["agatston"],
                "seconds": row.get("seconds"),
            }
        )
    return rows


def verdict(fault: Fault, row: Mapping[str, str], untouched: Mapping[str, str]) -> str:
    """One of `VERDICTS`.

    Args:
        fault: What was done to the copy.
        row: Of the copy in `scores.csv`; empty if there is none.
        untouched: That of the copy without a fault.
    """
    if not row:
        return "lost"
    if row["status"] == "failed":
        return "failed"
    refused = row["status"] == "rejected"
    if fault.expected == "same":
        if refused and untouched["status"] != "rejected":
            return "refused in vain"
        same = all(row[c] == untouched[c] for c in ("status", "reasons", "agatston", "n_lesions"))
        return "as expected" if same else "other result"
    codes, usual = (set(filter(None, r["reasons"].split(";"))) for r in (row, untouched))
    new = codes - usual
    if fault.expected == "refused" and refused:
        return "as expected" if codes & set(fault.codes) else "other reason"
    if fault.expected == "refused":
        return "not refused" if new else "unnoticed"
    told = codes & set(fault.codes) if fault.codes else new or refused
    return "as expected" if told else "unnoticed"


def files_naming_the_patient(folder: Path) -> int:
    """Files of an output whose name or content holds the patient's name."""
    return sum(
        IDENTITY in path.name or IDENTITY.encode() in path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    )


def by_fault(faults: Sequence[Fault], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A line per fault: how often it ended in which way."""
    table = []
    for fault in faults:
        own = [row for row in rows if row["method"] == fault.name]
        counts = {kind: sum(row["verdict"] == kind for row in own) for kind in VERDICTS}
        seconds = [float(row["seconds"]) for row in own if row["seconds"]]
        table.append(
            {
                "fault": fault.name,
                "expected": own[0]["expected"],
                "series": len(own),
                **{kind: count or None for kind, count in counts.items()},
                "median s": float(np.median(seconds)) if seconds else None,
            }
        )
    return table


if __name__ == "__main__":
    main()
