"""`qc.html`: one atlas on one page, from the averages down to every subject.

A single file that needs nothing from outside, like the reports of scans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from atlas.atlas_mean import PLANES, AtlasMean, middle_planes, read_planes
from atlas.builder import AtlasBuilder, BuiltAtlas
from atlas.results import LABELS_NAME, AtlasResults, view_path
from atlas.subjects import Subject
from pipelines.atlas_pictures import (
    Chart,
    Picture,
    chart,
    gray_picture,
    grid_path,
    hung,
    map_picture,
    overlay_picture,
    window_of,
)
from pipelines.pages import page
from pipelines.pictures import outline_path
from pipelines.reasons import REASONS
from registration.atomic_files import write_atomically

REPORT_NAME = "qc.html"

SHOWN_SUBJECTS = 400
"""Subjects shown one by one, least alike first; a page with more is slow to open."""

JACOBIAN_LIMITS = (-1.0, 1.0)
"""Log-Jacobian at the ends of the color scale: shrunk or grown by a factor of e."""

INVERSE_LIMIT_MM = 2.0
"""Error of an inverse from which a card warns [mm]: small structures would be carried beside."""

LABEL_COLORS = ("#58d3e8", "#ffb02e", "#7be07b", "#ff7a9c", "#c79bff", "#fff27a")


@dataclass(frozen=True, slots=True)
class AverageRow:
    """Planes of one average.

    Args:
        title: Which.
        note: What was known then.
        pictures: One per plane.
    """

    title: str
    note: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class SubjectCard:
    """One subject on the page.

    Args:
        row: Its line of `subjects.csv`.
        group: Its group.
        overlays: Atlas and subject on top of each other, one per plane.
        grid: SVG path, width and height of the deformed grid.
        jacobian: Log-Jacobian map of the same plane.
        warning: What is wrong with its inverse, if anything is.
    """

    row: Mapping[str, Any]
    group: str
    overlays: tuple[Picture, ...]
    grid: tuple[str, float, float]
    jacobian: Picture
    warning: str


def write_report(
    record: Mapping[str, Any],
    built: BuiltAtlas,
    results: AtlasResults,
    builder: AtlasBuilder,
    subjects: Sequence[Subject],
    out: Path,
) -> None:
    """Write `qc.html`.

    Args:
        record: What `atlas.json` will hold.
        built: The finished build.
        results: What was written.
        builder: That built it, for its working files.
        subjects: The cohort.
        out: Folder of the atlas.
    """
    planes = {n: read_planes(builder.work.planes(n)) for n in _shown_rounds(built)}
    last = planes[built.rounds]
    window = window_of(
        np.concatenate([plane.ravel() for plane in last.values()]), built.mean.modality
    )
    spacing = built.mean.grid.spacing[0]
    groups = {subject.subject_id: subject.group for subject in subjects}
    ranked = sorted(results.subjects, key=lambda row: (not row["left_out"], row["similarity"]))
    html = page(
        "atlas.html",
        record=record,
        rounds=built.records,
        averages=_averages(built, planes, window, spacing),
        maps=_maps(built.mean, spacing),
        labels=_labels(out, results, last, window, spacing),
        charts=_charts(built),
        cards=[
            _card(row, groups[row["id"]], builder, last, window, spacing)
            for row in ranked[:SHOWN_SUBJECTS]
            if not row["failed"]
        ],
        n_subjects=len(ranked),
        left_out=record["left_out"],
        failed=record["failed"],
        unit="HU/mm" if built.mean.modality == "ct" else "per mm",
        planes=PLANES,
        grid_spacing=spacing,
        headline=headline(record),
        reasons=REASONS,
    )
    write_atomically(out / REPORT_NAME, html)


def headline(record: Mapping[str, Any]) -> str:
    """One sentence on what came of it."""
    averaged, total = record["subjects_averaged"], len(record["subjects"])
    held = sum(row["part"] == "held-out" for row in record["subjects"])
    told = f"Mean of {averaged} of {total} subjects after {record['rounds']} rounds"
    if held:
        told += f"; {held} held out to judge by"
    if record["left_out"]:
        told += f"; {len(record['left_out'])} left out, named below"
    if record["failed"]:
        told += f"; files of {len(record['failed'])} could not be written"
    return told + "."


def _shown_rounds(built: BuiltAtlas) -> list[int]:
    """The start, the end of every kind of stage, and the end."""
    shown = [0]
    for before, after in zip(built.records, built.records[1:], strict=False):
        if _kind(before) != _kind(after) and int(before["round"]) not in shown:
            shown.append(int(before["round"]))
    return sorted({*shown, built.rounds})


def _kind(record: Mapping[str, Any]) -> str:
    return str(record["stage"]).split(",")[0]


def _averages(
    built: BuiltAtlas,
    planes: Mapping[int, Mapping[str, Any]],
    window: tuple[float, float],
    spacing: float,
) -> list[AverageRow]:
    rows = []
    for number, shown in planes.items():
        record = built.records[number]
        title = "Before: " + _started(built) if number == 0 else f"After {_kind(record)} rounds"
        if number == built.rounds:
            title = "The atlas"
        note = f"sharpness {record['sharpness']:.3g}"
        if record["pairwise_ncc"] is not None:
            note += f", mean pairwise correlation {record['pairwise_ncc']:.3f}"
        pictures = tuple(gray_picture(shown[n], n, window, spacing, n) for n in PLANES)
        rows.append(AverageRow(title, note, pictures))
    return rows


def _started(built: BuiltAtlas) -> str:
    return str(built.records[0]["started_from"])


def _maps(mean: AtlasMean, spacing: float) -> list[AverageRow]:
    """Spread and coverage in color."""
    deviation = np.where(mean.valid, mean.deviation, np.nan)
    finite = deviation[np.isfinite(deviation)]
    top = float(np.percentile(finite, 99.0)) if finite.size else 1.0
    coverage = 100.0 * mean.coverage / max(1, mean.members)
    shown = (
        ("Spread between subjects", f"standard deviation, 0 to {top:.3g}", deviation,
         (0.0, max(top, 1e-6)), "magma"),
        ("Coverage", "share of the averaged subjects, 0 to 100 %", coverage, (0.0, 100.0),
         "viridis"),
    )  # fmt: skip
    rows = []
    for title, note, array, limits, colors in shown:
        cut = middle_planes(array)
        pictures = tuple(
            map_picture(np.asarray(cut[n], dtype=float), n, limits, spacing, colors) for n in PLANES
        )
        rows.append(AverageRow(title, note, pictures))
    return rows


def _labels(
    out: Path,
    results: AtlasResults,
    planes: Mapping[str, Any],
    window: tuple[float, float],
    spacing: float,
) -> list[dict[str, Any]]:
    """Outlines of the fused labels on the atlas, in the plane where most of them lies."""
    if not results.labels:
        return []
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(out / LABELS_NAME)))
    cut = middle_planes(array)
    shown = []
    for name in PLANES:
        picture = gray_picture(planes[name], name, window, spacing)
        outlines = [
            (outline_path(hung(np.asarray(cut[name] == value), name) > 0, spacing, spacing),
             LABEL_COLORS[number % len(LABEL_COLORS)], value)
            for number, value in enumerate(results.labels)
        ]  # fmt: skip
        shown.append({"name": name, "picture": picture, "outlines": outlines})
    return shown


def _charts(built: BuiltAtlas) -> list[Chart]:
    records = built.records
    similarities = {"similarity": "averaged"}
    if any(record.get("held_out_similarity") is not None for record in records):
        similarities["held_out_similarity"] = "held out"
    return [
        chart("Sharpness", records, {"sharpness": "slope"}, digits=1,
              note="Root mean square slope of the average's intensities."),
        chart("Mean pairwise correlation", records, {"pairwise_ncc": "pairs"},
              note="Of all pairs of averaged subjects, laid into the atlas."),
        chart("Correlation with the mean", records, similarities,
              note="Of each subject with the mean of the round before."),
        chart("Change of the atlas", records, {"change": "change"},
              note="Root mean square difference to the round before, relative to the spread."),
    ]  # fmt: skip


def _card(
    row: Mapping[str, Any],
    group: str,
    builder: AtlasBuilder,
    mean: Mapping[str, Any],
    window: tuple[float, float],
    spacing: float,
) -> SubjectCard:
    with np.load(view_path(builder.work.root, row["id"]), allow_pickle=False) as view:
        overlays = tuple(
            overlay_picture(mean[name], view[name], name, window, spacing) for name in PLANES
        )
        name = PLANES[0]
        grid = grid_path(view[f"{name}_field"], name)
        jacobian = map_picture(view[f"{name}_jacobian"], name, JACOBIAN_LIMITS, spacing, "RdBu_r")
    return SubjectCard(row, group, overlays, grid, jacobian, inverse_warning(row))


def inverse_warning(row: Mapping[str, Any]) -> str:
    """A sentence if what an inverse carries to the subject comes to lie far off, else nothing."""
    error = float(row["inverse_error_mm"])
    if error <= INVERSE_LIMIT_MM:
        return ""
    return (
        f"Warning: what its inverse carries from the atlas to it lies {error:.1f} mm off on "
        "average, as its transform is too steep there or folds."
    )
