"""Series and a scorer without images, importable from worker processes."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from pipelines.batch import Batch, BatchSettings, BatchSummary, ModelIdentity, Outcome, Task
from pipelines.results import Finding, LesionRow, ScanResult, json_text
from pipelines.scan_folder import RESULT_NAME, filling

MODEL = ModelIdentity("fake", "1.0", "0" * 64)


@dataclass(frozen=True)
class FakeCandidate:
    """A series that is one text file: `score 12.5`, `reject`, `fail` or `kill`."""

    path: Path
    scan_id: str
    source: str

    @property
    def content_hash(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)


def write_candidate(folder: Path, name: str, content: str) -> FakeCandidate:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.txt"
    path.write_text(content)
    scan_id = "scan-" + hashlib.sha256(content.encode()).hexdigest()[:8]
    return FakeCandidate(path, scan_id, f"{folder.name}/{path.name}")


@dataclass(frozen=True)
class FakeScorer:
    """Does what a series says, and notes in `out/calls` that it was asked."""

    out: Path
    seconds: float = 0.0

    def score(self, task: Task) -> Outcome:
        candidate = task.candidate
        assert isinstance(candidate, FakeCandidate)
        with (self.out / "calls").open("a") as calls:
            calls.write(f"{candidate.scan_id}\n")
        time.sleep(self.seconds)
        action, _, value = candidate.path.read_text().strip().partition(" ")
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "exit":
            raise SystemExit(1)
        if action == "fail":
            return self._write(task, "failed", None, "trace of the error")
        if action == "reject":
            return self._write(task, "rejected", None)
        return self._write(task, "ok", float(value))

    def give_up(self, task: Task, error: BaseException) -> Outcome:
        return self._write(task, "failed", None, f"gave up: {type(error).__name__}")

    def _write(
        self, task: Task, status: str, agatston: float | None, traceback: str = ""
    ) -> Outcome:
        reject = (Finding("TOO_FEW_SLICES", "reject", "2 slices"),)
        result = ScanResult(
            scan_id=task.scan_id,
            status=status,  # type: ignore[arg-type]
            source=task.candidate.source,
            model=MODEL.label,
            findings=reject if agatston is None else (),
            agatston=agatston,
            risk_category=None if agatston is None else "11-100",
            risk_label=None if agatston is None else "moderate",
            cac_drs=None if agatston is None else "A1",
            volume_mm3=agatston,
            preset=None if agatston is None else "agatston-1990",
            seconds=self.seconds,
            lesions=(LesionRow((1.0, 2.0, 3.0), 4.0, 5.0, 300.0, (7,)),) if agatston else (),
        )
        with filling(self.out, task.scan_id) as folder:
            (folder / RESULT_NAME).write_text(json_text(result.to_json()))
        return Outcome(result, traceback)


def run_fake_batch(
    out: Path,
    candidates: list[FakeCandidate],
    *,
    seconds: float = 0.0,
    workers: int = 1,
    fresh: bool = False,
    model: ModelIdentity = MODEL,
    options: dict[str, object] | None = None,
) -> BatchSummary:
    settings = BatchSettings(
        out=out, options=options or {}, model=model, workers=workers, fresh=fresh
    )
    out.mkdir(parents=True, exist_ok=True)
    scorer = FakeScorer(out, seconds)
    return Batch(settings, scorer.score, scorer.give_up).run(candidates)
