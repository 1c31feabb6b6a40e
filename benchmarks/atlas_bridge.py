"""An atlas as a bridge: labels of one subject through the atlas to another, beside direct pairs.

    python benchmarks/atlas_bridge.py --data FOLDER --out DIR [--subjects 20] [--tests 20]

`FOLDER` holds `images/` and `labels/` with NIfTI files of the same names; labels are 1 anterior
and 2 posterior. The atlas is built from subjects of the training part of `hippocampus.py`; the
test subjects are held out: registered to the atlas, but never averaged. `atlas-trained` goes by
networks that were trained before on the whole training part (`--model`, by default those that
ship). Every test subject is once the fixed and once the moving one, in a ring. Seconds of the atlas
and of ANTs are those of the whole construction per subject; those of elastix are per pair.
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmark_options import options_parser, parse_options
from hippocampus import (
    COLUMNS,
    ELASTIX_ITERATIONS,
    ELASTIX_SPACINGS_MM,
    LABELS,
    read_centered,
    ring_pairs,
    split,
)

if TYPE_CHECKING:
    import SimpleITK as sitk
    from registration_pairs import LabeledPair

METHODS = ("none", "elastix", "atlas", "atlas-trained", "ants")

REGISTRATION = Path(__file__).resolve().parent.parent / "registration" / "models" / "hippocampus"

ANTS_ROUNDS = 3
"""Iterations of ANTs' template construction."""

Transforms = Mapping[str, "tuple[sitk.Transform, float]"]
"""Pull-back and seconds by name of the pair."""


def main() -> None:
    parser = options_parser(__doc__, METHODS, data_required=True)
    parser.add_argument("--subjects", type=int, default=20, help="subjects averaged")
    parser.add_argument("--tests", type=int, default=20, help="subjects held out, at least 2")
    options = parse_options(parser)
    from registration_pairs import Measurement, report

    names = sorted(path.name for path in (options.data / "images").glob("[!.]*.nii*"))
    training, _, test = split(names)
    training, test = sorted(training[: options.subjects]), test[: options.tests]
    pairs = ring_pairs(options.data, test)
    makers: dict[str, Callable[[], Transforms]] = {
        "none": lambda: _direct(pairs, None),
        "elastix": lambda: _direct(pairs, options.threads),
        "atlas": lambda: _through_atlas(options.data, options.out, training, test, pairs),
        "atlas-trained": lambda: _through_atlas(
            options.data, options.out, training, test, pairs, options.model or REGISTRATION
        ),
        "ants": lambda: _through_ants(options.data, options.out, training, test, pairs),
    }
    notes = [f"{len(training)} subjects averaged, {len(test)} held out, {len(pairs)} pairs."]
    rows: list[dict[str, Any]] = []
    measurement = Measurement(LABELS)
    for method in options.methods:
        try:
            found = makers[method]()
        except ImportError as error:
            notes.append(f"{method} is missing: {error}.")
            continue
        for pair in pairs:
            transform, seconds = found[pair.name]
            measured = measurement.of_pair(pair, transform, method)
            rows.append({"method": method, "case": pair.name, **measured, "seconds": seconds})
    print(report("atlas_bridge", rows, COLUMNS, options.out, notes=notes, threads=options.threads))


def _direct(pairs: Sequence[LabeledPair], threads: int | None) -> Transforms:
    """Every pair registered by elastix, or left where it is."""
    from registration_pairs import NoRegistration
    from staged_methods import ElastixSettings

    settings = ElastixSettings(ELASTIX_SPACINGS_MM, ELASTIX_ITERATIONS)
    registrar = NoRegistration() if threads is None else settings.registrar(threads)
    found = {}
    for pair in pairs:
        start = time.perf_counter()
        transform = registrar.register(pair.fixed, pair.moving).transform
        found[pair.name] = transform, time.perf_counter() - start
    return found


def _through_atlas(
    data: Path,
    out: Path,
    training: Sequence[str],
    test: Sequence[str],
    pairs: Sequence[LabeledPair],
    registration: Path | None = None,
) -> Transforms:
    """Moving labels to the atlas, and from there to the fixed subject."""
    import SimpleITK as sitk

    from atlas.settings import AtlasSettings, default_stages
    from atlas.trained_method import check_registration
    from pipelines.atlas_build import AtlasExecution, build_atlas
    from pipelines.atlas_cohort import read_entries

    folder = out / ("atlas" if registration is None else "atlas-trained")
    settings = AtlasSettings(modality="other", spacing_mm=1.0)
    if registration is not None:
        settings = replace(
            settings,
            method="trained",
            stages=default_stages("other", "trained"),
            registration_sha256=check_registration(registration),
        )
    folder.mkdir(parents=True, exist_ok=True)
    table = _centered_cohort(data, out / "images", [*training, *test])
    parts = [(name.split(".")[0], "training") for name in training]
    parts += [(name.split(".")[0], "held-out") for name in test]
    with (folder / "split.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([("id", "part"), *sorted(parts)])
    start = time.perf_counter()
    build_atlas(
        read_entries(table),
        folder,
        settings,
        AtlasExecution(report=lambda line: print(line, file=sys.stderr, flush=True)),
        registration=registration,
    )
    seconds = (time.perf_counter() - start) / len(parts)
    found = {}
    for pair in pairs:
        moving, fixed = pair.name.split(" to ")
        to_moving = sitk.ReadTransform(str(folder / "transforms" / f"{moving}.tfm"))
        to_atlas = sitk.ReadTransform(str(folder / "transforms" / f"{fixed}.inverse.h5"))
        # a point of the fixed subject goes to the atlas first
        found[pair.name] = sitk.CompositeTransform([to_moving, to_atlas]), seconds
    return found


def _through_ants(
    data: Path,
    out: Path,
    training: Sequence[str],
    test: Sequence[str],
    pairs: Sequence[LabeledPair],
) -> Transforms:
    """The same through a template of ANTs, its warps as dense fields.

    Raises:
        ImportError: If antspyx is not installed.
    """
    try:
        import ants
    except ImportError as error:
        raise ImportError("antspyx is not installed") from error
    import SimpleITK as sitk

    _centered_cohort(data, out / "images", [*training, *test])
    read = {n: ants.image_read(str(out / "images" / n)) for n in (*training, *test)}
    start = time.perf_counter()
    template = ants.build_template(
        image_list=[read[name] for name in training], iterations=ANTS_ROUNDS
    )
    fields = {}
    for name in test:
        result = ants.registration(template, read[name], type_of_transform="SyN")
        fields[name.split(".")[0]] = tuple(
            _ants_transform(result[key], sitk) for key in ("fwdtransforms", "invtransforms")
        )
    seconds = (time.perf_counter() - start) / (len(training) + len(test))
    found = {}
    for pair in pairs:
        moving, fixed = pair.name.split(" to ")
        found[pair.name] = sitk.CompositeTransform([fields[moving][0], fields[fixed][1]]), seconds
    return found


def _ants_transform(paths: Sequence[str], sitk: Any) -> Any:
    """One pull-back of ANTs' files: the first in the list is applied last, but to points first."""
    parts = []
    for path in paths:
        if path.endswith(".mat"):
            matrix = sitk.ReadTransform(path)
            # the inverse list names the forward affine file and means its inverse
            parts.append(matrix.GetInverse() if path == paths[0] else matrix)
        else:
            field = sitk.ReadImage(path, sitk.sitkVectorFloat64)
            parts.append(sitk.DisplacementFieldTransform(field))
    return sitk.CompositeTransform(list(reversed(parts)))


def _centered_cohort(data: Path, folder: Path, names: Sequence[str]) -> Path:
    """Images centered as the pairs are, and a table of them."""
    import SimpleITK as sitk

    folder.mkdir(parents=True, exist_ok=True)
    rows = [("id", "path")]
    for name in names:
        path = folder / name
        if not path.exists():
            sitk.WriteImage(read_centered(data / "images" / name), str(path))
        rows.append((name.split(".")[0], name))
    table = folder / "cohort.csv"
    with table.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)
    return table


if __name__ == "__main__":
    main()
