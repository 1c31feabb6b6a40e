"""Scores of fresh phantoms against their truth: kappa, ICC and every case.

    python benchmarks/scoring_phantoms.py --out DIR [--subjects 200] [--methods additive,plain]

Phantoms are made in memory from seeds that no training uses (below 1,000,000), half
cardiac and half chest, aligned and scored as `calcium-score run` would. `--data` takes a
folder written by `calcium-score phantom` instead.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.scoring_methods import Case, common_options, run_benchmark
from calcium.territories import TERRITORIES, TERRITORY_OF_VESSEL
from pipelines.discovery import find_series
from pipelines.phantoms import SHIFTED, STANDARD, make_phantom
from pipelines.reading import read_scan


def main() -> None:
    """Score phantoms and print the tables."""
    parser = common_options(__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="cohort of `calcium-score phantom`")
    parser.add_argument("--subjects", type=int, default=200)
    parser.add_argument("--seed", type=int, default=500_000, help="first phantom seed")
    parser.add_argument("--population", choices=["standard", "shifted"], default="standard")
    options = parser.parse_args()
    run_benchmark("scoring_phantoms", _cases(options), options)


def _cases(options: argparse.Namespace) -> Iterator[Case]:
    """Every phantom."""
    if options.data is None:
        settings = SHIFTED if options.population == "shifted" else STANDARD
        for number in range(options.subjects):
            kind = "chest" if number % 2 else "cardiac"
            phantom = make_phantom(kind, options.seed + number, settings=settings)
            truth = phantom.truth.agatston["agatston-1990"]
            parts = territories(phantom.truth.by_vessel)
            yield Case(f"{kind}-{options.seed + number}", kind, phantom.image, truth, parts)
        return
    for folder in sorted(p.parent for p in options.data.glob("*/truth.json")):
        facts = json.loads((folder / "truth.json").read_text())
        (candidate,) = find_series([folder / "series"])
        truth = facts["truth"]["agatston"]["agatston-1990"]
        parts = territories(facts["truth"]["by_vessel"])
        yield Case(folder.name, facts["kind"], read_scan(candidate).image, truth, parts)


def territories(by_vessel: Mapping[str, float]) -> dict[str, float]:
    """Scores of territories from those of vessels."""
    parts = dict.fromkeys(TERRITORIES, 0.0)
    for vessel, score in by_vessel.items():
        parts[TERRITORY_OF_VESSEL[vessel]] += score
    return parts


if __name__ == "__main__":
    main()
