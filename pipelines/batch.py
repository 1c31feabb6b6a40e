"""Many series: scored once each, whatever happens, and told in one table.

The table has one row per candidate series, in the order of discovery. A series whose
content was already scored, in this run or an earlier one in the same folder, is not
scored again: its row points to the folder that holds its result. Scored with other options,
by another model or version, it takes over the folder it has.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from pipelines.index import index_html
from pipelines.journal import JOURNAL_NAME, Journal, journal_key
from pipelines.log_file import LOGGER, logging_to
from pipelines.output_lock import locked
from pipelines.results import STATUSES, ScanResult, json_text, printable, table_text
from pipelines.scan_folder import RESULT_NAME, SCANS_FOLDER, remove_own_files, scan_folder
from pipelines.version import package_versions, program_version
from pipelines.workers import Work
from registration.atomic_files import remove_parts, write_atomically

TABLE_NAME = "scores.csv"
SUMMARY_NAME = "run.json"
INDEX_NAME = "index.html"
LOG_NAME = "run.log"

HASH_DIGITS_IN_NAME = 8
"""Last digits of the content hash that tell two series of one pseudonym apart: the first ones are
the pseudonym itself."""


class Candidate(Protocol):
    """What the batch needs to know of a series."""

    @property
    def scan_id(self) -> str:
        """Pseudonym."""

    @property
    def source(self) -> str:
        """What the user gave."""

    @property
    def content_hash(self) -> str:
        """SHA-256 over the bytes of the files."""


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model a run uses, as the table and the journal name it.

    Args:
        name: Name of the model.
        version: Its version.
        model_hash: SHA-256 of its description, which holds the hashes of its weights.
    """

    name: str
    version: str
    model_hash: str

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What comes back from scoring one series.

    Args:
        result: What is known of the series; its folder is written.
        traceback: For `run.log`, empty unless the program failed.
    """

    result: ScanResult
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """One series to score: paths and names, no pixels.

    Args:
        candidate: The series.
        scan_id: Name of its folder.
        key: Its key in the journal.
        content_hash: SHA-256 over the bytes of its files.
    """

    candidate: Candidate
    scan_id: str
    key: str
    content_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """How a batch is run; none of it changes a score.

    Args:
        out: Folder of the run.
        options: Everything the user chose that changes what is written; JSON values.
        model: The model.
        workers: Processes to score in; 1 means this one.
        scheduler: Address of a running Dask scheduler, in place of `workers`.
        fresh: Forget what an earlier run in the same folder has finished.
        command: The command line, for `run.json`.
    """

    out: Path
    options: dict[str, object]
    model: ModelIdentity
    workers: int = 1
    scheduler: str | None = None
    fresh: bool = False
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """What a batch came to.

    Args:
        results: One per candidate, in the order of the table.
        n_skipped: How many an earlier run had finished.
        seconds: Wall time, s.
    """

    results: tuple[ScanResult, ...]
    n_skipped: int
    seconds: float

    @property
    def counts(self) -> dict[str, int]:
        """Number of series by status, every status named."""
        counted = Counter(result.status for result in self.results)
        return {status: counted[status] for status in STATUSES}


class Batch:
    """A batch on its way.

    Args:
        settings: How it is run.
        score: Scores one series and writes its folder; runs in the workers.
        give_up: Says that scoring brought no outcome, and writes its folder; runs here.
        on_finish: Called with each result as it is known, once per content.
    """

    def __init__(
        self,
        settings: BatchSettings,
        score: Callable[[Task], Outcome],
        give_up: Callable[[Task, BaseException], Outcome],
        on_finish: Callable[[ScanResult], None] = lambda result: None,
    ) -> None:
        self.settings = settings
        self.score = score
        self.give_up = give_up
        self.on_finish = on_finish
        self._keys: list[str] = []
        self._owners: dict[str, tuple[str, str]] = {}
        self._n_skipped = 0
        self._n_series = 0

    def run(self, candidates: Sequence[Candidate]) -> BatchSummary:
        """Score what is not scored yet, then write table, summary and index.

        Raises:
            OutputInUseError: If another run writes to the same folder.
            WorkersLostError: If all workers are gone; what is finished stays finished.
        """
        start = time.monotonic()
        self._n_series = len(candidates)
        out = self.settings.out
        (out / SCANS_FOLDER).mkdir(parents=True, exist_ok=True)
        with locked(out), logging_to(out / LOG_NAME, level=logging.INFO):
            journal = self._open_journal()
            LOGGER.info("run of %d series with %s", len(candidates), self.settings.model.label)
            for task, outcome in self._outcomes(self._tasks(candidates, journal)):
                journal.append(task.key, outcome.result, task.content_hash)
                _log(outcome)
                self.on_finish(outcome.result)
            results = tuple(
                replace(journal[key], source=printable(candidate.source))
                for candidate, key in zip(candidates, self._keys, strict=True)
            )
            summary = BatchSummary(results, self._n_skipped, time.monotonic() - start)
            self._write(summary)
            LOGGER.info("finished: %s", summary.counts)
        return summary

    def _open_journal(self) -> Journal:
        out = self.settings.out
        for folder in (out, out / SCANS_FOLDER):
            remove_parts(folder)
        journal = Journal(out / JOURNAL_NAME)
        if self.settings.fresh:
            for scan_id in journal.scan_ids:
                remove_own_files(scan_folder(out, scan_id))
            journal.path.unlink(missing_ok=True)
            journal = Journal(journal.path)
        if journal.passed_over:
            LOGGER.warning("%d lines of the journal are not readable", journal.passed_over)
        return journal

    def _tasks(self, candidates: Sequence[Candidate], journal: Journal) -> Iterator[Task]:
        """What is left to do, found out as the work goes on: hashing takes time."""
        self._owners = {journal[key].scan_id: (key, journal.content_hash(key)) for key in journal}
        seen: set[str] = set()
        for candidate in candidates:
            content_hash = _content_hash(candidate)
            key = self._key(content_hash)
            self._keys.append(key)
            if key in seen:
                LOGGER.info("%s has the content of an earlier series", candidate.scan_id)
                continue
            seen.add(key)
            if self._is_finished(journal, key):
                self._n_skipped += 1
                self._owners[journal[key].scan_id] = key, content_hash
                self.on_finish(journal[key])
            else:
                name = self._name(candidate, content_hash, key, journal)
                yield Task(candidate, name, key, content_hash)

    def _key(self, content_hash: str) -> str:
        options = {**self.settings.options, "program": program_version()}
        return journal_key(content_hash, self.settings.model.model_hash, options)

    def _name(self, candidate: Candidate, content_hash: str, key: str, journal: Journal) -> str:
        """Folder name, told apart if another series of the same pseudonym has it.

        What the same series had there by another key is withdrawn before it is replaced.
        """
        name = journal[key].scan_id if key in journal else candidate.scan_id
        owner, owned = self._owners.get(name, (key, content_hash))
        if owner != key and owned not in ("", content_hash):
            name = f"{candidate.scan_id}-{content_hash[-HASH_DIGITS_IN_NAME:]}"
            owner, _ = self._owners.get(name, (key, content_hash))
        if owner != key and owner in journal:
            LOGGER.info("%s is scored anew: other options, another model or version", name)
            journal.withdraw(owner)
        self._owners[name] = key, content_hash
        return name

    def _is_finished(self, journal: Journal, key: str) -> bool:
        """Whether the journal holds it and its folder is there; failures are tried again."""
        if key not in journal or journal[key].status == "failed":
            return False
        return (scan_folder(self.settings.out, journal[key].scan_id) / RESULT_NAME).is_file()

    def _outcomes(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, Outcome]]:
        work = Work(self.score, self.give_up)
        if self.settings.workers == 1 and self.settings.scheduler is None:
            return work.in_this_process(tasks)
        workers = min(self.settings.workers, max(1, self._n_series))
        return work.on_workers(tasks, workers=workers, scheduler=self.settings.scheduler)

    def _write(self, summary: BatchSummary) -> None:
        out, settings = self.settings.out, self.settings
        facts = {
            "command": [printable(word) for word in settings.command],
            "program": f"calcium-score {program_version()}",
            "python": platform.python_version(),
            "packages": package_versions(),
            "model": {
                "name": settings.model.name,
                "version": settings.model.version,
                "sha256": settings.model.model_hash,
            },
            "options": settings.options,
            "preset": next((r.preset for r in summary.results if r.preset), None),
            "workers": settings.workers,
            "scheduler": settings.scheduler,
            "series": len(summary.results),
            "finished_by_an_earlier_run": summary.n_skipped,
            "counts": summary.counts,
            "wall_seconds": round(summary.seconds, 2),
            "notice": "research use, not a medical device",
        }
        write_atomically(out / TABLE_NAME, table_text(summary.results))
        write_atomically(out / INDEX_NAME, index_html(summary.results, facts))
        write_atomically(out / SUMMARY_NAME, json_text(facts))


def _content_hash(candidate: Candidate) -> str:
    try:
        return candidate.content_hash
    except OSError as error:  # reading will say so in the scan's own row
        text = f"unreadable {type(error).__name__} {candidate.source}"
        return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def _log(outcome: Outcome) -> None:
    result = outcome.result
    LOGGER.info("%s %s %s", result.scan_id, result.status, result.reasons or "-")
    if outcome.traceback:
        LOGGER.error("%s\n%s", result.scan_id, outcome.traceback.rstrip())
