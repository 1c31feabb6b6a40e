"""Scores of real scans against reference scores: kappa, ICC and every scan.

    python benchmarks/scoring_real.py --data FOLDER --truth scans.csv --out DIR [--model FOLDER]

`--truth` is a CSV with the columns `scan,agatston`; `scan` is a path below the folder, a series'
folder or a volume file (with or without its suffix). Every scan is read, aligned and scored as
`calcium-score run` would; one that cannot be read, or that the table does not name, is said so on
stderr and left out.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.scoring_methods import Case, common_options, run_benchmark
from pipelines.discovery import find_series
from pipelines.reading import read_scan
from pipelines.reasons import UnusableSeries
from pipelines.run import scan_kind


def main() -> None:
    """Score scans and print the tables."""
    parser = common_options(__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--truth", type=Path, required=True)
    options = parser.parse_args()
    run_benchmark("scoring_real", _cases(options.data, read_truth(options.truth)), options)


def read_truth(path: Path) -> dict[str, float]:
    """Reference scores by scan."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        if not {"scan", "agatston"} <= set(reader.fieldnames or ()):
            raise SystemExit(f"{path.name} needs the columns scan and agatston")
        return {row["scan"].strip("/ "): float(row["agatston"]) for row in reader}


def truth_of(source: str, truth: Mapping[str, float]) -> str | None:
    """The name in the table that a series belongs to, the longest that fits."""
    place = source.strip("/")
    fits = [
        name
        for name in truth
        if place == name or place.startswith((f"{name}/", f"{name}.")) or place.endswith(f"/{name}")
    ]
    return max(fits, key=len, default=None)


def _cases(data: Path, truth: Mapping[str, float]) -> Iterator[Case]:
    """Every scan that the table names and that can be read."""
    missing = dict(truth)
    for candidate in find_series([data]):
        first = candidate.files[0]
        place = first.relative_to(data) if first.is_relative_to(data) else Path(candidate.source)
        name = truth_of(str(place), truth) or truth_of(candidate.source, truth)
        if name is None:
            print(f"{candidate.source}: not in the table", file=sys.stderr)
            continue
        missing.pop(name, None)
        try:
            scan = read_scan(candidate)
        except UnusableSeries as reason:
            print(f"{name}: left out, {reason}", file=sys.stderr)
            continue
        yield Case(name, scan_kind(scan.grid), scan.image, truth[name])
    for name in missing:
        print(f"{name}: in the table but not found", file=sys.stderr)


if __name__ == "__main__":
    main()
