"""One series from files to answer: read, align, guard, score, write its folder."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import SimpleITK as sitk

from calcium.categories import cac_drs, risk_category, risk_label
from pipelines import guards
from pipelines.batch import ModelIdentity, Outcome, Task
from pipelines.discovery import SeriesCandidate
from pipelines.model import Model, load_model
from pipelines.reading import read_scan
from pipelines.reasons import REASONS, UnusableSeries
from pipelines.redaction import redacted_traceback
from pipelines.report import Evidence, report_html
from pipelines.results import (
    Finding,
    Kind,
    LesionRow,
    ScanResult,
    json_text,
    note_findings,
    printable,
    rounded,
    status_of,
)
from pipelines.scan import Scan
from pipelines.scan_folder import (
    ALIGNMENT_NAME,
    FEEDBACK_NAME,
    REPORT_NAME,
    RESULT_NAME,
    filling,
)
from pipelines.version import program_version
from registration.geometry import ImageGrid, affine_matrix

if TYPE_CHECKING:
    from calcium.scoring import ScanScore
    from registration.alignment import Alignment

CARDIAC_FIELD_OF_VIEW_MM = 270.0
"""Widest in-plane field of view of a scan of the heart alone, mm; chests need 300 and more."""

CARDIAC_LENGTH_MM = 220.0
"""Longest scan of the heart alone along the body, mm; lungs are longer."""

INTERNAL_ERROR = "INTERNAL_ERROR"
"""Reason code of a failure of the program."""

WORKER_DIED = "WORKER_DIED"
"""Reason code of a scan over which a worker process died twice."""

Identifiers = Literal["pseudonym", "keep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What the user chose.

    Args:
        out: Folder of the run.
        model: Model folder, `None` for the one that ships.
        preset: Definition of the Agatston score, `None` for the model's own.
        allow: Codes of refusals to overrule.
        dicom_out: Also write DICOM results.
        identifiers: Whether DICOM results carry the patient's identifiers.
    """

    out: Path
    model: Path | None = None
    preset: str | None = None
    allow: tuple[str, ...] = ()
    dicom_out: bool = False
    identifiers: Identifiers = "pseudonym"

    def to_json(self) -> dict[str, object]:
        """What changes the written results: part of a result's key in the journal."""
        return {
            "preset": self.preset,
            "allow": sorted(set(self.allow)),
            "dicom_out": self.dicom_out,
            "identifiers": self.identifiers if self.dicom_out else None,
        }


@dataclass(slots=True)
class Stopwatch:
    """Wall time of named parts, s."""

    parts: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Add the time of the block to a part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.parts[part] = round(self.parts.get(part, 0.0) + spent, 4)

    @property
    def total(self) -> float:
        """Sum of the parts, s."""
        return round(sum(self.parts.values()), 4)


class ScanRun:
    """Scores series with one model; made once per process.

    Args:
        options: What the user chose.
        model: The loaded model.
    """

    def __init__(self, options: RunOptions, model: Model) -> None:
        self.options = options
        self.model = model

    def score_series(self, candidate: SeriesCandidate, *, scan_id: str | None = None) -> ScanResult:
        """Read, align, guard, score and write one series.

        A refusal is a result, not an exception: its row and report say what to do.

        Args:
            candidate: The series.
            scan_id: Name of its folder, if not its own pseudonym.

        Returns:
            The result, whose folder stands complete in the folder of the run.
        """
        watch = Stopwatch()
        try:
            with watch.time("reading"):
                scan = read_scan(candidate)
        except UnusableSeries as refusal:
            finding = Finding(refusal.code, "reject", printable(refusal.message))
            result = empty_result(candidate, self.model_label, (finding,), scan_id=scan_id)
            return self._write(result, Evidence(), watch)
        if scan_id is not None:
            scan = replace(scan, scan_id=scan_id)
        return self._score(scan, watch)

    @property
    def model_label(self) -> str:
        """Name and version of the model."""
        return f"{self.model.name} {self.model.version}"

    def _score(self, scan: Scan, watch: Stopwatch) -> ScanResult:
        with watch.time("alignment"):
            alignment = self.model.aligner.align(scan.image)
        with watch.time("guards"):
            allowed = self.options.allow
            found = guards.evaluate_guards(scan, alignment, self.model, allowed=allowed)
            findings = note_findings(found, allowed)
            findings += _unmentioned_warnings(scan, findings)
        result = self._describe(scan, alignment, findings)
        score = None
        if result.status != "rejected":
            with watch.time("scoring"):
                score = self.model.scorer.score(
                    scan.image, alignment.atlas_to_scan, kind=result.kind
                )
            result = _with_score(result, score)
        return self._write(result, Evidence(scan, alignment, score, self.model), watch)

    def _describe(
        self, scan: Scan, alignment: Alignment, findings: tuple[Finding, ...]
    ) -> ScanResult:
        grid = scan.grid
        return ScanResult(
            scan_id=scan.scan_id,
            status=status_of(findings),
            source=printable(scan.source),
            model=self.model_label,
            findings=findings,
            kind=scan_kind(grid),
            slice_spacing_mm=rounded(scan.slice_spacing_mm),
            kvp=scan.acquisition.kvp,
            details={
                "content_sha256": scan.content_hash,
                "acquisition": asdict(scan.acquisition),
                "size": list(grid.size),
                "spacing_mm": list(grid.spacing),
                "alignment": alignment_facts(alignment),
            },
        )

    def _write(self, result: ScanResult, evidence: Evidence, watch: Stopwatch) -> ScanResult:
        with filling(self.options.out, result.scan_id) as folder:
            with watch.time("files"):
                write_images(folder, evidence)
                if self.options.dicom_out and evidence.score is not None:
                    self._write_dicom(folder, result, evidence)
            with watch.time("report"):
                html = report_html(result, evidence)
                (folder / REPORT_NAME).write_text(html, encoding="utf-8")
            result = replace(
                result,
                seconds=watch.total,
                details={
                    **result.details,
                    "model_sha256": self.model.model_hash,
                    "program": f"calcium-score {program_version()}",
                    "seconds": dict(watch.parts),
                },
            )
            text = json_text(result.to_json())
            (folder / RESULT_NAME).write_text(text, encoding="utf-8")
        return result

    def _write_dicom(self, folder: Path, result: ScanResult, evidence: Evidence) -> None:
        from pipelines.dicom_results import write_dicom_results  # imports pydicom and highdicom

        write_dicom_results(folder, result, evidence, identifiers=self.options.identifiers)


def score_task(task: Task, options: RunOptions) -> Outcome:
    """Score one series of a batch; whatever goes wrong becomes its `failed` row.

    Runs in worker processes, where the model is loaded once.
    """
    candidate: SeriesCandidate = task.candidate  # type: ignore[assignment]
    try:
        run = ScanRun(options, _loaded_model(options.model, options.preset))
        return Outcome(run.score_series(candidate, scan_id=task.scan_id))
    except Exception as error:
        message = (
            f"The program failed on this series ({type(error).__name__}). The traceback is in "
            "run.log; the series is tried again when the same command is run again."
        )
        result = _write_failure(task, options, INTERNAL_ERROR, message)
        return Outcome(result, redacted_traceback(error, candidate))


def give_up_task(task: Task, error: BaseException, options: RunOptions) -> Outcome:
    """The `failed` row of a series that came back from no worker.

    Args:
        task: The series.
        error: What the cluster says: that the worker died twice, or something else.
        options: What the user chose.
    """
    if type(error).__name__ == "KilledWorker":
        code, message = (
            WORKER_DIED,
            (
                "The process that worked on this series died twice, the second time with nothing "
                "beside it; a lack of memory is the usual cause. The series is tried again when "
                "the same command is run again."
            ),
        )
    else:
        code, message = (
            INTERNAL_ERROR,
            (
                f"No worker could score this series ({type(error).__name__}). The traceback is in "
                "run.log; the series is tried again when the same command is run again."
            ),
        )
    candidate: SeriesCandidate = task.candidate  # type: ignore[assignment]
    result = _write_failure(task, options, code, message)
    return Outcome(result, redacted_traceback(error, candidate))


def empty_result(
    candidate: SeriesCandidate,
    model_label: str,
    findings: tuple[Finding, ...],
    *,
    scan_id: str | None = None,
    failed: bool = False,
) -> ScanResult:
    """Result of a series of which nothing but a reason is known."""
    return ScanResult(
        scan_id=scan_id or candidate.scan_id,
        status="failed" if failed else status_of(findings),
        source=printable(candidate.source),
        model=model_label,
        findings=findings,
    )


def scan_kind(grid: ImageGrid) -> Kind:
    """Whether a field of view shows the heart alone or the whole chest.

    Source:
        Own: dedicated scans are reconstructed to 160-250 mm, chests to 300 mm and more.

    Example:
        >>> scan_kind(ImageGrid((512, 512, 40), (0.43, 0.43, 3.0), (0.0, 0.0, 0.0)))
        'cardiac'
    """
    width, depth, length = grid.extent_mm
    small = max(width, depth) <= CARDIAC_FIELD_OF_VIEW_MM and length <= CARDIAC_LENGTH_MM
    return "cardiac" if small else "chest"


def alignment_facts(alignment: Alignment) -> dict[str, Any]:
    """Everything an alignment says, as plain JSON values; infinite measures become `None`."""
    facts: dict[str, Any] = {}
    for item in fields(alignment):
        value = getattr(alignment, item.name)
        if isinstance(value, sitk.Transform):
            value = affine_matrix(value).tolist()
        elif isinstance(value, tuple):
            value = list(value)
        elif not math.isfinite(value):
            value = None
        facts[item.name] = value
    return facts


def write_images(folder: Path, evidence: Evidence) -> None:
    """Write feedback map and alignment of a scan, as far as they exist."""
    if evidence.alignment is not None:
        sitk.WriteTransform(evidence.alignment.atlas_to_scan, str(folder / ALIGNMENT_NAME))
    if evidence.score is not None and evidence.scan is not None:
        image = evidence.scan.grid.to_image(evidence.score.feedback)
        sitk.WriteImage(image, str(folder / FEEDBACK_NAME), useCompression=True, compressionLevel=1)


def _with_score(result: ScanResult, score: ScanScore) -> ScanResult:
    agatston = rounded(score.agatston)
    assert agatston is not None
    category = risk_category(agatston)
    findings = result.findings + note_findings(guards.category_findings(score), ())
    details = dict(result.details)
    if score.category_probabilities is not None:
        details["category_probabilities"] = {
            name: round(chance, 3) for name, chance in score.category_probabilities.items()
        }
    return replace(
        result,
        status=status_of(findings),
        findings=findings,
        details=details,
        agatston=agatston,
        agatston_low=rounded(score.agatston_low),
        agatston_high=rounded(score.agatston_high),
        risk_category=category,
        risk_label=risk_label(category),
        cac_drs=cac_drs(agatston),
        volume_mm3=rounded(score.volume_mm3),
        preset=score.preset,
        lesions=tuple(
            LesionRow(
                center_mm=tuple(round(float(c), 2) for c in lesion.center_mm),  # type: ignore[arg-type]
                agatston=float(f"{lesion.agatston:.5g}"),
                volume_mm3=float(f"{lesion.volume_mm3:.5g}"),
                peak_hu=round(float(lesion.peak_hu), 1),
                slice_indices=tuple(int(i) for i in lesion.slice_indices),
                territory=lesion.territory,
            )
            for lesion in score.lesions
        ),
    )


def _unmentioned_warnings(scan: Scan, findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    said = {finding.code for finding in findings}
    return tuple(
        Finding(code, "review", REASONS.get(code, code))
        for code in dict.fromkeys(scan.warnings)
        if code not in said
    )


def _write_failure(task: Task, options: RunOptions, code: str, message: str) -> ScanResult:
    from pipelines.model import read_identity

    identity: ModelIdentity = read_identity(options.model)
    finding = Finding(code, "reject", message)
    candidate: SeriesCandidate = task.candidate  # type: ignore[assignment]
    result = empty_result(candidate, identity.label, (finding,), scan_id=task.scan_id, failed=True)
    with filling(options.out, result.scan_id) as folder:
        (folder / REPORT_NAME).write_text(report_html(result, Evidence()), encoding="utf-8")
        (folder / RESULT_NAME).write_text(json_text(result.to_json()), encoding="utf-8")
    return result


@lru_cache(maxsize=1)
def _loaded_model(folder: Path | None, preset: str | None) -> Model:
    return load_model(folder, preset=preset)
