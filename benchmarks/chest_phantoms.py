"""Chest CT of different people, as phantoms with known organs: affine, then three B-splines.

    python benchmarks/chest_phantoms.py --out DIR [--data COHORT] [--subjects 8]

Phantoms are made from seeds that no training uses, in a smaller matrix than a scanner's;
`--data` takes a cohort of `calcium-score phantom --kind chest` instead. Every phantom is once
the fixed and once the moving image, in a ring, centered on each other before anything else.
The aorta is what the published table measures; lungs and heart are measured beside it. Networks
compare what lies in a window of soft tissue; `elastix+window` is elastix with the same images.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmark_options import options_parser, parse_options

FIRST_SEED = 700_000
"""Seed of the first test phantom."""

ORGANS = {
    "aorta": ("aorta",),
    "heart": (
        "left_ventricle",
        "right_ventricle",
        "right_atrium",
        "left_atrium",
        "aortic_root",
        "myocardium",
        "coronary",
    ),
    "lungs": ("lung",),
}
"""Labels of the phantoms that make up a measured organ."""

ELASTIX_SPACINGS_MM = (80.0, 40.0, 20.0)
"""Distance of control points of elastix's three deformable stages."""

ELASTIX_ITERATIONS = 500
"""Iterations at each of two resolutions, of every stage."""

WINDOW_HU = (-400.0, 250.0)
"""Attenuation that the networks compare, from black to white: of the range from air to bone, soft
tissue in fat is a tenth, and the edge of the lungs outweighs the vessels."""

METHODS = ("none", "elastix", "elastix+window", "network", "network+refine")

COLUMNS = {
    "dice_aorta": "Dice aorta",
    "hausdorff_aorta_mm": "HD aorta mm",
    "mean_aorta_mm": "ASD aorta mm",
    "dice_heart": "Dice heart",
    "dice_lungs": "Dice lungs",
    "ncc_images": "NCC",
    "folding_percent": "folding %",
    "sd_jacobian": "sd Jacobian",
}


def main() -> None:
    parser = options_parser(__doc__, METHODS)
    parser.add_argument("--subjects", type=int, default=8, help="phantoms made without --data")
    options = parse_options(parser)
    from registration_pairs import Measurement, measure_methods, report
    from staged_methods import ElastixSettings, staged_methods

    pairs = ring_pairs(read_subjects(options))

    def networks() -> tuple:
        from chest_phantoms_recipe import REFINEMENT, recipe

        return recipe(options.out / "training_phantoms"), REFINEMENT

    elastix = ElastixSettings(ELASTIX_SPACINGS_MM, ELASTIX_ITERATIONS, window=WINDOW_HU)
    methods = staged_methods(options.methods, options, elastix=elastix, networks=networks)
    labels = {organ: number for number, organ in enumerate(ORGANS, start=1)}
    rows, notes = measure_methods(methods, pairs, Measurement(labels))
    source = options.data.name if options.data else f"seeds from {FIRST_SEED}"
    notes = [f"{len(pairs)} pairs of chest phantoms, {source}.", *notes]
    print(
        report("chest_phantoms", rows, COLUMNS, options.out, notes=notes, threads=options.threads)
    )


def read_subjects(options) -> list:
    """Name, CT and organs of every phantom, centered."""
    from phantom_chests import make_chest, read_chest

    if options.data is not None:
        folders = sorted(p for p in options.data.iterdir() if (p / "truth").is_dir())
        return [(folder.name, *read_chest(folder, ORGANS)) for folder in folders]
    seeds = [FIRST_SEED + number for number in range(options.subjects)]
    return [(f"chest-{s}", *make_chest(s, ORGANS, options.out / "phantoms")) for s in seeds]


def ring_pairs(subjects: list) -> list:
    """Every phantom as fixed image with the next one as moving image."""
    from registration_pairs import LabeledPair

    pairs = []
    for fixed, moving in zip(subjects, [*subjects[1:], subjects[0]], strict=True):
        name = f"{moving[0]} to {fixed[0]}"
        pairs.append(LabeledPair(name, fixed[1], moving[1], fixed[2], moving[2]))
    return pairs


if __name__ == "__main__":
    main()
