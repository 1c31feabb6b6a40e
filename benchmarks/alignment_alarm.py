"""How well the measures of an alignment tell wrong alignments from right ones.

Scans are pushed out of range: turned, mirrored, cut so that the heart is missing, or moved to
another organ. An alignment counts as wrong if it puts the points of the heart more than 25 mm
from where the whole, upright scan has them, or if there is no heart at all; as right up to
12 mm. What lies between is left out. Where less than half of the heart is there to be found, the
coverage has to refuse the scan, which is counted by itself.

    python benchmarks/alignment_alarm.py --data FOLDER --out DIR [--model FOLDER] [--phantoms 6]

Writes `alignment_alarm.csv` (one row per pushed scan) and `alignment_alarm.md`: the area under
the ROC curve of every measure, and how often the shipped threshold fires on right and on wrong
alignments.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results_table import write_results
from pipelines.discovery import find_series
from pipelines.guards import HEART_REJECT_COVERAGE as REJECT_COVERAGE
from pipelines.model import DEFAULT_MODEL, read_description
from pipelines.phantoms import make_phantom
from pipelines.reading import read_scan
from pipelines.reasons import UnusableSeries
from registration.alignment import ReferenceAligner
from registration.alignment_uncertainty import ALARM_UNCERTAINTY, alignment_uncertainty
from registration.alignment_volume import AlignmentVolume
from registration.geometry import Ellipsoid, ImageGrid, affine_matrix, transform_points
from registration.preprocessing import HIGHEST_HU, LOWEST_HU, prepare_volume

WRONG_MM, RIGHT_MM = 25.0, 12.0
WITHOUT_HEART = ("no-heart", "qrm")
"""Parts of the names of scans that show no patient's heart: every alignment is wrong."""
MEASURES = ("similarity", "spread_mm", "correction_mm", "rotation_deg", "stretch", "mirror_margin")


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL)
    parser.add_argument("--phantoms", type=int, default=6)
    parser.add_argument("--seed", type=int, default=31_000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(options.threads)
    aligner = load_aligner(options.model)
    rows = []
    for name, volume in volumes(options.data, options.phantoms, options.seed):
        rows += rows_of(name, volume, aligner, np.random.default_rng(options.seed))
        print(f"{name}: {len(rows)} alignments so far", file=sys.stderr, flush=True)
    print(summarize(rows, options.out))


def load_aligner(folder: Path) -> ReferenceAligner:
    """The aligner of a model folder, without its scorer."""
    description = read_description(folder)
    return ReferenceAligner.from_settings(
        sitk.ReadImage(str(folder / "atlas.nii.gz")),
        Ellipsoid.from_dict(description["heart"]),
        description["alignment"],
        folder / "alignment.weights.h5",
    )


def volumes(data: Path, phantoms: int, seed: int) -> Iterator[tuple[str, AlignmentVolume]]:
    """Every readable scan of a folder, then fresh phantoms, cardiac and chest in turn."""
    for candidate in find_series([data]):
        try:
            yield Path(candidate.source).name, prepare_volume(read_scan(candidate).image)
        except UnusableSeries:
            continue
    for number in range(phantoms):
        kind = ("cardiac", "chest")[number % 2]
        yield f"{kind}-{seed + number}", prepare_volume(make_phantom(kind, seed + number).image)


def rows_of(
    name: str, volume: AlignmentVolume, aligner: ReferenceAligner, rng: np.random.Generator
) -> list[dict[str, object]]:
    """Align a scan and its pushed versions; one row each."""
    upright = affine_matrix(aligner.align_volume(volume).atlas_to_scan)
    points = aligner.region.sample_points(12.0)
    heart = transform_points(upright, np.array(aligner.region.center_mm))
    rows = []
    for push, pushed, change in pushes(volume, heart, rng):
        alignment = aligner.align_volume(pushed)
        truth = change @ upright
        found = affine_matrix(alignment.atlas_to_scan)
        error = float(
            np.linalg.norm(
                transform_points(found, points) - transform_points(truth, points), axis=1
            ).mean()
        )
        visible = aligner.coverage(pushed, truth)
        row: dict[str, object] = {"scan": name, "push": push, "error_mm": error}
        row |= {"visible": visible, "coverage": alignment.coverage}
        row |= {m: float(getattr(alignment, m)) for m in MEASURES}
        row["uncertainty"] = alignment_uncertainty(alignment)
        row["verdict"] = verdict(name, error, visible)
        rows.append(row)
    return rows


def verdict(name: str, error_mm: float, visible: float) -> str:
    """What an alarm ought to make of an alignment."""
    if any(word in name for word in WITHOUT_HEART):
        return "wrong"
    if visible < 0.5:
        return "uncovered"
    return "wrong" if error_mm > WRONG_MM else "right" if error_mm < RIGHT_MM else "between"


def pushes(
    volume: AlignmentVolume, heart: np.ndarray, rng: np.random.Generator
) -> Iterator[tuple[str, AlignmentVolume, np.ndarray]]:
    """Changed scans, each with the map from points of the scan to points of the changed one."""
    same = np.eye(4)
    yield "as it is", volume, same
    for width in (170.0, 210.0, 240.0):
        center = heart - np.array([0.0, 0.0, 12.0]) + rng.normal(0.0, 8.0, 3)
        half = np.array([width, width, rng.uniform(110.0, 160.0)]) / 2
        yield f"cardiac {width:.0f} mm", cut(volume, center, half), same
    for angle in (10.0, 20.0, 35.0, 50.0, 90.0, 180.0):
        axis = rng.normal(size=3)
        change = about(heart, rotation(axis / np.linalg.norm(axis), np.deg2rad(angle)))
        yield f"turned {angle:.0f} deg", resampled(volume, change, heart), change
    for axis, name in enumerate(("left-right", "front-back", "head-foot")):
        flip = np.eye(3)
        flip[axis, axis] = -1.0
        change = about(heart, flip)
        yield f"mirrored {name}", resampled(volume, change, heart), change
    half = np.array([105.0, 105.0, 65.0])
    for side, name in (((0, 0, 1), "above"), ((0, 0, -1), "below"), ((1, 0, 0), "left"),
                       ((-1, 0, 0), "right")):  # fmt: skip
        away = heart + np.array(side) * half * 2.1
        if volume.grid.contains(away):
            yield f"organ {name}", cut(volume, away, half), same
    for share in (0.3, 0.6):
        low = heart + np.array([0.0, 0.0, 62.0 * (1.0 - 2.0 * share) + 100.0])
        yield f"upper {share:.0%} of the heart", cut(volume, low, np.full(3, 100.0)), same


def cut(volume: AlignmentVolume, center: np.ndarray, half_mm: np.ndarray) -> AlignmentVolume:
    """The part of a scan within a box, prepared as a scan of its own would be."""
    last = np.array(volume.grid.size) - 1
    low = np.clip(np.ceil(volume.grid.indices(center - half_mm)), 0, last).astype(int)
    high = np.clip(np.floor(volume.grid.indices(center + half_mm)), 0, last).astype(int)
    part = tuple(slice(a, max(a, b) + 1) for a, b in zip(low[::-1], high[::-1], strict=True))
    hu, valid = np.ascontiguousarray(volume.hu[part]), np.ascontiguousarray(volume.valid[part])
    origin = tuple(volume.grid.physical_points(low).tolist())
    grid = ImageGrid(hu.shape[::-1], volume.grid.spacing, origin)
    return prepare_volume(grid.to_image(np.where(valid > 0, hu, -2000.0)))


def resampled(volume: AlignmentVolume, change: np.ndarray, heart: np.ndarray) -> AlignmentVolume:
    """A scan moved by a linear map of its points, on a cube of 400 mm about the heart."""
    grid = ImageGrid.centered([100] * 3, [4.0] * 3, heart)
    inverse = np.linalg.inv(change)
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(inverse[:3, :3].ravel().tolist())
    transform.SetTranslation(inverse[:3, 3].tolist())
    reference = grid.empty_image()
    hu, valid = (
        sitk.GetArrayFromImage(
            sitk.Resample(volume.grid.to_image(array), reference, transform, sitk.sitkLinear, fill)
        )
        for array, fill in ((volume.hu, LOWEST_HU), (volume.valid, 0.0))
    )
    hu = np.where(valid > 0.99, np.clip(hu, LOWEST_HU, HIGHEST_HU), -2000.0)
    return prepare_volume(grid.to_image(hu))


def rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rotation matrix about a unit axis (Rodrigues)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def about(center: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """Homogeneous matrix of a linear map that keeps one point."""
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = center - linear @ center
    return matrix


def summarize(rows: list[dict[str, object]], out: Path) -> str:
    """Areas under ROC curves and the operating point, as Markdown; rows as CSV."""
    wrong = [row for row in rows if row["verdict"] == "wrong"]
    right = [row for row in rows if row["verdict"] == "right"]
    table: list[dict[str, object]] = []
    for measure in (*MEASURES, "uncertainty"):
        sign = -1.0 if measure in ("similarity", "mirror_margin") else 1.0
        bad = sign * np.array([row[measure] for row in wrong])
        good = sign * np.array([row[measure] for row in right])
        entry: dict[str, object] = {"measure": measure, "AUC": area_under_roc(bad, good)}
        for rate in (0.0, 0.05):
            edge = np.quantile(good, 1.0 - rate)
            entry[f"caught at {rate:.0%} false alarms"] = float((bad > edge).mean())
        table.append(entry)
    fired = [
        float(np.mean([row["uncertainty"] >= ALARM_UNCERTAINTY for row in kind]))
        for kind in (wrong, right)
    ]
    cut_off = [row for row in rows if row["verdict"] == "uncovered"]
    refused = [
        row
        for row in cut_off
        if row["coverage"] < REJECT_COVERAGE or row["uncertainty"] >= ALARM_UNCERTAINTY
    ]
    notes = [
        f"{len(wrong)} wrong and {len(right)} right alignments, {len(cut_off)} without most of "
        f"the heart, {len(rows) - len(wrong) - len(right) - len(cut_off)} between.",
        f"The shipped threshold {ALARM_UNCERTAINTY:g} fires on {fired[0]:.1%} of the wrong and "
        f"{fired[1]:.1%} of the right ones.",
        f"Of the {len(cut_off)} without most of the heart, coverage below {REJECT_COVERAGE:g} or "
        f"the alarm catch {len(refused)}.",
    ]
    write_results("alignment_alarm", rows, out)
    return write_results("alignment_alarm_roc", table, out, notes=notes)


def area_under_roc(bad: np.ndarray, good: np.ndarray) -> float:
    """Chance that a wrong alignment ranks above a right one; ties count half."""
    difference = bad[:, None] - good[None]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


if __name__ == "__main__":
    main()
