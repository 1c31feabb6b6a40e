"""A cohort to an atlas in one folder: what `calcium-score atlas` does."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from atlas.builder import AtlasBuilder, Spread
from atlas.results import (
    RECORD_NAME,
    drop_shown,
    write_record,
    write_results,
)
from atlas.settings import AtlasSettings
from atlas.subjects import SPLIT_NAME, Subject, held_out_ids
from atlas.trained_method import copy_registration
from atlas.work_folder import WORK_NAME, WorkFolder
from pipelines.atlas_cohort import CohortEntry, PrepareTask, prepare, read_refusal
from pipelines.atlas_continuation import (
    Continuation,
    claim_folder,
    drop_working_files,
    has_split_of_its_own,
    take_members,
    with_split_of,
)
from pipelines.atlas_disk import disk_line
from pipelines.atlas_labels import keep_other_labels
from pipelines.atlas_record import (
    RESULT_NAMES,
    AtlasSummary,
    atlas_record,
    atlas_summary,
    finished_record,
    result_digests,
)
from pipelines.atlas_report import REPORT_NAME, write_report
from pipelines.log_file import LOGGER, logging_to
from pipelines.output_lock import locked
from pipelines.single_thread import SINGLE_THREAD
from pipelines.tensorflow_start import prefer_kernels
from pipelines.workers import Work, connected
from registration.atomic_files import remove_parts, write_atomically
from registration.registration_folder import read_registration

LOG_NAME = "atlas.log"
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


def build_atlas(
    entries: Sequence[CohortEntry],
    out: Path,
    settings: AtlasSettings,
    execution: AtlasExecution,
    *,
    continuation: Continuation | None = None,
    registration: Path | None = None,
) -> AtlasSummary:
    """Build an atlas, or go on with one that was interrupted.

    Args:
        entries: The cohort.
        out: Folder of the atlas; may hold an unfinished build of the same.
        settings: What decides the atlas.
        execution: How the work is done.
        continuation: Atlas to go on from, whose subjects are among the entries.
        registration: Folder of the trained registration, for that method; by default the one
            that the continued atlas went by.

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
        claim_folder(work, entries, settings, continuation)
        for folder in (out, work.root):
            remove_parts(folder)
        finished = finished_record(out)
        if finished is not None:
            execution.report("The atlas is finished; nothing is left to do.")
            tidy_finished(work, execution.keep)
            return atlas_summary(finished)
        _take_over(work, settings, continuation, registration)
        with _spreading(execution) as spread:
            usable, refused = _prepared(entries, work, settings, spread, execution)
            subjects = [entry.subject for entry in usable]
            keep_other_labels(subjects, work, execution.report)
            execution.report(disk_line(work, [subject.subject_id for subject in subjects]))
            held_out = _held_out(subjects, out, settings, continuation)
            builder = AtlasBuilder(
                work,
                [subject.subject_id for subject in subjects],
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
            results = write_results(builder, built, out)
        record = atlas_record(entries, refused, settings, execution, built, results, out)
        record["seconds"] = round(time.monotonic() - started, 1)
        write_report(record, built, results, builder, subjects, out)
        record["files"] = result_digests(out)
        write_record(record, out)
        if not results.failed:
            tidy_finished(work, execution.keep)
    return atlas_summary(record)


def _held_out(
    subjects: Sequence[Subject],
    out: Path,
    settings: AtlasSettings,
    continuation: Continuation | None,
) -> frozenset[str]:
    """Who is held out, by the split of this folder or of the atlas before."""
    return held_out_ids(
        out if continuation is None else with_split_of(continuation.folder, out),
        subjects,
        share=settings.held_out_share,
        seed=settings.seed,
        goes_on=continuation is not None,
    )


def _take_over(
    work: WorkFolder,
    settings: AtlasSettings,
    continuation: Continuation | None,
    registration: Path | None,
) -> None:
    """Bring what is not made here into the working files: subjects, a trained registration."""
    if continuation is not None:
        take_members(continuation, work)
        registration = registration or WorkFolder(continuation.folder / WORK_NAME).registration
    if settings.method == "trained":
        _take_registration(registration, work)


def _take_registration(folder: Path | None, work: WorkFolder) -> None:
    """Keep a copy of the trained registration, and make ready for its networks."""
    if folder is None:
        raise ValueError("the method 'trained' needs a registration. Received: none")
    copy_registration(folder, work.registration)
    prefer_kernels(read_registration(work.registration).get("registration"))


def remove_build(out: Path) -> None:
    """Delete what a build wrote into a folder; files of others stay, also a split made by hand."""
    if has_split_of_its_own(out):
        (out / SPLIT_NAME).unlink()
    for name in OWN_FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)
    for path in out.glob("*"):
        if path.name in RESULT_NAMES or path.name in (RECORD_NAME, REPORT_NAME):
            path.unlink(missing_ok=True)


def tidy_finished(work: WorkFolder, keep: str) -> None:
    """Delete working files that a finished atlas does not need; a rerun may ask for less.

    Args:
        work: Working files of the atlas.
        keep: One of `KEEP`.
    """
    if keep == "outputs":
        drop_working_files(work)
    elif keep == "work":
        drop_shown(work.root)


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
                    work.label(name),
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
            if reviews := work.reviews(entry.subject.subject_id):
                codes = ", ".join(reviews)
                execution.report(f"{entry.subject.subject_id} should be looked at: {codes}")
            continue
        told = ": ".join(part for part in (refusal["code"], refusal["message"]) if part)
        refused.append((entry.subject.subject_id, told))
        execution.report(f"{entry.subject.subject_id} cannot be used: {told}")
    execution.report(f"{len(usable)} subjects prepared, {len(refused)} refused")
    return usable, refused
