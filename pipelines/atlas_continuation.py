"""Whose build a folder holds, and an atlas that another one goes on from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.results import ATLAS_NAME, RECORD_NAME, read_atlas_image
from atlas.settings import FORMAT, AtlasSettings
from atlas.subject_transform import read_subject_transform
from atlas.subjects import SPLIT_NAME, Subject, is_drawn_split
from atlas.work_folder import WORK_NAME, WorkFolder
from pipelines.atlas_cohort import CohortEntry
from pipelines.slice_geometry import listed
from registration.atomic_files import write_atomically
from registration.file_digest import file_sha256

if TYPE_CHECKING:
    from atlas.atlas_mean import AtlasMean
    from atlas.subject_transform import Matrix

SETTINGS_NAME = "settings.json"
COHORT_NAME = "cohort.json"


@dataclass(frozen=True, slots=True)
class Continuation:
    """An atlas to go on from.

    Args:
        folder: Its folder, with its working files.
        mean: Its mean.
        entries: Its subjects.
        known: Their affine maps.
    """

    folder: Path
    mean: AtlasMean
    entries: tuple[CohortEntry, ...]
    known: Mapping[str, Matrix]


class OtherBuildError(ValueError):
    """The output folder holds a build of another cohort or with other settings."""


def read_continuation(folder: Path) -> tuple[Continuation, AtlasSettings]:
    """A finished atlas to go on from, and how it was built.

    Raises:
        ValueError: If it is not finished, or its working files are gone, also in part.
    """
    work = WorkFolder(folder / WORK_NAME)
    if not (folder / RECORD_NAME).exists() or not (work.root / COHORT_NAME).exists():
        raise ValueError(
            f"{folder} must hold a finished atlas with its working files (--keep work). "
            "Build it again, or finish it by its own command."
        )
    written = json.loads((work.root / SETTINGS_NAME).read_text(encoding="utf-8"))
    settings = AtlasSettings.from_dict(written["settings"], written.get("format", FORMAT))
    cohort = json.loads((work.root / COHORT_NAME).read_text(encoding="utf-8"))
    entries = tuple(_entry_from(row) for row in cohort)
    lost = [entry.subject.subject_id for entry in entries if not _is_prepared(work, entry)]
    if lost:
        raise ValueError(
            f"{folder} has lost the working files of {listed(lost)}; build the atlas again"
        )
    known = {}
    for entry in entries:
        facts = work.root / "final" / f"{entry.subject.subject_id}.facts.npz"
        if facts.exists():
            known[entry.subject.subject_id] = read_subject_transform(facts).matrix
    mean = read_atlas_image(folder, settings.modality)
    return Continuation(folder, mean, entries, known), settings


def new_entries(
    continuation: Continuation, entries: Sequence[CohortEntry]
) -> tuple[tuple[CohortEntry, ...], tuple[str, ...]]:
    """Subjects that an atlas does not hold yet, and the ids of those that it does.

    A copy under another name is of those: counted twice, it would draw the mean to itself.

    Raises:
        ValueError: If an id of the atlas stands for another image.
    """
    before = {
        entry.subject.subject_id: _content_hash(continuation, entry)
        for entry in continuation.entries
    }
    held = {content: name for name, content in before.items()}
    new, known, others = [], [], []
    for entry in entries:
        name, content = entry.subject.subject_id, entry.candidate.content_hash
        if before.get(name) == content:
            known.append(name)
        elif name in before:
            others.append(f"{name} is another image than {name} of ATLAS")
        elif content in held:
            known.append(f"{name} (which is {held[content]} of ATLAS)")
        else:
            new.append(entry)
    if others:
        raise ValueError(f"{listed(others)}; give ids in a table")
    return tuple(new), tuple(known)


def _content_hash(continuation: Continuation, entry: CohortEntry) -> str:
    """Digest of what was prepared; of the files themselves where they were refused, if there."""
    work = WorkFolder(continuation.folder / WORK_NAME)
    facts = work.member(entry.subject.subject_id).with_suffix(".json")
    digest = json.loads(facts.read_text(encoding="utf-8"))["sha256"] if facts.exists() else None
    if digest is None and all(path.exists() for path in entry.candidate.files):
        digest = entry.candidate.content_hash
    return str(digest or "")


def _is_prepared(work: WorkFolder, entry: CohortEntry) -> bool:
    """Whether a subject can go on without its images: it is prepared, or was refused."""
    name = entry.subject.subject_id
    member = work.member(name)
    is_ready = member.exists() and member.with_suffix(".json").exists()
    return is_ready or work.refusal(name).exists()


def refined_settings(settings: AtlasSettings) -> AtlasSettings:
    """How an atlas goes on: a round of each affine stage to place new subjects, then its last one.

    The focused one is among them: the mean of a mixed cohort is in register at the heart, and
    would be brought out of it by maps to whole chests alone.
    """
    affine = [stage for stage in settings.stages if stage.kind == "affine"]
    deformable = [stage for stage in settings.stages if stage.kind == "deformable"]
    shorter = (replace(stage, rounds=1) for stage in (*affine, *deformable[:-1]))
    return replace(settings, stages=(*shorter, *deformable[-1:]) or settings.stages)


def claim_folder(
    work: WorkFolder,
    entries: Sequence[CohortEntry],
    settings: AtlasSettings,
    continuation: Continuation | None,
) -> None:
    """Mark the folder as this build's, or find that it is another's and write nothing.

    Raises:
        OtherBuildError: If it is, or holds an atlas that does not say whose it is.
    """
    wanted = {
        "format": FORMAT,
        "settings": json.loads(json.dumps(settings.to_dict())),
        "subjects": [_signature(entry) for entry in entries],
        "refined": None if continuation is None else file_sha256(continuation.folder / ATLAS_NAME),
    }
    path = work.root / SETTINGS_NAME
    if path.exists():
        if _claimed(path) != wanted:
            raise OtherBuildError(
                "the folder holds an atlas of another cohort, with other settings, or of an "
                "earlier version; choose another folder, or --fresh to begin anew"
            )
        return
    if (work.root.parent / RECORD_NAME).exists():
        raise OtherBuildError(
            f"the folder holds an atlas without {WORK_NAME}/{SETTINGS_NAME}, so that it cannot be "
            "told whether it is of this cohort; choose another folder, or --fresh to begin anew"
        )
    work.root.mkdir(exist_ok=True)
    rows = [_row_of(entry) for entry in entries]
    write_atomically(work.root / COHORT_NAME, json.dumps(rows, indent=1) + "\n")
    # last, as it declares the folder claimed
    write_atomically(path, json.dumps(wanted, indent=1) + "\n")


def _claimed(path: Path) -> dict[str, Any]:
    """What a folder is claimed for; settings that an earlier version did not have are defaults."""
    claimed: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    settings = AtlasSettings.from_dict(claimed["settings"])
    return {**claimed, "settings": json.loads(json.dumps(settings.to_dict()))}


def drop_working_files(work: WorkFolder) -> None:
    """Delete what a finished build does not need; whose build it was stays known."""
    for path in work.root.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != SETTINGS_NAME:
            path.unlink(missing_ok=True)


def _signature(entry: CohortEntry) -> list[Any]:
    """What tells one state of a subject's files from another, without reading them."""
    paths = [*entry.candidate.files, entry.subject.mask, entry.subject.label]
    sizes = [path.stat().st_size if path is not None and path.exists() else -1 for path in paths]
    times = [path.stat().st_mtime_ns if path is not None and path.exists() else 0 for path in paths]
    return [entry.subject.subject_id, entry.subject.group, sum(sizes), max(times)]


def _row_of(entry: CohortEntry) -> dict[str, Any]:
    """A subject as JSON; paths are absolute, as `refine` may be run from elsewhere."""
    subject, candidate = entry.subject, entry.candidate
    return {
        "id": subject.subject_id,
        "group": subject.group,
        "mask": None if subject.mask is None else str(subject.mask.resolve()),
        "label": None if subject.label is None else str(subject.label.resolve()),
        "files": [str(path) for path in candidate.files],
        "source": candidate.source,
        "kind": candidate.kind,
    }


def _entry_from(row: Mapping[str, Any]) -> CohortEntry:
    from pipelines.discovery import SeriesCandidate

    files = tuple(Path(path) for path in row["files"])
    mask, label = (None if row[name] is None else Path(row[name]) for name in ("mask", "label"))
    return CohortEntry(
        Subject(row["id"], files[0], mask, label, row["group"]),
        SeriesCandidate(files, row["source"], kind=row["kind"]),
    )


def take_members(continuation: Continuation, work: WorkFolder) -> None:
    """Copy prepared subjects and labels of an atlas, so that its images need not be there."""
    there = WorkFolder(continuation.folder / WORK_NAME)
    work.member("x").parent.mkdir(parents=True, exist_ok=True)
    for entry in continuation.entries:
        name = entry.subject.subject_id
        facts = there.member(name).with_suffix(".json")
        others = (there.member(name), there.label(name), there.refusal(name))
        for path in (*others, facts):  # facts last
            copy = work.member(name).parent / path.name
            if path.exists() and not copy.exists():
                write_atomically(copy, path.read_bytes())


def with_split_of(before: Path, out: Path) -> Path:
    """Folder with the split of the atlas before: who was held out stays so."""
    if (before / SPLIT_NAME).exists() and not (out / SPLIT_NAME).exists():
        write_atomically(out / SPLIT_NAME, (before / SPLIT_NAME).read_bytes())
    return out


def has_split_of_its_own(out: Path) -> bool:
    """Whether the split in a folder was made by the build there, and not by hand.

    What another atlas went on with is a copy of the split there, and counts as made by the build.
    """
    claim = out / WORK_NAME / SETTINGS_NAME
    if not (out / SPLIT_NAME).exists() or not claim.exists():
        return False
    claimed = json.loads(claim.read_text(encoding="utf-8"))
    groups = {name: group for name, group, *_ in claimed["subjects"]}
    settings = claimed["settings"]
    share, seed = settings["held_out_share"], settings["seed"]
    is_drawn = is_drawn_split(out / SPLIT_NAME, groups, share=share, seed=seed)
    return is_drawn or claimed["refined"] is not None
