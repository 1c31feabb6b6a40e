"""What a build leaves for its user: images, transforms of every subject, tables."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from atlas import tasks
from atlas.atlas_mean import AtlasMean
from atlas.builder import AtlasBuilder, BuiltAtlas
from atlas.label_fusion import fused
from atlas.member import Modality
from atlas.registration_methods import registration_grid
from atlas.subject_transform import read_subject_transform
from registration.atomic_files import placing, write_atomically
from registration.geometry import ImageGrid

ATLAS_NAME = "atlas.nii.gz"
DEVIATION_NAME = "deviation.nii.gz"
COVERAGE_NAME = "coverage.nii.gz"
LABELS_NAME = "labels.nii.gz"
AGREEMENT_NAME = "labels-agreement.nii.gz"
HISTORY_NAME = "history.csv"
SUBJECTS_NAME = "subjects.csv"
RECORD_NAME = "atlas.json"

PADDING_HU = -2048
"""Value of a CT atlas where too few subjects are [HU]; read as padding, as in any CT."""

HISTORY_COLUMNS = (
    "round",
    "stage",
    "similarity",
    "held_out_similarity",
    "pairwise_ncc",
    "sharpness",
    "change",
    "mean_displacement_mm",
    "subjects",
    "left_out",
    "seconds",
)

SUBJECT_COLUMNS = (
    "id",
    "part",
    "similarity",
    "moved_mm",
    "log_jacobian_sd",
    "folding",
    "inverse_error_mm",
    "left_out",
    "failed",
    "review",
)


@dataclass(frozen=True, slots=True)
class AtlasResults:
    """What was written.

    Args:
        subjects: One row per subject; see `SUBJECT_COLUMNS`.
        mean_displacement_mm: Mean size of the mean displacement of the averaged subjects,
            all deformable stages together: how far the atlas is from the mean shape.
        labels: Labels that were fused.
        failed: Id and reason of every subject whose files could not be written.
    """

    subjects: tuple[Mapping[str, Any], ...]
    mean_displacement_mm: float
    labels: tuple[int, ...]
    failed: tuple[tuple[str, str], ...]


def write_results(builder: AtlasBuilder, built: BuiltAtlas, out: Path) -> AtlasResults:
    """Write images, transforms and tables of a finished build.

    A subject whose files could not be written is named in its row; the others have theirs.

    Args:
        builder: That built it.
        built: Where it ended.
        out: Folder of the atlas.
    """
    mean = built.mean
    write_mean_images(mean, out)
    rows, finished, failed = _finish_subjects(builder, built, out)
    averaged = set(built.records[-1]["averaged"])
    shift = _mean_displacement_mm(
        [task.displacement for task in finished if task.subject_id in averaged], mean.grid
    )
    labels = _fuse_labels(
        [out / "labels" / f"{task.subject_id}.nii.gz" for task in finished
         if task.label is not None and task.subject_id in averaged],
        mean.grid,
        out,
    )  # fmt: skip
    write_atomically(out / HISTORY_NAME, history_text(built.records))
    write_atomically(out / SUBJECTS_NAME, _table(SUBJECT_COLUMNS, rows))
    return AtlasResults(tuple(rows), shift, labels, tuple(failed.items()))


def write_mean_images(mean: AtlasMean, out: Path) -> None:
    """Write mean, deviation and coverage as NIfTI."""
    covered = mean.coverage > 0
    if mean.modality == "ct":
        values = np.where(mean.valid, np.rint(mean.values), PADDING_HU).astype(np.int16)
    else:
        values = np.where(covered, mean.values, 0.0).astype(np.float32)
    counts = mean.coverage.astype(np.uint16)
    for name, array in (
        (ATLAS_NAME, values),
        (DEVIATION_NAME, mean.deviation),
        (COVERAGE_NAME, counts),
    ):
        _write_image(mean.grid.to_image(array), out / name)


def read_atlas_image(folder: Path, modality: Modality) -> AtlasMean:
    """The mean of a finished atlas, to go on from."""
    values = sitk.ReadImage(str(folder / ATLAS_NAME), sitk.sitkFloat32)
    coverage = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / COVERAGE_NAME)))
    deviation = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / DEVIATION_NAME)))
    grid = ImageGrid.from_image(values)
    members = int(coverage.max())
    array = sitk.GetArrayFromImage(values)
    if modality == "ct":
        array = np.maximum(array, -1000.0)
    return AtlasMean(
        array, deviation.astype(np.float32), coverage.astype(np.float32), grid, members, modality
    )


def history_text(records: Sequence[Mapping[str, Any]]) -> str:
    """The rounds as CSV."""
    rows = [
        {
            **{column: record.get(column) for column in HISTORY_COLUMNS},
            "subjects": len(record["averaged"]),
            "left_out": ";".join(doubt["subject_id"] for doubt in record["left_out"]),
        }
        for record in records
    ]
    return _table(HISTORY_COLUMNS, rows)


def write_record(record: Mapping[str, Any], out: Path) -> None:
    """Write `atlas.json`; its presence says that the atlas is finished."""
    write_atomically(out / RECORD_NAME, json.dumps(record, indent=1) + "\n")


def view_path(work: Path, subject_id: str) -> Path:
    """Planes of a finished subject, for the report."""
    return work / "final" / f"{subject_id}.view.npz"


def displacement_path(work: Path, subject_id: str) -> Path:
    """Displacement of a finished subject, for what is left of the mean displacement."""
    return work / "final" / f"{subject_id}.displacement.npy"


def drop_shown(work: Path) -> None:
    """Delete what only the last tables and the report of a finished atlas are made of."""
    for path in (work / "final").glob("*"):
        if path.name.endswith((".view.npz", ".displacement.npy")):
            path.unlink(missing_ok=True)


def _finish_subjects(
    builder: AtlasBuilder, built: BuiltAtlas, out: Path
) -> tuple[list[dict[str, Any]], list[tasks.FinishTask], dict[str, str]]:
    """Rows of all subjects, tasks of those whose files are there, and why others' are not."""
    final = builder.work.root / "final"
    variant = str(built.records[-1]["variant"])
    items = [
        tasks.FinishTask(
            name,
            builder.work.member(name),
            builder.work.kept(built.rounds, variant, name),
            built.mean.grid,
            out,
            final / f"{name}.facts.npz",
            view_path(builder.work.root, name),
            displacement_path(builder.work.root, name),
            builder.work.label(name) if builder.work.label(name).exists() else None,
        )
        for name in builder.subjects
    ]
    errors = builder.run_tasks("writing", tasks.finish, items)
    failed = {
        item.subject_id: f"its files could not be written ({type(error).__name__})"
        for item, error in errors.items()
    }
    reasons = {doubt.subject_id: doubt.reason for doubt in built.doubts}
    rows = []
    for item in items:
        name = item.subject_id
        facts = read_subject_transform(item.transform if name in failed else item.facts).facts
        part = "held-out" if name in builder.held_out else "training"
        row = {column: facts.get(column) for column in SUBJECT_COLUMNS}
        row |= {
            "id": name,
            "part": part,
            "left_out": reasons.get(name, ""),
            "failed": failed.get(name, ""),
            "review": ";".join(builder.work.reviews(name)),
        }
        rows.append(row)
    return rows, [item for item in items if item.subject_id not in failed], failed


def _mean_displacement_mm(paths: Sequence[Path], grid: ImageGrid) -> float:
    """Mean size of the mean field; one field is in memory at a time."""
    shape = registration_grid(grid).shape
    total = np.zeros((*shape, 3))
    for path in paths:
        total += np.load(path)
    return float(np.linalg.norm(total / max(1, len(paths)), axis=-1).mean())


def _fuse_labels(paths: Sequence[Path], grid: ImageGrid, out: Path) -> tuple[int, ...]:
    """Write the label most subjects agree on per voxel, and the share of them that do."""
    if not paths:
        return ()
    labels, share, names = fused(paths, grid)
    _write_image(grid.to_image(labels), out / LABELS_NAME)
    _write_image(grid.to_image(share), out / AGREEMENT_NAME)
    return names


def _write_image(image: sitk.Image, path: Path) -> None:
    with placing(path) as part:
        sitk.WriteImage(image, str(part), True)


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(row.get(name)) for name in columns})
    return stream.getvalue()


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
