"""Scores of fresh phantoms against their truth: kappa, ICC and every case.

    python benchmarks/scoring_phantoms.py --out DIR [--subjects 200] [--methods additive,plain]

Phantoms are made in memory from seeds that no training uses (below 1,000,000), half
cardiac and half chest, aligned and scored as `calcium-score run` would. `--data` takes a
folder written by `calcium-score phantom` instead.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

PLAIN = Path(__file__).resolve().parent.parent / "calcium" / "models" / "training"
"""Folder of the plain network's weights and settings."""

COLUMNS = ("method", "case", "kind", "truth", "score", "category_truth", "category", "seconds")
"""Columns of the table of cases."""


def main() -> None:
    """Score phantoms and print the tables."""
    options = _options()
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    from calcium.categories import risk_category
    from pipelines.model import load_model

    options.out.mkdir(parents=True, exist_ok=True)
    model = load_model(options.model)
    scorers = _scorers(model, options.methods.split(","))
    rows = []
    for case, kind, image, truth in _cases(options):
        transform = model.aligner.align(image).atlas_to_scan
        for method, scorer in scorers.items():
            start = time.perf_counter()
            score = scorer.score(image, transform).agatston
            seconds = time.perf_counter() - start
            categories = (risk_category(truth), risk_category(score))
            values = (method, case, kind, round(truth, 2), round(score, 2), *categories)
            rows.append(dict(zip(COLUMNS, (*values, round(seconds, 3)), strict=True)))
        print(case, rows[-1]["truth"], [r["score"] for r in rows[-len(scorers) :]], flush=True)
    with (options.out / "scoring_phantoms.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    table = _table(rows)
    (options.out / "scoring_phantoms.md").write_text(table, encoding="utf-8")
    print(table)


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


def _scorers(model, methods: list[str]) -> dict:
    """The model's scorer, and the plain network with the same heart."""
    from calcium.scoring import Scorer

    scorers = {}
    for method in methods:
        if method == "plain":
            settings = json.loads((PLAIN / "plain.json").read_text())
            weights = PLAIN / "plain.weights.h5"
            heart = model.heart
            scorers[method] = Scorer.from_settings(
                heart.center_mm, heart.radii_mm, settings, weights
            )
        else:
            scorers[method] = model.scorer
    return scorers


def _cases(options: argparse.Namespace) -> Iterator[tuple]:
    """Name, kind, image and true score of every phantom."""
    if options.data is None:
        from pipelines.phantoms import SHIFTED, STANDARD, make_phantom

        settings = SHIFTED if options.population == "shifted" else STANDARD
        for number in range(options.subjects):
            kind = "chest" if number % 2 else "cardiac"
            phantom = make_phantom(kind, options.seed + number, settings=settings)
            truth = phantom.truth.agatston["agatston-1990"]
            yield f"{kind}-{options.seed + number}", kind, phantom.image, truth
        return
    from pipelines.discovery import find_series
    from pipelines.reading import read_scan

    for folder in sorted(p.parent for p in options.data.glob("*/truth.json")):
        facts = json.loads((folder / "truth.json").read_text())
        (candidate,) = find_series([folder / "series"])
        truth = facts["agatston"]["agatston-1990"]
        yield folder.name, facts["kind"], read_scan(candidate).image, truth


def _table(rows: list[dict]) -> str:
    """Agreement per method and kind, as Markdown."""
    import numpy as np

    from calcium.agreement import (
        confusion_matrix,
        intraclass_correlations,
        linear_weighted_kappa,
        risk_categories,
    )

    lines = [
        "| method | kind | n | linear kappa | ICC(2,1) | same category | zero found zero | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method in sorted({row["method"] for row in rows}):
        for kind in ("cardiac", "chest", "both"):
            part = [r for r in rows if r["method"] == method and kind in (r["kind"], "both")]
            if len(part) < 3:
                continue
            truth, score = (np.array([r[k] for r in part]) for k in ("truth", "score"))
            first, second = risk_categories(truth), risk_categories(score)
            kappa = linear_weighted_kappa(confusion_matrix(first, second))
            ratings = np.stack([truth, score], axis=1)
            icc = intraclass_correlations(ratings).icc_2_1.value
            zero = first == 0
            specific = float((second[zero] == 0).mean()) if zero.any() else float("nan")
            seconds = float(np.median([r["seconds"] for r in part]))
            lines.append(
                f"| {method} | {kind} | {len(part)} | {kappa:.3f} | {icc:.3f} "
                f"| {(first == second).mean():.1%} | {specific:.1%} | {seconds:.2f} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
