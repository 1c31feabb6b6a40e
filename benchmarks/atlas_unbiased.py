"""How little an atlas depends on what should not matter: its start, and a pose all subjects share.

    python benchmarks/atlas_unbiased.py --data FOLDER --out DIR [--subjects 20]

`FOLDER` holds `images/` with volumes that are not CT. Atlases are built from the first subjects:
by default; from the medoid; from the first subject; and with a shift and ten degrees of rotation
added to every input, in the pose of the scanner and in the principal one. Each is compared with
its counterpart: correlation as they lie, and after a rigid registration of the two atlases; and
what is left of the mean displacement of the subjects.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmark_options import options_parser, parse_options

if TYPE_CHECKING:
    import SimpleITK as sitk

    from atlas.atlas_mean import AtlasMean

METHODS = ("default", "medoid", "scan", "moved", "principal", "principal moved")

COUNTERPARTS = {
    "medoid": "default",
    "scan": "default",
    "moved": "default",
    "principal moved": "principal",
}
"""What each atlas is compared with."""

SHIFT_MM = (7.0, -11.0, 5.0)
ROTATION_DEG = 10.0


def main() -> None:
    parser = options_parser(__doc__, METHODS, data_required=True)
    parser.add_argument("--subjects", type=int, default=20)
    options = parse_options(parser)
    from results_table import write_results

    folder = options.data / "images"
    paths = sorted(folder.glob("[!.]*.nii*"))[: options.subjects]
    tables = {moved: _cohort(paths, options.out, moved=moved) for moved in (False, True)}
    rows: list[dict[str, Any]] = []
    means: dict[str, AtlasMean] = {}
    for method in options.methods:
        start = {"medoid": "medoid", "scan": paths[0].name.split(".")[0]}.get(method, "mean")
        pose = "principal" if method.startswith("principal") else "scanner"
        record, means[method] = _built(
            tables["moved" in method], options.out / method.replace(" ", "-"), start, pose
        )
        row = {
            "atlas": method,
            "mean displacement, voxels": record["mean_displacement_vox"],
            "rounds": record["rounds"],
            "compared with": "",
            "correlation": None,
            "after rigid registration": None,
        }
        other = COUNTERPARTS.get(method)
        if other in means:
            before, after = _correlations(means[other], means[method])
            row |= {"compared with": other, "correlation": before,
                    "after rigid registration": after}  # fmt: skip
        rows.append(row)
    notes = [f"{len(paths)} subjects; {ROTATION_DEG:g}° and {SHIFT_MM} mm added where moved."]
    print(write_results("atlas_unbiased", rows, options.out, notes=notes))


def _cohort(paths: list[Path], out: Path, *, moved: bool) -> Path:
    """A table of the images as they are, or with the shared shift and rotation in their headers."""
    import numpy as np
    import SimpleITK as sitk

    folder = out / ("images-moved" if moved else "images")
    folder.mkdir(parents=True, exist_ok=True)
    angle = np.radians(ROTATION_DEG if moved else 0.0)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    rows = [("id", "path")]
    for path in paths:
        image = sitk.ReadImage(str(path), sitk.sitkFloat32)
        direction = turn @ np.reshape(image.GetDirection(), (3, 3))
        origin = turn @ np.array(image.GetOrigin()) + np.array(SHIFT_MM) * moved
        image.SetDirection(direction.ravel().tolist())
        image.SetOrigin(origin.tolist())
        name = path.name.split(".")[0]
        sitk.WriteImage(image, str(folder / f"{name}.nrrd"), True)
        rows.append((name, f"{name}.nrrd"))
    table = folder / "cohort.csv"
    with table.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)
    return table


def _built(table: Path, out: Path, start: str, pose: Any) -> tuple[Any, AtlasMean]:
    from atlas.results import read_atlas_image
    from atlas.settings import AtlasSettings
    from pipelines.atlas_build import AtlasExecution, build_atlas
    from pipelines.atlas_cohort import find_spacing_mm, read_entries

    entries = read_entries(table)
    settings = AtlasSettings(
        modality="other",
        spacing_mm=find_spacing_mm(entries, "other"),
        start=start,
        pose=pose,
        held_out_share=0.0,
    )

    def report(line: str) -> None:
        print(f"{out.name}: {line}", file=sys.stderr, flush=True)

    # the images are written anew at every call, so that a build cannot be taken up again
    summary = build_atlas(entries, out, settings, AtlasExecution(report=report, fresh=True))
    return summary.record, read_atlas_image(out, "other")


def _correlations(first: AtlasMean, second: AtlasMean) -> tuple[float, float]:
    """Of two means where both can be trusted: as they lie, and after rigid registration."""
    import SimpleITK as sitk

    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsCorrelation()
    method.SetMetricFixedMask(sitk.Cast(first.valid_image(), sitk.sitkUInt8))
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    middle = first.grid.center.tolist()
    method.SetInitialTransform(sitk.Euler3DTransform(middle, 0.0, 0.0, 0.0))
    found = method.Execute(first.image(), second.image())
    return _correlation(first, second, sitk.Transform()), _correlation(first, second, found)


def _correlation(first: AtlasMean, second: AtlasMean, transform: sitk.Transform) -> float:
    import numpy as np
    import SimpleITK as sitk

    reference = first.grid.empty_image(sitk.sitkUInt8)
    values, valid = (
        sitk.GetArrayFromImage(sitk.Resample(image, reference, transform, sitk.sitkLinear))
        for image in (second.image(), second.valid_image())
    )
    both = first.valid & (valid > 0.99)
    return float(np.corrcoef(first.values[both], values[both])[0, 1])


if __name__ == "__main__":
    main()
