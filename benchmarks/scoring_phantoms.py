"""Scores of fresh phantoms against their truth: kappa, ICC and every case.

    python benchmarks/scoring_phantoms.py --out DIR [--subjects 200] [--methods additive,plain]

Phantoms are made in memory from seeds that no training uses (below 1,000,000), half
cardiac and half chest, aligned and scored as `calcium-score run` would. `--data` takes a
folder written by `calcium-score phantom` instead.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main() -> None:
    """Score phantoms and print the tables."""
    options = _options()
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    from benchmarks.results_table import write_results
    from benchmarks.scoring_methods import agreement, score_cases, scorers_of
    from pipelines.model import load_model

    model = load_model(options.model)
    rows = score_cases(_cases(options), model, scorers_of(model, options.methods.split(",")))
    write_results("scoring_phantoms", rows, options.out)
    print(write_results("scoring_phantoms_agreement", agreement(rows), options.out))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="cohort of `calcium-score phantom`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="model folder, by default the shipped one")
    parser.add_argument("--subjects", type=int, default=200)
    parser.add_argument("--seed", type=int, default=500_000, help="first phantom seed")
    parser.add_argument("--population", choices=["standard", "shifted"], default="standard")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--methods", default="additive,plain")
    return parser.parse_args()


def _cases(options: argparse.Namespace) -> Iterator:
    """Every phantom."""
    from benchmarks.scoring_methods import Case

    if options.data is None:
        from pipelines.phantoms import SHIFTED, STANDARD, make_phantom

        settings = SHIFTED if options.population == "shifted" else STANDARD
        for number in range(options.subjects):
            kind = "chest" if number % 2 else "cardiac"
            phantom = make_phantom(kind, options.seed + number, settings=settings)
            truth = phantom.truth.agatston["agatston-1990"]
            yield Case(f"{kind}-{options.seed + number}", kind, phantom.image, truth)
        return
    from pipelines.discovery import find_series
    from pipelines.reading import read_scan

    for folder in sorted(p.parent for p in options.data.glob("*/truth.json")):
        facts = json.loads((folder / "truth.json").read_text())
        (candidate,) = find_series([folder / "series"])
        truth = facts["agatston"]["agatston-1990"]
        yield Case(folder.name, facts["kind"], read_scan(candidate).image, truth)


if __name__ == "__main__":
    main()
