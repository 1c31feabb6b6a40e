"""A cohort to an atlas in one folder: what `calcium-score atlas` does."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.builder import AtlasBuilder, BuiltAtlas, Spread
from atlas.results import (
    ATLAS_NAME,
    COVERAGE_NAME,
    DEVIATION_NAME,
    HISTORY_NAME,
    LABELS_NAME,
    RECORD_NAME,
    SUBJECTS_NAME,
    AtlasResults,
    read_atlas_image,
    sha256,
    write_record,
    write_results,
)
from atlas.settings import FORMAT, AtlasSettings
from atlas.subject_transform import read_subject_transform
from atlas.subjects import Subject, held_out_ids
from atlas.work_folder import WORK_NAME, WorkFolder
from pipelines.atlas_cohort import CohortEntry, PrepareTask, prepare, read_refusal
from pipelines.atlas_report import REPORT_NAME, write_report
from pipelines.log_file import LOGGER, logging_to
from pipelines.output_lock import locked
from pipelines.single_thread import SINGLE_THREAD
from pipelines.version import package_versions, program_version
from pipelines.workers import Work, connected
from registration.atomic_files import remove_parts, write_atomically

if TYPE_CHECKING:
    from atlas.atlas_mean import AtlasMean
    from atlas.subject_transform import Matrix

LOG_NAME = "atlas.log"
SETTINGS_NAME = "settings.json"
COHORT_NAME = "cohort.json"
OWN_FOLDERS = ("transforms", "jacobians", "labels", WORK_NAME)

KEEP = ("outputs", "work", "rounds")
"""What stays when an atlas is finished: results only; prepared subjects and last transforms,
from which `refine` goes on; or the files of every round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AtlasExecution:
    """How the work is done; none of it changes the atlas.

    Args:
        workers: Processes to work in; 1 means this one.
        scheduler: Address of a running Dask scheduler, in place of `workers`.
        keep: One of `KEEP`.
        fresh: Forget an earlier build in the same folder.
        command: The command line, for the record.
        report: Called with lines of plain text.
        on_progress: Called with what is being done, how much is done, and of how much.
    """

    workers: int = 1
    scheduler: str | None = None
    keep: str = "work"
    fresh: bool = False
    command: tuple[str, ...] = ()
    report: Callable[[str], None] = print
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None


@dataclass(frozen=True, slots=True)
class AtlasSummary:
    """What a build came to.

    Args:
        record: What `atlas.json` holds.
        left_out: Id and reason of every subject that is not in the atlas.
    """

    record: Mapping[str, Any]
    left_out: tuple[tuple[str, str], ...]


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


def build_atlas(
    entries: Sequence[CohortEntry],
    out: Path,
    settings: AtlasSettings,
    execution: AtlasExecution,
    *,
    continuation: Continuation | None = None,
) -> AtlasSummary:
    """Build an atlas, or go on with one that was interrupted.

    Args:
        entries: The cohort.
        out: Folder of the atlas; may hold an unfinished build of the same.
        settings: What decides the atlas.
        execution: How the work is done.
        continuation: Atlas to go on from, whose subjects are among the entries.

    Raises:
        AtlasError: If too few subjects can be used or fit each other.
        OtherBuildError: If the folder belongs to another build.
        OutputInUseError: If another run writes to the same folder.
        WorkersLostError: If all workers are gone; what is finished stays finished.
    """
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with locked(out), logging_to(out / LOG_NAME, delay=True):
        if execution.fresh:
            remove_build(out)
        work = WorkFolder(out / WORK_NAME)
        work.root.mkdir(exist_ok=True)
        for folder in (out, work.root):
            remove_parts(folder)
        _claim(work, entries, settings, continuation)
        finished = _finished_record(out)
        if finished is not None:
            execution.report("The atlas is finished; nothing is left to do.")
            return _summary(finished)
        if continuation is not None:
            _take_members(continuation, work)
        with _spreading(execution) as spread:
            usable, refused = _prepared(entries, work, settings, spread, execution)
            split = out if continuation is None else _with_split_of(continuation.folder, out)
            held_out = held_out_ids(
                split,
                [entry.subject for entry in usable],
                share=settings.held_out_share,
                seed=settings.seed,
            )
            builder = AtlasBuilder(
                work,
                [entry.subject.subject_id for entry in usable],
                held_out,
                settings,
                spread=spread,
                reference=None if continuation is None else continuation.mean,
                known=None if continuation is None else continuation.known,
                keep_rounds=execution.keep == "rounds",
                report=execution.report,
                on_progress=execution.on_progress,
            )
            built = builder.build()
            subjects = [entry.subject for entry in usable]
            results = write_results(builder, built, subjects, out)
        record = _record(entries, refused, settings, execution, built, results, out)
        record["seconds"] = round(time.monotonic() - started, 1)
        write_report(record, built, results, builder, subjects, out)
        record["files"] = _digests(out)
        write_record(record, out)
        if execution.keep == "outputs":
            shutil.rmtree(work.root, ignore_errors=True)
    return _summary(record)


def read_continuation(folder: Path) -> tuple[Continuation, AtlasSettings]:
    """A finished atlas to go on from, and how it was built.

    Raises:
        ValueError: If it is not finished, or its working files are gone.
    """
    work = WorkFolder(folder / WORK_NAME)
    if not (folder / RECORD_NAME).exists() or not (work.root / COHORT_NAME).exists():
        raise ValueError(
            f"{folder} must hold a finished atlas with its working files (--keep work). "
            "Build it again, or finish it by its own command."
        )
    from atlas.settings import Stage

    values = json.loads((work.root / SETTINGS_NAME).read_text(encoding="utf-8"))["settings"]
    values["stages"] = tuple(Stage(**stage) for stage in values["stages"])
    settings = AtlasSettings(**values)
    cohort = json.loads((work.root / COHORT_NAME).read_text(encoding="utf-8"))
    entries = tuple(_entry_from(row) for row in cohort)
    known = {}
    for entry in entries:
        facts = work.root / "final" / f"{entry.subject.subject_id}.facts.npz"
        if facts.exists():
            known[entry.subject.subject_id] = read_subject_transform(facts).matrix
    mean = read_atlas_image(folder, settings.modality)
    return Continuation(folder, mean, entries, known), settings


def refined_settings(settings: AtlasSettings) -> AtlasSettings:
    """How an atlas goes on: one affine round to place new subjects, then its last stage."""
    affine = next((s for s in settings.stages if s.kind == "affine" and not s.focused), None)
    deformable = tuple(s for s in settings.stages if s.kind == "deformable")
    first = () if affine is None else (replace(affine, rounds=1),)
    shorter = tuple(replace(stage, rounds=1) for stage in deformable[:-1])
    return replace(settings, stages=(*first, *shorter, *deformable[-1:]) or settings.stages)


def remove_build(out: Path) -> None:
    """Delete what a build wrote into a folder; files of others stay."""
    for name in OWN_FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)
    for path in out.glob("*"):
        if path.name in _digest_names() or path.name in (RECORD_NAME, REPORT_NAME, "split.csv"):
            path.unlink(missing_ok=True)


def perform(function: Callable[[Any], None], item: Any) -> None:
    """Do a task with one thread, in whatever process this is."""
    os.environ.update(SINGLE_THREAD)  # before TensorFlow is first imported
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    function(item)


@contextlib.contextmanager
def _spreading(execution: AtlasExecution) -> Iterator[Spread]:
    """How tasks are done: here, or by workers that stay for the whole build."""

    def here(
        function: Callable[[Any], None], items: Sequence[Any]
    ) -> Iterator[tuple[Any, BaseException | None]]:
        for item in items:
            try:
                perform(function, item)
                yield item, None
            except Exception as error:
                yield item, _logged(item, error)

    if execution.workers == 1 and execution.scheduler is None:
        yield here
        return
    with connected(execution.workers, execution.scheduler) as client:

        def there(
            function: Callable[[Any], None], items: Sequence[Any]
        ) -> Iterator[tuple[Any, BaseException | None]]:
            work: Work[Any, BaseException | None] = Work(partial(perform, function), _logged)
            yield from work.on_client(client, items)

        yield there


def _logged(item: Any, error: BaseException) -> BaseException:
    """The error itself, its place in the program told to the log without what it quotes."""
    name = getattr(item, "subject_id", type(item).__name__)
    frames = "".join(traceback.format_tb(error.__traceback__))
    LOGGER.error("%s: %s\n%s", name, type(error).__name__, frames)
    return error


def _prepared(
    entries: Sequence[CohortEntry],
    work: WorkFolder,
    settings: AtlasSettings,
    spread: Spread,
    execution: AtlasExecution,
) -> tuple[list[CohortEntry], list[tuple[str, str]]]:
    """Subjects that can be used, and id and reason of the others."""
    items = []
    for entry in entries:
        name = entry.subject.subject_id
        facts = work.member(name).with_suffix(".json")
        if not facts.exists():
            items.append(
                PrepareTask(
                    entry,
                    settings.modality,
                    settings.spacing_mm,
                    work.member(name),
                    work.refusal(name),
                    facts,
                )
            )
    execution.on_progress("preparing", 0, len(items))
    for done, (item, error) in enumerate(spread(prepare, items), start=1):
        if error is not None:
            reason = f"it could not be read ({type(error).__name__})"
            content = json.dumps({"code": "", "message": reason})
            item.refusal.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(item.refusal, content + "\n")
        execution.on_progress("preparing", done, len(items))
    usable, refused = [], []
    for entry in entries:
        refusal = read_refusal(work.refusal(entry.subject.subject_id))
        if refusal is None:
            usable.append(entry)
            continue
        told = ": ".join(part for part in (refusal["code"], refusal["message"]) if part)
        refused.append((entry.subject.subject_id, told))
        execution.report(f"{entry.subject.subject_id} cannot be used: {told}")
    execution.report(f"{len(usable)} subjects prepared, {len(refused)} refused")
    return usable, refused


def _claim(
    work: WorkFolder,
    entries: Sequence[CohortEntry],
    settings: AtlasSettings,
    continuation: Continuation | None,
) -> None:
    """Mark the folder as this build's, or find that it is another's.

    Raises:
        OtherBuildError: If it is.
    """
    wanted = {
        "format": FORMAT,
        "settings": json.loads(json.dumps(settings.to_dict())),
        "subjects": [_signature(entry) for entry in entries],
        "refined": None if continuation is None else sha256(continuation.folder / ATLAS_NAME),
    }
    path = work.root / SETTINGS_NAME
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8")) != wanted:
            raise OtherBuildError(
                "the folder holds an atlas of another cohort, or with other settings; choose "
                "another folder, or --fresh to begin anew"
            )
        return
    write_atomically(path, json.dumps(wanted, indent=1) + "\n")
    rows = [_row_of(entry) for entry in entries]
    write_atomically(work.root / COHORT_NAME, json.dumps(rows, indent=1) + "\n")


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


def _take_members(continuation: Continuation, work: WorkFolder) -> None:
    """Copy the prepared subjects of an atlas, so that its images need not be there."""
    there = WorkFolder(continuation.folder / WORK_NAME)
    work.member("x").parent.mkdir(parents=True, exist_ok=True)
    for entry in continuation.entries:
        name = entry.subject.subject_id
        facts = there.member(name).with_suffix(".json")
        for path in (there.member(name), there.refusal(name), facts):  # facts last
            copy = work.member(name).parent / path.name
            if path.exists() and not copy.exists():
                write_atomically(copy, path.read_bytes())


def _with_split_of(before: Path, out: Path) -> Path:
    """Folder with the split of the atlas before: who was held out stays so."""
    if (before / "split.csv").exists() and not (out / "split.csv").exists():
        write_atomically(out / "split.csv", (before / "split.csv").read_bytes())
    return out


def _finished_record(out: Path) -> Mapping[str, Any] | None:
    """The record of a finished atlas whose files are all there."""
    path = out / RECORD_NAME
    if not path.exists():
        return None
    record: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    there = all((out / name).exists() for name in record.get("files", {}))
    return record if there and record.get("files") else None


def _record(
    entries: Sequence[CohortEntry],
    refused: Sequence[tuple[str, str]],
    settings: AtlasSettings,
    execution: AtlasExecution,
    built: BuiltAtlas,
    results: AtlasResults,
    out: Path,
) -> dict[str, Any]:
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
        "mean_displacement_mm": results.mean_displacement_mm,
        "mean_displacement_vox": results.mean_displacement_mm / voxel,
        "pairwise_ncc": {"start": first["pairwise_ncc"], "end": last["pairwise_ncc"]},
        "sharpness": {"start": first["sharpness"], "end": last["sharpness"]},
        "labels": list(results.labels),
        "workers": execution.workers,
        "scheduler": execution.scheduler,
        "notice": "research use, not a medical device",
    }


def _summary(record: Mapping[str, Any]) -> AtlasSummary:
    left_out = tuple((row["id"], row["reason"]) for row in record["left_out"])
    return AtlasSummary(record, left_out)


def _digest_names() -> tuple[str, ...]:
    return (ATLAS_NAME, DEVIATION_NAME, COVERAGE_NAME, LABELS_NAME, HISTORY_NAME, SUBJECTS_NAME)


def _digests(out: Path) -> dict[str, str]:
    return {name: sha256(out / name) for name in _digest_names() if (out / name).exists()}
