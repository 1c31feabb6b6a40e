"""Cine MR in three dimensions: end diastole and end systole of one heart, leave one out.

    python benchmarks/cine3d.py --data FOLDER --out DIR [--pictures FOLDER]

`FOLDER` holds one folder per patient (`SC-HF-I-*`) with `frames/*.dcm` and
`contours/*.txt`, as the Sunnybrook Cardiac Data come. `--pictures` adds stacks of the
pictures of `cine2d`, whose spacing is taken as 1.37 x 1.37 x 8 mm. Both directions.

A heart is registered by a network that has not been trained on its patient. `--train` leaves out
one patient of `--data` after the other, or several at a time with fewer `--folds`; for
`--pictures` all at once. It learns from `--training` and from all phases of `--phases`. Without
`--train` the network is taken that was trained on most images, but on none of a fold's patients.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmark_options import options_parser, parse_options
from cine2d import REFINED, STEPPED, STEPS

CONTROL_POINT_SPACING_MM = (21.9, 21.9, 20.0)
"""Distance of control points (x, y, z), mm: 16 pixels in the plane, two slices across."""

ELASTIX_ITERATIONS = 500
"""Iterations at each of two resolutions."""

BENDING_WEIGHTS = {"elastix": 0.0, "elastix+bending": 50.0}
"""Weight of the bending energy, mm²."""

METHODS = (
    "none",
    *BENDING_WEIGHTS,
    "dlir",
    "dlir+bending",
    *(f"dlir+bending{ending}" for ending in (STEPPED, REFINED)),
)

COLUMNS = {
    "dice_lv": "Dice",
    "hausdorff_lv_mm": "HD mm",
    "mean_lv_mm": "ASD mm",
    "ncc_images": "NCC",
    "folding_percent": "folding %",
    "sd_jacobian": "sd Jacobian",
}


def main() -> None:
    parser = options_parser(__doc__, METHODS)
    parser.add_argument("--pictures", type=Path, help="folder with images/ and labels/")
    parser.add_argument(
        "--training",
        type=Path,
        action="append",
        default=[],
        help="folder like --pictures to train on too; may be repeated",
    )
    parser.add_argument(
        "--phases", type=Path, help="folder like --data to train on too, by default --data"
    )
    parser.add_argument("--folds", type=int, help="of --data; as many as patients by default")
    options = parse_options(parser)
    if options.data is None and options.pictures is None:
        parser.error("--data or --pictures is needed")
    from registration_pairs import Measurement, measure_methods, report

    text = ""
    for name, hearts in read_hearts(options):
        groups = in_folds(hearts, options.folds) if name == "cine3d" else [hearts]
        rows, notes = [], [f"{len(hearts)} hearts, both directions."]
        for group in groups:  # one network per group, trained without its patients
            pairs = [pair for heart in group for pair in both_directions(heart)]
            methods = [method(m, options, group) for m in options.methods]
            more_rows, more = measure_methods(methods, pairs, Measurement({"lv": 1}))
            rows += more_rows
            notes += [note for note in more if group is groups[0] or "failed" in note]
        text += f"\n## {name}\n\n"
        text += report(name, rows, COLUMNS, options.out, notes=notes, threads=options.threads)
    print(text)


def read_hearts(options) -> list:
    """Name of the table and hearts of every source given."""
    from cine_frames import find_frames
    from cine_stacks import read_patient, stack_pictures

    sources = []
    if options.data is not None:
        folders = sorted(p for p in options.data.iterdir() if (p / "frames").is_dir())
        sources.append(("cine3d", [read_patient(folder) for folder in folders]))
    if options.pictures is not None:
        sources.append(("cine3d_pictures", stack_pictures(find_frames(options.pictures))))
    return sources


def in_folds(hearts: list, folds: int | None) -> list:
    """Neighbors in groups of about the same size, each heart for itself by default."""
    count = min(folds or len(hearts), len(hearts))
    ends = [round(len(hearts) * k / count) for k in range(count + 1)]
    return [hearts[a:b] for a, b in itertools.pairwise(ends)]


def both_directions(heart) -> list:
    from registration_pairs import LabeledPair

    names = ("diastole", "systole")
    return [
        LabeledPair(
            f"{heart.patient} {names[moving]} to {names[fixed]}",
            heart.images[fixed],
            heart.images[moving],
            heart.labels[fixed],
            heart.labels[moving],
        )
        for fixed, moving in ((0, 1), (1, 0))
    ]


def method(name: str, options, hearts: list):
    from registration_pairs import Method, NoRegistration

    if name == "none":
        return Method((name,), NoRegistration)
    if name in BENDING_WEIGHTS:
        return Method((name,), lambda: elastix(name, options.threads))
    return Method((name,), lambda: network(name, options, hearts))


def network(name: str, options, hearts: list):
    """A network that has seen none of the hearts."""
    from cine3d_recipes import network_name, recipe, refinement
    from cine_frames import patient_key
    from trained_registrars import trained_registrar, untouched_network

    base = name.removesuffix(REFINED).removesuffix(STEPPED)
    patients = {patient_key(heart.patient) for heart in hearts}
    names = [heart.patient for heart in hearts]
    left_out = names[0] if len(names) == 1 else f"{names[0]}-to-{names[-1]}"
    how = recipe(
        base,
        left_out=left_out,
        hearts=options.phases or options.data,
        pictures=options.training,
        test=patients,
        work=options.out / "volumes",
    )
    known = None
    if not options.train:
        known = untouched_network(network_name(base), patients, options, key=patient_key)
    steps = refinement(base) if name.endswith(REFINED) else None
    return trained_registrar(
        how,
        options,
        refinement=steps,
        deformable_steps=STEPS if name.endswith(STEPPED) else None,
        known=known,
    )


def elastix(name: str, threads: int):
    from registration.baselines import ElastixRegistrar, ElastixStage

    stage = ElastixStage(
        "bspline",
        CONTROL_POINT_SPACING_MM,
        iterations=ELASTIX_ITERATIONS,
        bending_weight=BENDING_WEIGHTS[name],
    )
    return ElastixRegistrar((stage,), name=name, threads=threads)


if __name__ == "__main__":
    main()
