"""Left-out patients with calcium put into them by a setting that no training has used.

    python benchmarks/scoring_insertions.py FOLDER --models MODEL... --out DIR [--insertions 40]

Every MODEL comes of `calcium-score train scoring --hold-out NAME ...`; it scores the annotated
scans of FOLDER that it names as held out. A quarter of the scans of each get no calcium. Unlike
in trainings plaque lies on courses alone that the annotator saw, fewer plaques are faint, more
patients have many, and anatomies are changed less: `SETTING`. Courses that were only guessed stay
free of distractors, as nobody knows whether calcium there is coronary. True is what was put in, and
the patient's own calcium as annotated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results_table import write_results
from benchmarks.scoring_left_out import by_patient
from benchmarks.scoring_methods import PLAIN, use_threads
from calcium.simulation.generator import GeneratorOptions

SETTING = GeneratorOptions(
    native_share=0.3,
    faint_share=0.3,
    burden_shares=(0.2, 0.2, 0.25, 0.2, 0.15),
    deformation_strength=0.7,
    guessed_courses=False,
)
"""Of the calcium; `zero_share` is decided per scan."""

ZERO_EVERY = 4
"""One in so many scans has no calcium put into it."""

ANNOTATIONS = PLAIN / "annotations"


def main() -> None:
    """Insert, score and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", type=Path, nargs="+", required=True, metavar="MODEL")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, default=ANNOTATIONS)
    parser.add_argument("--insertions", type=int, default=40, help="per patient")
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    use_threads(options.threads)
    rows = [row for folder in options.models for row in rows_of(folder, options)]
    if not rows:
        raise SystemExit("no MODEL names a scan of FOLDER as held out")
    write_results("scoring_insertions_scans", rows, options.out)
    print(write_results("scoring_insertions", by_patient(rows), options.out))


def rows_of(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Outcomes of the patients that a model has not seen."""
    from calcium.lattice_scan import lattice_scan
    from calcium.simulation.generator import simulate_scan
    from calcium.validation import additive_outcome, lattice_attention
    from pipelines.model import load_model
    from pipelines.scoring_scans import find_backgrounds

    model = load_model(folder)
    scorer = model.scorer

    def predict(inputs):
        return scorer.predictor.predict(inputs, batch_size=len(inputs))

    left_out = held_out(model.description)
    for source in find_backgrounds([options.folder], options.annotations, model.aligner):
        if source.name not in left_out:
            continue
        background = source.read()
        for number, setting in enumerate(settings(options.insertions)):
            seed = (options.seed, crc32(source.name.encode()), number)
            made = simulate_scan(background, scorer.heart, seed, setting)
            scan = lattice_scan(made, scorer.heart)
            attention = lattice_attention(predict, scan)
            outcome = additive_outcome(scan, attention, scorer.decision, scorer.rule)
            row: dict[str, object] = {
                "scan": outcome.name,
                "patient": outcome.group,
                "kind": made.kind,
                "truth": round(outcome.truth, 2),
                "score": round(outcome.score, 2),
                "found": round(outcome.found, 2),
            }
            print(*row.values(), flush=True)
            yield row


def held_out(description: Mapping[str, Any]) -> set[str]:
    """Patients that a model's scoring network has not been trained on.

    Args:
        description: Contents of `model.json`.
    """
    return set(description.get("training", {}).get("scoring", {}).get("held_out", ()))


def settings(count: int) -> Sequence[GeneratorOptions]:
    """Settings of one patient's scans, `ZERO_EVERY` of them without calcium put in."""
    return [
        replace(SETTING, zero_share=1.0 if number % ZERO_EVERY == 0 else 0.0)
        for number in range(count)
    ]


if __name__ == "__main__":
    main()
