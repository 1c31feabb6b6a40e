"""An atlas of cardiac and chest CT together: how far landmarks still spread, stage after stage.

    python benchmarks/atlas_chests.py --out DIR [--data FOLDER ...] [--phantoms 60] [--workers 1]

Phantoms, cardiac and chest in turn, know where their landmarks are; with `--data` every CT series
that is found there joins them. All go through `build_atlas` as they would for anyone. After the
last round of every stage each landmark of a phantom is taken to the atlas; its distance from
the mean place of that landmark, root mean square over phantoms and landmarks, is the spread.
Landmarks outside of a scan's field of view do not count, nor those of subjects left out. Three
absurd subjects are among them, which the build has to name and leave out: a chest upside
down, two legs, and nothing but air. `atlas/qc.html` in DIR has the pictures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from atlas.subject_transform import read_subject_transform
from atlas.work_folder import WORK_NAME, WorkFolder
from benchmarks.results_table import write_csv, write_results
from registration.geometry import ImageGrid
from registration.transforms import fixed_points

if TYPE_CHECKING:
    from pipelines.atlas_record import AtlasSummary

SEED = 730_000
"""Of the cohort of phantoms."""

HEART_LANDMARKS = (
    "aortic_root", "heart_center", "apex", "left_heart_border", "right_heart_border",
    "lm_ostium", "rca_ostium",
)  # fmt: skip
"""Landmarks that move with the heart; the others are bones and airways."""

Points = NDArray[np.float64]


@dataclass(frozen=True)
class KnownSubject:
    """A phantom: where its landmarks are, LPS mm, those in its field of view alone."""

    name: str
    landmarks: Mapping[str, Points]


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, nargs="*", default=(), help="folders and files with CT to add"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--phantoms", type=int, default=60)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    phantoms = make_phantoms(options.out / "phantoms", options.phantoms)
    absurd = make_absurd(phantoms, options.out / "absurd")
    table = write_table(options.out / "cohort.csv", phantoms, absurd, options.data)
    summary = build(table, options.out / "atlas", options.workers)
    rows = stage_rows(WorkFolder(options.out / "atlas" / WORK_NAME), known_subjects(phantoms))
    left_out = summary.record["left_out"]
    notes = [
        f"{len(phantoms)} phantoms of seed {SEED}; "
        f"{summary.record['subjects_averaged']} subjects averaged in the end.",
        "Left out at the end: "
        + ("; ".join(f"{d['id']}, {d['reason']}" for d in left_out) or "nobody")
        + ".",
    ]
    print(write_results("atlas_chests", rows, options.out, notes=notes))


def make_phantoms(folder: Path, count: int) -> list[Path]:
    """Folders of the phantoms; they are written anew unless all of them are there."""
    from pipelines.phantoms.writing import TRUTH_FILE, write_cohort

    if len(list(folder.glob(f"*/{TRUTH_FILE}"))) != count:
        write_cohort(folder, subjects=count, seed=SEED)
    return sorted(path.parent for path in folder.glob(f"*/{TRUTH_FILE}"))


def make_absurd(phantoms: Sequence[Path], folder: Path) -> dict[str, Path]:
    """Volumes that have no place in a chest atlas, by name, in the geometry of the last phantom."""
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(phantoms[-1] / "series"))
    chest = sitk.ReadImage(names)
    values = sitk.GetArrayFromImage(chest)
    z, y, x = np.meshgrid(*(np.linspace(-1.0, 1.0, n) for n in values.shape), indexing="ij")
    legs = np.full(values.shape, -1000, np.int16)
    for side in (-0.4, 0.4):
        distance = np.hypot(x - side * (1.0 + 0.2 * z), y)
        legs[distance < 0.3] = 50
        legs[distance < 0.06] = 900
    volumes = {
        "absurd-air": np.full(values.shape, -1000, np.int16),
        "absurd-legs": legs,
        "absurd-upside-down": values[::-1],
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, array in volumes.items():
        image = sitk.GetImageFromArray(array)
        image.CopyInformation(chest)
        paths[name] = folder / f"{name}.mha"
        sitk.WriteImage(image, str(paths[name]), True)
    return paths


def write_table(
    path: Path, phantoms: Sequence[Path], absurd: Mapping[str, Path], data: Sequence[Path]
) -> Path:
    """A cohort table of phantoms, under their folders' names, and real scans, by pseudonym."""
    from pipelines.discovery import find_series

    rows = [{"id": path.name, "path": str((path / "series").resolve())} for path in phantoms]
    rows += [{"id": name, "path": str(place.resolve())} for name, place in absurd.items()]
    for candidate in find_series([path.resolve() for path in data]) if data else ():
        file = candidate.files[0]
        place = file.parent if candidate.kind == "dicom" else file
        rows.append({"id": f"scan-{candidate.scan_id}", "path": str(place)})
    write_csv(path, rows)
    return path


def build(table: Path, out: Path, workers: int) -> AtlasSummary:
    """Build the atlas as `calcium-score atlas build --keep rounds` does."""
    from atlas.settings import AtlasSettings, default_stages
    from pipelines.atlas_build import AtlasExecution, build_atlas
    from pipelines.atlas_cohort import find_spacing_mm, read_entries

    settings = AtlasSettings(
        modality="ct", spacing_mm=find_spacing_mm((), "ct"), stages=default_stages("ct")
    )

    def report(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    execution = AtlasExecution(workers=workers, keep="rounds", report=report)
    return build_atlas(read_entries(table), out, settings, execution)


def known_subjects(phantoms: Sequence[Path]) -> Iterator[KnownSubject]:
    """Landmarks of every phantom that lie in its scan."""
    from pipelines.phantoms.writing import TRUTH_FILE

    for folder in phantoms:
        truth = json.loads((folder / TRUTH_FILE).read_text(encoding="utf-8"))
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(folder / "truth" / "organs.seg.nrrd"))
        reader.ReadImageInformation()
        grid = ImageGrid(
            reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection()
        )
        seen = {}
        for name, point in truth["landmarks_lps_mm"].items():
            index = grid.indices([point])[0]
            if ((index >= 0) & (index <= np.array(grid.size) - 1)).all():
                seen[name] = np.array(point)
        yield KnownSubject(folder.name, seen)


def stage_rows(work: WorkFolder, subjects: Iterator[KnownSubject]) -> list[dict[str, Any]]:
    """Spread at the start and after the last round of every stage."""
    known = list(subjects)
    records: list[dict[str, Any]] = []
    while (record := work.read_record(len(records))) is not None:
        records.append(record)
    rows = []
    for record in records:
        if not record["stage_over"]:
            continue
        out = {doubt["subject_id"] for doubt in record["left_out"]}
        places: dict[str, list[Points]] = {}
        for subject in known:
            if subject.name in out:
                continue
            kept = work.kept(record["round"], record["variant"], subject.name)
            if not kept.exists():
                continue
            transform = read_subject_transform(kept)
            found = fixed_points(transform.to_transform(), list(subject.landmarks.values()))
            for name, point in zip(subject.landmarks, found, strict=True):
                places.setdefault(name, []).append(point)
        heart = {name: found for name, found in places.items() if name in HEART_LANDMARKS}
        rest = {name: found for name, found in places.items() if name not in HEART_LANDMARKS}
        rows.append(
            {
                "round": record["round"],
                "stage": record["stage"],
                "spread of the heart mm": spread_mm(heart),
                "spread of bones and airways mm": spread_mm(rest),
                "spread mm": spread_mm(places),
                "similarity": record.get("similarity"),
                "pairwise NCC": record["pairwise_ncc"],
                "sharpness HU/mm": record["sharpness"],
                "left out": len(out),
                "seconds": sum(
                    r["seconds"] for r in records if r["stage_number"] == record["stage_number"]
                ),
            }
        )
    return rows


def spread_mm(places: Mapping[str, Sequence[Points]]) -> float:
    """Root mean square distance from the mean place of each landmark."""
    squares = [
        ((np.array(found) - np.mean(found, axis=0)) ** 2).sum(axis=1) for found in places.values()
    ]
    return float(np.sqrt(np.concatenate(squares).mean()))


if __name__ == "__main__":
    main()
