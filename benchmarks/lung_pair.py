"""One lung at two times, and chest phantoms that breathe: correlation, folding, landmarks.

    python benchmarks/lung_pair.py --out DIR --data FOLDER [--points-fixed CSV --points-moving CSV]
    python benchmarks/lung_pair.py --out DIR [--subjects 4]

`FOLDER` holds `baseline.mha` and `followup.mha` with their lung masks `*_mask.mha`; the
baseline is registered to the follow-up. Landmarks are CSV files with columns x, y, z in LPS mm.
Without `--data` chest phantoms breathe by a known motion: 100 landmarks each are measured. A
picture of the middle coronal plane is written for every case and row of the table.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmark_options import options_parser, parse_options

FIRST_SEED = 720_000
"""Seed of the first breathing phantom."""

ELASTIX_SPACINGS_MM = (60.0, 30.0, 15.0)
"""Distance of control points of elastix's three deformable stages."""

ELASTIX_ITERATIONS = 500
"""Iterations at each of two resolutions, of every stage."""

METHODS = ("none", "elastix", "network", "network+refine")

COLUMNS = {
    "tre_mm": "TRE mm",
    "ncc": "NCC in the lungs",
    "dice_lungs": "Dice lungs",
    "mean_lungs_mm": "ASD lungs mm",
    "folding_percent": "folding %",
    "sd_jacobian": "sd Jacobian",
}


def main() -> None:
    parser = options_parser(__doc__, METHODS)
    parser.add_argument("--points-fixed", type=Path, help="landmarks of the follow-up")
    parser.add_argument("--points-moving", type=Path, help="the same ones of the baseline")
    parser.add_argument("--subjects", type=int, default=4, help="phantoms without --data")
    options = parse_options(parser)
    from lung_measurement import LungMeasurement, read_pair
    from registration_pairs import measure_methods, report
    from staged_methods import ElastixSettings, staged_methods

    cases = [read_pair(options)] if options.data else breathing_cases(options)
    measurement = LungMeasurement(
        {pair.name: points for pair, *points in cases}, options.out / "pictures"
    )

    def networks() -> tuple:
        from lung_recipe import REFINEMENT, recipe

        return recipe(options.out / "training_phantoms"), REFINEMENT

    elastix = ElastixSettings(ELASTIX_SPACINGS_MM, ELASTIX_ITERATIONS)
    methods = staged_methods(options.methods, options, elastix=elastix, networks=networks)
    rows, notes = measure_methods(methods, [pair for pair, *_ in cases], measurement)
    source = options.data.name if options.data else f"breathing phantoms from {FIRST_SEED}"
    notes = [f"{len(cases)} pair(s), {source}.", *notes]
    name = "lung_pair" if options.data else "lung_pair_phantoms"
    print(report(name, rows, COLUMNS, options.out, notes=notes, threads=options.threads))


def breathing_cases(options) -> list:
    """Pairs of breathing phantoms with their landmarks."""
    from breathing import breathing_pair

    seeds = [FIRST_SEED + number for number in range(options.subjects)]
    return [breathing_pair(seed, options.out / "phantoms") for seed in seeds]


if __name__ == "__main__":
    main()
