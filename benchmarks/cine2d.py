"""Cine MR in two dimensions: one slice, two phases, the left ventricle carried over.

    python benchmarks/cine2d.py --data FOLDER --out DIR [--methods none,elastix-2x100]

`FOLDER` holds `images/` and `labels/` with pictures of the same names, 256 x 256, such as
part 2 of the Sunnybrook cine MR. Every slice drawn at two phases is registered in both
directions. Pixel sizes are not known, so distances are in pixels. `--train --training FOLDER
--phases FOLDER` trains what has no weights yet on other patients.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmark_options import options_parser, parse_options

CONTROL_POINT_SPACING_PX = 16.0
"""Distance of control points, pixels: that of DIRNet's after four poolings."""

ELASTIX_ITERATIONS = {"elastix-2x100": 100, "elastix-2x2000": 2000}
"""Iterations at each of two resolutions."""

NETWORKS = (
    "dirnet",
    "dirnet-max",
    "dirnet-strided",
    "dirnet-bspline2",
    "dirnet-tps",
    "dirnet-overlapping",
    "dirnet-full",
    "dirnet-small",
)
"""DIRNet, its variants of the published table, and one as small as the talk's."""

REFINED = "+refine"
"""Ending of a network's name that adds optimizer steps per pair."""

AGAIN = "+again"
"""Ending of a network's name that adds a second pass: it looks at what it has left over."""

STEPPED = "+steps"
"""Ending of a network's name that adds Gauss-Newton steps per pair."""

STEPS = 8
"""Chosen on patients of the training."""

METHODS = (
    "none",
    *ELASTIX_ITERATIONS,
    *NETWORKS,
    *(f"dirnet{ending}" for ending in (AGAIN, STEPPED, REFINED)),
)

COLUMNS = {
    "dice_lv": "Dice",
    "p95_lv_px": "95 % surface distance px",
    "mean_lv_px": "mean surface distance px",
    "ncc_images": "NCC",
    "folding_percent": "folding %",
    "sd_jacobian": "sd Jacobian",
}


def main() -> None:
    parser = options_parser(__doc__, METHODS, data_required=True)
    parser.add_argument("--training", type=Path, help="folder like --data to train on")
    parser.add_argument("--phases", type=Path, help="patients with frames/*.dcm to train on too")
    parser.add_argument(
        "--exclude", type=Path, help="folder whose patients are not trained on, by default --data"
    )
    parser.add_argument("--patients", help="measure these patients of --data only, comma-separated")
    options = parse_options(parser)
    from registration_pairs import Measurement, measure_methods, report

    pairs = read_pairs(options.data, options.patients)
    methods = [method(name, options) for name in options.methods]
    measurement = Measurement({"lv": 1}, unit="px")
    notes = [f"{len(pairs)} directed pairs of {options.data.name}."]

    def write(rows: list, more: tuple = ()) -> str:
        return report(
            "cine2d", rows, COLUMNS, options.out, notes=[*notes, *more], threads=options.threads
        )

    rows, more = measure_methods(methods, pairs, measurement, on_method=write)
    print(write(rows, tuple(more)))


def read_pairs(folder: Path, patients: str | None = None) -> list:
    """Both directions of every slice drawn at two phases, of all or some patients."""
    from cine_frames import find_frames, slices_at_two_phases
    from registration_pairs import LabeledPair

    pairs = []
    wanted = patients.split(",") if patients else None
    for frames in slices_at_two_phases(find_frames(folder)):
        if wanted is not None and frames[0].patient not in wanted:
            continue
        images, labels = [f.image() for f in frames], [f.labels() for f in frames]
        for fixed, moving in ((0, 1), (1, 0)):
            name = f"{frames[0].patient}-{frames[fixed].number:04d}-{frames[moving].number:04d}"
            pairs.append(
                LabeledPair(name, images[fixed], images[moving], labels[fixed], labels[moving])
            )
    return pairs


def method(name: str, options):
    from registration_pairs import Method, NoRegistration

    if name == "none":
        return Method((name,), NoRegistration)
    if name in ELASTIX_ITERATIONS:
        return Method((name,), lambda: elastix(name, options.threads))
    return Method((name,), lambda: network(name, options))


def network(name: str, options):
    from cine2d_recipes import REFINEMENT, recipe
    from trained_registrars import trained_registrar

    base = name.split("+")[0]
    work = options.out / "pictures"
    test = options.exclude or options.data
    how = recipe(base, options.training, options.phases, test, work)
    refinement = REFINEMENT if name.endswith(REFINED) else None
    return trained_registrar(
        how,
        options,
        refinement=refinement,
        passes=2 if AGAIN in name else None,
        deformable_steps=STEPS if name.endswith(STEPPED) else None,
    )


def elastix(name: str, threads: int):
    from registration.baselines import ElastixRegistrar, ElastixStage

    stage = ElastixStage(
        "bspline", CONTROL_POINT_SPACING_PX, iterations=ELASTIX_ITERATIONS[name], resolutions=2
    )
    return ElastixRegistrar((stage,), name=name, threads=threads)


if __name__ == "__main__":
    main()
