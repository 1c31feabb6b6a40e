"""The scoring networks side by side on cases of known score, and their agreement."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from benchmarks.results_table import write_csv, write_results
from calcium.agreement import (
    confusion_matrix,
    intraclass_correlations,
    linear_weighted_kappa,
    risk_categories,
)
from calcium.calibration import coverage
from calcium.categories import risk_category
from calcium.lesions import Lesion
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
        territories: Its parts by coronary territory, where they are known.
    """

    name: str
    kind: str
    image: sitk.Image
    truth: float
    territories: Mapping[str, float] = field(default_factory=dict)


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
    use_threads(options.threads)
    model = load_model(options.model)
    rows = score_cases(cases, model, scorers_of(model, options.methods.split(",")))
    if not rows:
        raise SystemExit("no scan was found that can be scored")
    write_results(name, rows, options.out)
    write_score_tables(name, rows, options.out)
    table = agreement(rows)
    if table:
        print(write_results(f"{name}_agreement", table, options.out))


def use_threads(count: int) -> None:
    """Let TensorFlow compute with so many threads; before anything is computed."""
    os.environ.setdefault("OMP_NUM_THREADS", str(count))
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def write_score_tables(name: str, rows: Sequence[Mapping[str, object]], out: Path) -> None:
    """Write what the first method predicts, and the truth, for `evaluate` and `train calibration`.

    Args:
        name: Beginning of the file names.
        rows: Of `score_cases`, at least one.
        out: Folder.
    """
    first = [row for row in rows if row["method"] == rows[0]["method"]]
    predicted = [
        {
            "scan_id": row["case"],
            "kind": row["kind"],
            "agatston": row["score"],
            "agatston_low": row["low"],
            "agatston_high": row["high"],
        }
        for row in first
    ]
    reference = [{"scan_id": row["case"], "agatston": row["truth"]} for row in first]
    write_csv(out / f"{name}_predicted.csv", predicted)
    write_csv(out / f"{name}_reference.csv", reference)


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
            answer = scorer.score(case.image, transform, kind=case.kind)
            seconds = time.perf_counter() - start
            score = answer.agatston
            low, high = answer.agatston_low, answer.agatston_high
            rows.append(
                {
                    "method": method,
                    "case": case.name,
                    "kind": case.kind,
                    "truth": round(case.truth, 2),
                    "score": round(score, 2),
                    "low": None if low is None else round(low, 2),
                    "high": None if high is None else round(high, 2),
                    "category_truth": risk_category(case.truth),
                    "category": risk_category(score),
                    **_territory_points(case, answer.lesions),
                    "align_seconds": round(aligned, 3),
                    "seconds": round(seconds, 3),
                }
            )
        scores = [row["score"] for row in rows[-len(scorers) :]]
        print(case.name, round(case.truth, 1), scores, flush=True)
    return rows


def _territory_points(case: Case, lesions: Sequence[Lesion]) -> dict[str, float | None]:
    """Points that may be compared by territory, and those of them in the right one.

    Of every territory the smaller of true and predicted score is right; what was missed or
    counted falsely says nothing of territories.
    """
    if not case.territories or any(lesion.territory is None for lesion in lesions):
        return {"located": None, "located_right": None}
    predicted = dict.fromkeys(case.territories, 0.0)
    for lesion in lesions:
        predicted[str(lesion.territory)] += lesion.agatston
    right = sum(min(predicted[name], true) for name, true in case.territories.items())
    located = min(sum(predicted.values()), sum(case.territories.values()))
    return {"located": round(located, 2), "located_right": round(right, 2)}


def agreement(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Agreement per method and kind, kinds of fewer than three cases left out."""
    table: list[dict[str, object]] = []
    for method in dict.fromkeys(row["method"] for row in rows):
        for kind in ("cardiac", "chest", "both"):
            part = [r for r in rows if r["method"] == method and kind in (r["kind"], "both")]
            if len(part) < 3:
                continue
            table.append(
                {
                    "method": method,
                    "kind": kind,
                    **agreement_of(part),
                    "in 90 % interval": _share_inside(part),
                    "territory": _share_located(part),
                    "seconds": float(np.median([float(str(r["seconds"])) for r in part])),
                }
            )
    return table


def agreement_of(rows: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Agreement of `score` with `truth`, and how many rows there are.

    Args:
        rows: At least three.
    """
    truth, score = (np.array([row[k] for row in rows], float) for k in ("truth", "score"))
    first, second = risk_categories(truth), risk_categories(score)
    zero = first == 0
    return {
        "n": len(rows),
        "linear kappa": linear_weighted_kappa(confusion_matrix(first, second)),
        "ICC(2,1)": intraclass_correlations(np.stack([truth, score], 1)).icc_2_1.value,
        "same category": float((first == second).mean()),
        "within one": float((np.abs(first - second) <= 1).mean()),
        "zero found zero": float((second[zero] == 0).mean()) if zero.any() else None,
    }


def _share_inside(rows: Sequence[Mapping[str, object]]) -> float | None:
    """Share of true scores inside their interval, if all have one."""
    if any(row["low"] is None for row in rows):
        return None
    intervals = [(float(str(row["low"])), float(str(row["high"]))) for row in rows]
    return coverage(intervals, [float(str(row["truth"])) for row in rows])


def _share_located(rows: Sequence[Mapping[str, object]]) -> float | None:
    """Share of the score that lies in the right territory."""
    known = [row for row in rows if row["located"] is not None]
    total = sum(float(str(row["located"])) for row in known)
    right = sum(float(str(row["located_right"])) for row in known)
    return right / total if total > 0 else None
