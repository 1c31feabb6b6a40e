"""Hippocampi of different people, stage after stage: affine, then three B-splines.

    python benchmarks/hippocampus.py --data FOLDER --out DIR [--methods none,elastix]

`FOLDER` holds `images/` and `labels/` with NIfTI files of the same names; labels are 1
anterior and 2 posterior. Names in order are shuffled with a fixed seed and split 140 for
training, 20 for validation and 40 for testing (other numbers in proportion). Every test case
is once the fixed and once the moving image, in a ring. Images are centered on each other
before anything else, so `none` is measured centered.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmark_options import options_parser, parse_options

SPLIT_SEED = 2019
"""Seed of the shuffle, the year of the paper."""

SHARES = (0.7, 0.1, 0.2)
"""Shares of training, validation and test."""

LABELS = {"anterior": 1, "posterior": 2}

ELASTIX_SPACINGS_MM = (16.0, 8.0, 5.0)
"""Distance of control points of elastix's three deformable stages."""

ELASTIX_ITERATIONS = 300
"""Iterations at each of two resolutions, of every stage."""

METHODS = ("none", "elastix", "network", "network+refine")

COLUMNS = {
    "dice_anterior": "Dice anterior",
    "dice_posterior": "Dice posterior",
    "hausdorff_anterior_mm": "HD anterior mm",
    "hausdorff_posterior_mm": "HD posterior mm",
    "mean_anterior_mm": "ASD anterior mm",
    "mean_posterior_mm": "ASD posterior mm",
    "ncc_images": "NCC",
    "folding_percent": "folding %",
    "sd_jacobian": "sd Jacobian",
}


def main() -> None:
    parser = options_parser(__doc__, METHODS, data_required=True)
    parser.add_argument("--part", choices=("test", "validation"), default="test")
    options = parse_options(parser)
    from registration_pairs import Measurement, measure_methods, report
    from staged_methods import ElastixSettings, staged_methods

    names = sorted(path.name for path in (options.data / "images").glob("[!.]*.nii*"))
    parts = dict(zip(("training", "validation", "test"), split(names), strict=True))
    pairs = ring_pairs(options.data, parts[options.part])
    notes = [f"{len(pairs)} pairs of the {options.part} part, seed {SPLIT_SEED}."]

    def networks() -> tuple:
        from hippocampus_recipe import REFINEMENT, recipe

        return recipe(options.data, parts["training"], parts["validation"]), REFINEMENT

    elastix = ElastixSettings(ELASTIX_SPACINGS_MM, ELASTIX_ITERATIONS)
    methods = staged_methods(options.methods, options, elastix=elastix, networks=networks)
    rows, more = measure_methods(methods, pairs, Measurement(LABELS))
    print(
        report(
            "hippocampus",
            rows,
            COLUMNS,
            options.out,
            notes=[*notes, *more],
            threads=options.threads,
        )
    )


def split(names: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Training, validation and test names; what rounding leaves over goes to training."""
    import numpy as np

    order = np.random.default_rng(SPLIT_SEED).permutation(len(names))
    shuffled = [sorted(names)[i] for i in order]
    n_validation, n_test = (round(share * len(names)) for share in SHARES[1:])
    n_training = len(names) - n_validation - n_test
    return (
        shuffled[:n_training],
        shuffled[n_training : n_training + n_validation],
        shuffled[n_training + n_validation :],
    )


def ring_pairs(folder: Path, names: Sequence[str]) -> list:
    """Every case as fixed image with the next one as moving image."""
    from registration_pairs import LabeledPair

    images = [read_centered(folder / "images" / name) for name in names]
    labels = [read_centered(folder / "labels" / name, labels=True) for name in names]
    pairs = []
    for fixed in range(len(names)):
        moving = (fixed + 1) % len(names)
        stems = [names[i].split(".")[0] for i in (moving, fixed)]
        pairs.append(
            LabeledPair(
                " to ".join(stems), images[fixed], images[moving], labels[fixed], labels[moving]
            )
        )
    return pairs


def read_centered(path: Path, *, labels: bool = False):
    """Image with its middle at the physical origin, axes along LPS as they are."""
    import SimpleITK as sitk
    from registration_pairs import center_image

    return center_image(sitk.ReadImage(str(path), sitk.sitkUInt8 if labels else sitk.sitkFloat32))


if __name__ == "__main__":
    main()
