"""What a run says about one scan, and how that is written: JSON, table row, status."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal, Protocol

Status = Literal["ok", "review", "rejected", "failed"]
"""`ok`: scored. `review`: scored, but a guard fired. `rejected`: unusable input, no score.
`failed`: an error of the program, no score, traceback in the log."""

Kind = Literal["cardiac", "chest"]
"""What the field of view shows: the heart alone, or the whole chest."""

STATUSES: Final[tuple[Status, ...]] = ("ok", "review", "rejected", "failed")

COLUMNS: Final = (
    "scan_id",
    "status",
    "reasons",
    "kind",
    "agatston",
    "agatston_low",
    "agatston_high",
    "risk_category",
    "risk_label",
    "cac_drs",
    "volume_mm3",
    "n_lesions",
    "preset",
    "model",
    "slice_spacing_mm",
    "kvp",
    "seconds",
    "source",
)
"""Columns of `scores.csv`, in this order. Other people's scripts rely on it."""

SIGNIFICANT_DIGITS: Final = 5
"""Digits kept of a measured value: finer than any reader needs, coarse enough that the
last bit of a float32 sum shows nowhere."""


class NotedFinding(Protocol):
    """What a guard reports: code, severity and a message in plain words."""

    @property
    def code(self) -> str:
        """Reason code, such as `"CONTRAST"`."""

    @property
    def severity(self) -> Literal["review", "reject"]:
        """`"reject"` withholds the score."""

    @property
    def message(self) -> str:
        """What was measured and what to do."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason why a scan is not simply `ok`.

    Args:
        code: Reason code, such as `"CONTRAST"`; empty for an error of the program.
        severity: `"reject"` withholds the score, `"review"` prints it with a warning.
        message: What was found and what to do, in plain words.
        allowed: True if this was a refusal that the user chose to overrule.
    """

    code: str
    severity: Literal["review", "reject"]
    message: str
    allowed: bool = False


@dataclass(frozen=True, slots=True)
class LesionRow:
    """One lesion as the report and `result.json` list it.

    Args:
        center_mm: Center of mass, LPS mm.
        agatston: Its part of the score.
        volume_mm3: Volume, mm³.
        peak_hu: Brightest voxel, HU.
        slice_indices: Slices it touches, counted from 0 at the first slice of the grid.
        territory: Coronary artery, `"LM/LAD"`, `"LCX"` or `"RCA"`; `None` if not told apart.
    """

    center_mm: tuple[float, float, float]
    agatston: float
    volume_mm3: float
    peak_hu: float
    slice_indices: tuple[int, ...]
    territory: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanResult:
    """Everything a run says about one series; numbers are `None` where there is no score.

    Args:
        scan_id: Pseudonym, also the name of the scan's folder.
        status: See `Status`.
        source: What the user gave, relative to the input where possible.
        model: Name and version of the model.
        findings: Reasons in the order in which they were found.
        kind: Field of view, `None` if the series could not be read.
        agatston: The score.
        agatston_low: Lower end of the calibrated 90 % interval.
        agatston_high: Upper end.
        risk_category: `"0"`, `"1-10"`, `"11-100"`, `"101-400"` or `">400"`.
        risk_label: The category in words.
        cac_drs: CAC-DRS category, such as `"A1"`.
        volume_mm3: Volume score, mm³.
        preset: Definition of the Agatston score that was applied.
        slice_spacing_mm: Distance between slice positions, mm.
        kvp: Tube voltage, kV; `None` if the header is silent.
        seconds: Wall time from the first file read to the last file written.
        lesions: What makes up the score; empty if nothing does.
        details: Further facts for `result.json`: acquisition, alignment, timings, versions.
    """

    scan_id: str
    status: Status
    source: str
    model: str
    findings: tuple[Finding, ...] = ()
    kind: Kind | None = None
    agatston: float | None = None
    agatston_low: float | None = None
    agatston_high: float | None = None
    risk_category: str | None = None
    risk_label: str | None = None
    cac_drs: str | None = None
    volume_mm3: float | None = None
    preset: str | None = None
    slice_spacing_mm: float | None = None
    kvp: float | None = None
    seconds: float = 0.0
    lesions: tuple[LesionRow, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_scored(self) -> bool:
        """Whether there is a score to print."""
        return self.agatston is not None

    @property
    def reasons(self) -> str:
        """Reason codes, each once, in the order found, separated by semicolons."""
        return ";".join(dict.fromkeys(f.code for f in self.findings if f.code))

    @property
    def n_lesions(self) -> int | None:
        """Number of lesions, `None` without a score."""
        return len(self.lesions) if self.is_scored else None

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, with the derived columns written out."""
        values = asdict(self)
        values["details"] = dict(self.details)
        return {**values, "reasons": self.reasons, "n_lesions": self.n_lesions}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ScanResult:
        """The result that `to_json` wrote.

        Raises:
            ValueError: If a field is missing or unknown values stand in its place.
        """
        known = {f.name for f in fields(cls)}
        plain = {key: value for key, value in values.items() if key in known}
        try:
            plain["findings"] = tuple(Finding(**f) for f in plain.get("findings", ()))
            plain["lesions"] = tuple(_lesion_from_json(row) for row in plain.get("lesions", ()))
            result = cls(**plain)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not the result of a scan. Received: {sorted(values)}") from error
        if result.status not in STATUSES:
            raise ValueError(f"status must be one of {STATUSES}. Received: {result.status!r}")
        return result

    def row(self) -> dict[str, str]:
        """The scan's row of `scores.csv`: column name to printed value, `""` for nothing."""
        return {name: _cell(name, getattr(self, name)) for name in COLUMNS}


def status_of(findings: Iterable[Finding]) -> Status:
    """Status that follows from what was found.

    Returns:
        `"rejected"` if any finding withholds the score, `"review"` if any other stands,
        `"ok"` if there is none.

    Example:
        >>> status_of([Finding("KVP", "review", "100 kV")])
        'review'
    """
    severities = {finding.severity for finding in findings}
    if "reject" in severities:
        return "rejected"
    return "review" if severities else "ok"


def note_findings(found: Iterable[NotedFinding], allowed: Iterable[str]) -> tuple[Finding, ...]:
    """Findings of the guards, with the refusals the user overruled turned into reviews.

    Args:
        found: What the guards report.
        allowed: Codes that `--allow` named.

    Returns:
        One `Finding` each, in the same order.
    """
    overruled = frozenset(allowed)
    notes = []
    for finding in found:
        if finding.severity == "reject" and finding.code in overruled:
            message = f"{finding.message} Scored all the same, because --allow {finding.code} asks"
            notes.append(Finding(finding.code, "review", f"{message} for it.", allowed=True))
        else:
            notes.append(Finding(finding.code, finding.severity, finding.message))
    return tuple(notes)


def rounded(value: float | None) -> float | None:
    """A measured value with `SIGNIFICANT_DIGITS` digits; `None` stays `None`.

    Raises:
        ValueError: If the value is not finite.

    Example:
        >>> rounded(123.456789), rounded(0.000123456789), rounded(None)
        (123.46, 0.00012346, None)
    """
    if value is None:
        return None
    if not math.isfinite(value):
        raise ValueError(f"a measured value must be finite. Received: {value}")
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def printable(text: str) -> str:
    r"""Text that UTF-8 can hold: bytes of a file name that are no text are written as escapes.

    Example:
        >>> printable("caf\udce9")
        'caf\\udce9'
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def table_text(results: Iterable[ScanResult]) -> str:
    """`scores.csv` of these results, in their order: a header, then one row each."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(result.row() for result in results)
    return stream.getvalue()


def json_text(values: Mapping[str, Any]) -> str:
    """Indented JSON that any parser reads: no NaN, keys in their order, UTF-8."""
    return printable(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)) + "\n"


def _lesion_from_json(row: Mapping[str, Any]) -> LesionRow:
    x, y, z = row["center_mm"]
    indices = tuple(row["slice_indices"])
    return LesionRow(
        (x, y, z),
        row["agatston"],
        row["volume_mm3"],
        row["peak_hu"],
        indices,
        row.get("territory"),
    )


def _cell(name: str, value: object) -> str:
    if value is None:
        return ""
    if name == "seconds":
        return f"{value:.2f}"
    if isinstance(value, float):
        return f"{value:.{SIGNIFICANT_DIGITS}g}"
    return printable(str(value))
