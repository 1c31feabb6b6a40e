"""What a few scored scans of another population are worth: fine-tuning from scores alone.

    python benchmarks/scoring_learning_curve.py --out DIR [--sizes 0,10,20,50] [--subjects 60]

The model is trained further on so many phantoms of the shifted population, of which it learns the
Agatston scores and nothing else, as `calcium-score train scoring --table` does. All models that
come of it score the same fresh phantoms of that population; size 0 is the model as it is. Where no
pass was better on the third that judges, the start is kept, and the table says so.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import SimpleITK as sitk

from benchmarks.results_table import write_results
from benchmarks.scoring_methods import Case, agreement, common_options, score_cases, use_threads
from calcium.scoring import Scorer
from calcium.training_from_scores import FineTuningOptions
from pipelines.model import load_model
from pipelines.phantoms import SHIFTED, Phantom, make_phantom
from pipelines.scoring_table import fine_tune_model

TRAINING_SEED, TEST_SEED = 960_000, 980_000
"""First seeds of the phantoms that are learnt from and of those that are scored."""

PRESET = "agatston-1990"
"""Definition of the scores."""


def main() -> None:
    """Fine-tune, score and print the table."""
    parser = common_options(__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="0,10,20,50", help="numbers of scans to learn from")
    parser.add_argument("--subjects", type=int, default=60, help="phantoms that are scored")
    parser.add_argument("--epochs", type=int, default=FineTuningOptions().epochs)
    options = parser.parse_args()
    use_threads(options.threads)
    sizes = sorted({int(size) for size in options.sizes.split(",")})
    start = load_model(options.model)
    scorers, kept = {}, {}
    for size in sizes:
        name = f"{size} scans"
        scorers[name], kept[name] = start.scorer, "the start"
        if size:
            table = write_cohort(size, options.out / "cohort")
            folder = options.out / f"model-{size}"
            training = FineTuningOptions(epochs=options.epochs)
            scorers[name], kept[name] = fine_tuned(table, folder, options.model, training)
    rows = score_cases(cases(options.subjects), start, scorers)
    table = [
        {"method": line["method"], "kept": kept[str(line["method"])], **line}
        for line in agreement(rows)
    ]
    notes = [f"{options.subjects} phantoms of the shifted population, seeds from {TEST_SEED}."]
    print(write_results("scoring_learning_curve", rows, options.out, table=table, notes=notes))


def shifted_phantom(first: int, number: int) -> tuple[str, Phantom]:
    """A phantom of the shifted population, cardiac and chest in turn, with its kind."""
    kind = "chest" if number % 2 else "cardiac"
    return kind, make_phantom(kind, first + number, settings=SHIFTED)


def cases(count: int) -> Iterator[Case]:
    """What is scored."""
    for number in range(count):
        kind, phantom = shifted_phantom(TEST_SEED, number)
        truth = phantom.truth.agatston[PRESET]
        yield Case(f"{kind}-{TEST_SEED + number}", kind, phantom.image, truth)


def write_cohort(size: int, folder: Path) -> Path:
    """Scans and the table of their scores; those that are there are not made again.

    Args:
        size: How many.
        folder: Receives `scans`, `scores.txt`, and one table per size.

    Returns:
        Path of the table.
    """
    (folder / "scans").mkdir(parents=True, exist_ok=True)
    known = folder / "scores.txt"
    known.touch()
    for number in range(len(known.read_text().splitlines()), size):
        kind, phantom = shifted_phantom(TRAINING_SEED, number)
        place = f"scans/{kind}-{TRAINING_SEED + number}.nii.gz"
        sitk.WriteImage(phantom.image, str(folder / place))
        with known.open("a") as stream:
            stream.write(f"{place},{phantom.truth.agatston[PRESET]}\n")
    table = folder / f"scores-{size}.csv"
    lines = known.read_text().splitlines()[:size]
    table.write_text("\n".join(["scan,agatston", *lines]) + "\n")
    return table


def fine_tuned(
    table: Path, folder: Path, start: Path | None, options: FineTuningOptions
) -> tuple[Scorer, str]:
    """The scorer that comes of a table, and which weights it has.

    Args:
        table: Scans and scores.
        folder: Of the new model.
        start: Model to begin from.
        options: Length of the training.
    """
    work = folder / "work"
    if not work.exists():  # the same scans are prepared once for all sizes
        folder.mkdir(parents=True, exist_ok=True)
        (table.parent / "work").mkdir(exist_ok=True)
        work.symlink_to((table.parent / "work").resolve())
    found = fine_tune_model(table, start, folder, options)
    kept = f"pass {found.best} of {len(found.errors)}" if found.best else "the start"
    return load_model(folder).scorer, kept


if __name__ == "__main__":
    main()
