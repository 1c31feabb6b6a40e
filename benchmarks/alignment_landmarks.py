"""Landmark error of the alignment, every patient left out of the atlas in turn.

Landmarks are those of the annotation files, read by eye to 5-8 mm. Where a landmark lies in the
atlas is the mean over the other patients; the alignment of the patient left out takes it to the
scan, where it is compared with the reading. Each scan is used whole and cut to a cardiac field of
view. The network is not part of it: the one that ships has seen every patient, so refinement
starts from the first guess, which is what a new patient gets at worst.

Atlases are those of `calcium-score atlas build`, which takes two minutes for each patient, or the
affine mean that `train alignment` makes without an atlas.

    python benchmarks/alignment_landmarks.py --data FOLDER --out DIR [--annotations FOLDER]
        [--methods build,affine]

Writes `alignment_landmarks.csv` (one row per scan, method and landmark) and
`alignment_landmarks.md` (mean and worst patient).
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from atlas.affine_mean import AffineMeanBuilder
from atlas.chest_rounds import BUILDING_GRID, CHEST_ROUNDS, HEART
from atlas.settings import CT_STAGES, AtlasSettings
from benchmarks.alignment_alarm import cut
from benchmarks.results_table import write_results
from calcium.simulation.annotations import read_annotations
from pipelines.alignment_training import heart_middle, take_atlas
from pipelines.atlas_build import AtlasExecution, build_atlas
from pipelines.atlas_cohort import CT_SPACING_MM, read_entries
from pipelines.discovery import find_series
from pipelines.model import ATLAS_NAME
from pipelines.reading import read_scan
from registration.alignment import ReferenceAligner
from registration.alignment_volume import AlignmentVolume
from registration.geometry import affine_matrix, transform_points
from registration.preprocessing import prepare_volume

LANDMARKS = (
    "carina", "left_main_bronchus", "aortic_root", "lm_ostium", "rca_ostium",
    "right_heart_border", "left_heart_border", "apex", "heart_center",
)  # fmt: skip
CARDIAC_HALF_MM = np.array([105.0, 105.0, 68.0])
"""Half of a cardiac field of view, whose middle lies some 12 mm below that of the heart."""
Landmarks = Mapping[str, np.ndarray]
"""Points by name, LPS mm."""
ANNOTATIONS = Path(__file__).resolve().parent.parent / "calcium/models/training/annotations"


@dataclass(frozen=True)
class Patient:
    """A prepared scan and its landmarks, LPS mm."""

    name: str
    path: Path
    volume: AlignmentVolume
    landmarks: Mapping[str, np.ndarray]


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, default=ANNOTATIONS)
    parser.add_argument("--methods", default="build,affine")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(options.threads)
    patients = list(read_patients(options.data, options.annotations))
    rows: list[dict[str, object]] = []
    for patient in patients:
        others = [other for other in patients if other is not patient]
        for method in options.methods.split(","):
            if method == "build":
                aligner, expected = built_without(patient, others, options.out / "atlases")
            else:
                aligner, expected = averaged(patient, others)
            rows += rows_of(patient, aligner, expected, method)
            print(f"{patient.name}: {len(rows)} landmarks so far", file=sys.stderr, flush=True)
    write_results("alignment_landmarks", rows, options.out)
    print(write_results("alignment_landmarks_mean", summary(rows), options.out))


def read_patients(data: Path, annotations: Path) -> Iterator[Patient]:
    """Every annotated scan of a folder."""
    known = read_annotations(annotations)
    for candidate in find_series([data]):
        path = str(candidate.files[0]) + candidate.source
        for name in (name for name in known if name in path):
            points = {
                key: np.asarray(value, dtype=float)
                for key, value in known[name]["landmarks"].items()
                if key in LANDMARKS
            }
            yield Patient(
                name,
                data.parent / candidate.source,
                prepare_volume(read_scan(candidate).image),
                points,
            )


def averaged(patient: Patient, others: list[Patient]) -> tuple[ReferenceAligner, Landmarks]:
    """Aligner to an affine mean of the others, and where a patient's landmarks should lie in it."""
    mean = AffineMeanBuilder(BUILDING_GRID, report=lambda _: None).build(
        [other.volume for other in others], CHEST_ROUNDS
    )
    wide = np.mean(
        [matrix @ (*HEART.center_mm, 1) for matrix in mean.transforms]
        - np.array([(*other.volume.start_mm, 1) for other in others]),
        axis=0,
    )[:3]
    aligner = ReferenceAligner(
        mean.volume.grid.to_image(np.where(mean.volume.valid > 0, mean.volume.hu, -2000.0)),
        HEART,
        wide_offset_mm=wide,
    )
    expected = {
        key: np.mean(
            [
                transform_points(np.linalg.inv(matrix), other.landmarks[key])
                for matrix, other in zip(mean.transforms, others, strict=True)
                if key in other.landmarks
            ],
            axis=0,
        )
        for key in patient.landmarks
    }
    return aligner, expected


def built_without(
    patient: Patient, others: list[Patient], folder: Path
) -> tuple[ReferenceAligner, Landmarks]:
    """The same by `atlas build` from the files of the others; an atlas that is there is used."""
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / f"without-{patient.name}.csv"
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("id", "path"))
        writer.writerows((other.name, other.path.resolve()) for other in others)
    atlas = table.with_suffix("")
    settings = AtlasSettings("ct", CT_SPACING_MM, stages=CT_STAGES)
    execution = AtlasExecution(report=lambda _: None)
    build_atlas(read_entries(table), atlas, settings, execution)
    written = atlas / "model-atlas.nii.gz"
    heart, offsets = take_atlas(atlas, written)
    aligner = ReferenceAligner(sitk.ReadImage(str(written)), heart, **offsets)
    middle = heart_middle(sitk.ReadImage(str(atlas / ATLAS_NAME)))
    places: dict[str, list[np.ndarray]] = {key: [] for key in patient.landmarks}
    for other in others:
        inverse = sitk.ReadTransform(str(atlas / "transforms" / f"{other.name}.inverse.h5"))
        for key in set(places) & set(other.landmarks):
            point = inverse.TransformPoint(other.landmarks[key].tolist())
            places[key].append(np.subtract(point, middle))
    return aligner, {key: np.mean(found, axis=0) for key, found in places.items()}


def rows_of(
    patient: Patient, aligner: ReferenceAligner, expected: Landmarks, atlas: str
) -> list[dict[str, object]]:
    """Errors of one patient under an atlas of the others."""
    middle = patient.landmarks["heart_center"] - np.array([0.0, 0.0, 12.0])
    views = {"chest": patient.volume, "cardiac": cut(patient.volume, middle, CARDIAC_HALF_MM)}
    rows: list[dict[str, object]] = []
    for view, volume in views.items():
        found = {
            "first guess": aligner.first_guess(volume),
            "refined": affine_matrix(aligner.align_volume(volume).atlas_to_scan),
        }
        found["similarity fit"] = similarity_fit(expected, patient.landmarks)
        for method, matrix in found.items():
            for key, point in patient.landmarks.items():
                error = float(np.linalg.norm(transform_points(matrix, expected[key]) - point))
                entry = {"scan": patient.name, "atlas": atlas, "view": view, "method": method}
                rows.append({**entry, "landmark": key, "error_mm": error})
    return rows


def similarity_fit(
    expected: Mapping[str, np.ndarray], read: Mapping[str, np.ndarray]
) -> np.ndarray:
    """The similarity transform nearest to a scan's own landmarks (Umeyama 1991): a floor."""
    a, b = (np.stack([points[key] for key in read]) for points in (expected, read))
    a0, b0 = a - a.mean(axis=0), b - b.mean(axis=0)
    left, scale, right = np.linalg.svd(b0.T @ a0)
    turn = np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    linear = left @ turn @ right * (scale * np.diag(turn)).sum() / (a0**2).sum()
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, b.mean(axis=0) - linear @ a.mean(axis=0)
    return matrix


def summary(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Mean over patients, and the worst one, per view and method."""
    table: list[dict[str, object]] = []
    keys = ("atlas", "view", "method")
    for values in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        part = [row for row in rows if tuple(row[key] for key in keys) == values]
        means = [
            float(np.mean([row["error_mm"] for row in part if row["scan"] == scan]))
            for scan in sorted({str(row["scan"]) for row in part})
        ]
        entry = dict(zip(keys, values, strict=True)) | {"patients": len(means)}
        table.append({**entry, "mean mm": float(np.mean(means)), "worst mm": max(means)})
    return table


if __name__ == "__main__":
    main()
