"""The scoring networks side by side on cases of known score, and their agreement."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from benchmarks.results_table import write_results
from calcium.agreement import (
    confusion_matrix,
    intraclass_correlations,
    linear_weighted_kappa,
    risk_categories,
)
from calcium.categories import risk_category
from calcium.scoring import Scorer
from pipelines.model import Model, load_model

PLAIN = Path(__file__).resolve().parent.parent / "calcium" / "models" / "training"
"""Folder of the plain network's weights and settings."""


@dataclass(frozen=True)
class Case:
    """One scan of known score.

    Args:
        name: Name for the table.
        kind: `cardiac` or `chest`.
        image: Attenuation, HU.
        truth: Reference Agatston score.
    """

    name: str
    kind: str
    image: sitk.Image
    truth: float


def common_options(description: str) -> argparse.ArgumentParser:
    """Options that every scoring benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="model folder, by default the shipped one")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--methods", default=",".join(available_methods()))
    return parser


def available_methods() -> tuple[str, ...]:
    """The methods that there are weights for."""
    return ("additive", "plain") if (PLAIN / "plain.json").exists() else ("additive",)


def run_benchmark(name: str, cases: Iterable[Case], options: argparse.Namespace) -> None:
    """Score the cases, write and print the tables.

    Args:
        name: Name of the benchmark.
        cases: What to score.
        options: Values of `common_options`.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = load_model(options.model)
    rows = score_cases(cases, model, scorers_of(model, options.methods.split(",")))
    if not rows:
        raise SystemExit("no scan was found that can be scored")
    write_results(name, rows, options.out)
    table = agreement(rows)
    if table:
        print(write_results(f"{name}_agreement", table, options.out))


def scorers_of(model: Model, methods: Sequence[str]) -> dict[str, Scorer]:
    """The model's own scorer as `additive`, and the plain network with the same heart."""
    scorers = {}
    for method in methods:
        if method == "plain":
            if method not in available_methods():
                raise SystemExit(
                    "the plain network has no weights here: train it by `calcium-score train "
                    "scoring --network plain`, or leave it out with --methods additive"
                )
            settings = json.loads((PLAIN / "plain.json").read_text(encoding="utf-8"))
            weights = PLAIN / "plain.weights.h5"
            scorers[method] = Scorer.from_settings(model.heart, settings, weights)
        elif method == "additive":
            scorers[method] = model.scorer
        else:
            raise SystemExit(f"--methods knows additive and plain. Received: {method}")
    return scorers


def score_cases(
    cases: Iterable[Case], model: Model, scorers: Mapping[str, Scorer]
) -> list[dict[str, object]]:
    """One row per case and method; the alignment is that of the model."""
    rows: list[dict[str, object]] = []
    for case in cases:
        start = time.perf_counter()
        transform = model.aligner.align(case.image).atlas_to_scan
        aligned = time.perf_counter() - start
        for method, scorer in scorers.items():
            start = time.perf_counter()
            score = scorer.score(case.image, transform).agatston
            rows.append(
                {
                    "method": method,
                    "case": case.name,
                    "kind": case.kind,
                    "truth": round(case.truth, 2),
                    "score": round(score, 2),
                    "category_truth": risk_category(case.truth),
                    "category": risk_category(score),
                    "align_seconds": round(aligned, 3),
                    "seconds": round(time.perf_counter() - start, 3),
                }
            )
        scores = [row["score"] for row in rows[-len(scorers) :]]
        print(case.name, round(case.truth, 1), scores, flush=True)
    return rows


def agreement(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Agreement per method and kind, kinds of fewer than three cases left out."""
    table: list[dict[str, object]] = []
    for method in dict.fromkeys(row["method"] for row in rows):
        for kind in ("cardiac", "chest", "both"):
            part = [r for r in rows if r["method"] == method and kind in (r["kind"], "both")]
            if len(part) < 3:
                continue
            truth, score = (np.array([r[k] for r in part], float) for k in ("truth", "score"))
            first, second = risk_categories(truth), risk_categories(score)
            zero = first == 0
            table.append(
                {
                    "method": method,
                    "kind": kind,
                    "n": len(part),
                    "linear kappa": linear_weighted_kappa(confusion_matrix(first, second)),
                    "ICC(2,1)": intraclass_correlations(np.stack([truth, score], 1)).icc_2_1.value,
                    "same category": float((first == second).mean()),
                    "within one": float((np.abs(first - second) <= 1).mean()),
                    "zero found zero": float((second[zero] == 0).mean()) if zero.any() else None,
                    "seconds": float(np.median([float(str(r["seconds"])) for r in part])),
                }
            )
    return table
