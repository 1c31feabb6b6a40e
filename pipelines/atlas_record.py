"""What an atlas says of itself in `atlas.json`, and by which files it is known to be finished."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.results import (
    AGREEMENT_NAME,
    ATLAS_NAME,
    COVERAGE_NAME,
    DEVIATION_NAME,
    HISTORY_NAME,
    LABELS_NAME,
    RECORD_NAME,
    SUBJECTS_NAME,
    AtlasResults,
)
from atlas.settings import AtlasSettings
from atlas.work_folder import WORK_NAME, WorkFolder
from pipelines.atlas_cohort import CohortEntry
from pipelines.version import package_versions, program_version
from registration.file_digest import file_sha256

if TYPE_CHECKING:
    from atlas.builder import BuiltAtlas
    from pipelines.atlas_build import AtlasExecution

RESULT_NAMES = (
    ATLAS_NAME,
    DEVIATION_NAME,
    COVERAGE_NAME,
    LABELS_NAME,
    AGREEMENT_NAME,
    HISTORY_NAME,
    SUBJECTS_NAME,
)
"""Files of a finished atlas whose digests are kept."""


@dataclass(frozen=True, slots=True)
class AtlasSummary:
    """What a build came to.

    Args:
        record: What `atlas.json` holds.
        left_out: Id and reason of every subject that is not in the atlas.
        failed: Id and reason of every subject whose files could not be written.
    """

    record: Mapping[str, Any]
    left_out: tuple[tuple[str, str], ...]
    failed: tuple[tuple[str, str], ...] = ()


def finished_record(out: Path) -> Mapping[str, Any] | None:
    """The record of a finished atlas whose files are all there, also those of every subject."""
    path = out / RECORD_NAME
    if not path.exists():
        return None
    record: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    there = all((out / name).exists() for name in record.get("files", {}))
    there = there and not record.get("failed")
    return record if there and record.get("files") else None


def atlas_record(
    entries: Sequence[CohortEntry],
    refused: Sequence[tuple[str, str]],
    settings: AtlasSettings,
    execution: AtlasExecution,
    built: BuiltAtlas,
    results: AtlasResults,
    out: Path,
) -> dict[str, Any]:
    """Everything `atlas.json` holds, except time and digests.

    Args:
        entries: The whole cohort.
        refused: Id and reason of subjects that could not be used.
        settings: What decided the atlas.
        execution: How the work was done.
        built: The atlas and its rounds.
        results: What was written of it.
        out: Its folder.
    """
    work = WorkFolder(out / WORK_NAME)
    first, last = built.records[0], built.records[-1]
    rows = {row["id"]: row for row in results.subjects}
    subjects = []
    for entry in entries:
        name = entry.subject.subject_id
        facts = work.member(name).with_suffix(".json")
        digest = json.loads(facts.read_text(encoding="utf-8"))["sha256"] if facts.exists() else None
        subjects.append(
            {
                "id": name,
                "group": entry.subject.group,
                "sha256": digest,
                "part": rows[name]["part"] if name in rows else "refused",
                "review": list(work.reviews(name)),
            }
        )
    voxel = settings.spacing_mm
    return {
        "program": f"calcium-score {program_version()}",
        "command": list(execution.command),
        "packages": package_versions(),
        "settings": settings.to_dict(),
        "size": list(built.mean.grid.size),
        "spacing_mm": list(built.mean.grid.spacing),
        "origin_mm": list(built.mean.grid.origin),
        "started_from": first["started_from"],
        "rounds": built.rounds,
        "subjects_averaged": len(last["averaged"]),
        "subjects": subjects,
        "left_out": [
            *({"id": name, "reason": reason} for name, reason in refused),
            *({"id": doubt.subject_id, "reason": doubt.reason} for doubt in built.doubts),
        ],
        "failed": [{"id": name, "reason": reason} for name, reason in results.failed],
        "mean_displacement_mm": results.mean_displacement_mm,
        "mean_displacement_vox": results.mean_displacement_mm / voxel,
        "pairwise_ncc": {"start": first["pairwise_ncc"], "end": last["pairwise_ncc"]},
        "sharpness": {"start": first["sharpness"], "end": last["sharpness"]},
        "labels": list(results.labels),
        "workers": execution.workers,
        "scheduler": execution.scheduler,
        "notice": "research use, not a medical device",
    }


def atlas_summary(record: Mapping[str, Any]) -> AtlasSummary:
    """What a record comes to."""
    left_out, failed = (
        tuple((row["id"], row["reason"]) for row in record.get(key, ()))
        for key in ("left_out", "failed")
    )
    return AtlasSummary(record, left_out, failed)


def result_digests(out: Path) -> dict[str, str]:
    """SHA-256 of every result that is there, by name."""
    return {name: file_sha256(out / name) for name in RESULT_NAMES if (out / name).exists()}
