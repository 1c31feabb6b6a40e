from __future__ import annotations

import csv
import io
import json
import math

import pytest

from pipelines.guards import GuardFinding
from pipelines.results import (
    COLUMNS,
    Finding,
    LesionRow,
    ScanResult,
    json_text,
    note_findings,
    rounded,
    status_of,
    table_text,
)

KVP = Finding("KVP", "review", "100 kV")
COVERAGE = Finding("HEART_NOT_COVERED", "reject", "40 %")


def scored() -> ScanResult:
    return ScanResult(
        scan_id="abc",
        status="review",
        source='a "quoted", name',
        model="default 1",
        findings=(KVP, Finding("METAL", "review", "lead"), KVP),
        kind="chest",
        agatston=1234.5678,
        agatston_low=0.0,
        agatston_high=2000.0,
        risk_category=">400",
        risk_label="high",
        cac_drs="A3",
        volume_mm3=0.000123,
        preset="agatston-1990",
        slice_spacing_mm=2.5,
        kvp=100.0,
        seconds=1.239,
        lesions=(LesionRow((1.0, -2.0, 3.5), 1234.5, 99.0, 812.0, (3, 4)),),
        details={"similarity": 0.5},
    )


def test_row_prints_every_column_once() -> None:
    [head, row] = csv.reader(io.StringIO(table_text([scored()])))
    assert tuple(head) == COLUMNS
    assert row == [
        "abc",
        "review",
        "KVP;METAL",
        "chest",
        "1234.6",
        "0",
        "2000",
        ">400",
        "high",
        "A3",
        "0.000123",
        "1",
        "agatston-1990",
        "default 1",
        "2.5",
        "100",
        "1.24",
        'a "quoted", name',
    ]


def test_scans_without_score_have_empty_cells() -> None:
    refused = ScanResult(
        scan_id="abc", status="rejected", source="s", model="m", findings=(COVERAGE,)
    )
    row = refused.row()
    assert row["reasons"] == "HEART_NOT_COVERED"
    empty = set(COLUMNS) - {"scan_id", "status", "reasons", "model", "seconds", "source"}
    assert {row[name] for name in empty} == {""}


def test_json_round_trip() -> None:
    assert ScanResult.from_json(json.loads(json_text(scored().to_json()))) == scored()


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"scan_id": "a", "status": "ok"},
        {"scan_id": "a", "status": "ok", "source": "s", "model": "m", "lesions": [{}]},
        {"scan_id": "a", "status": "ok", "source": "s", "model": "m", "findings": [1]},
    ],
)
def test_what_is_no_result_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not the result of a scan"):
        ScanResult.from_json(values)


def test_unknown_status_is_refused() -> None:
    values = {**scored().to_json(), "status": "fine"}
    with pytest.raises(ValueError, match="status must be one of"):
        ScanResult.from_json(values)


@pytest.mark.parametrize(
    ("findings", "status"),
    [([], "ok"), ([KVP], "review"), ([KVP, COVERAGE], "rejected"), ([COVERAGE], "rejected")],
)
def test_status_follows_the_gravest_finding(findings: list[Finding], status: str) -> None:
    assert status_of(findings) == status


def test_allowing_turns_the_named_refusal_alone_into_a_review() -> None:
    found = [
        GuardFinding("HEART_NOT_COVERED", "reject", "40 %."),
        GuardFinding("CONTRAST", "reject", "200 HU."),
        GuardFinding("KVP", "review", "100 kV."),
    ]
    notes = note_findings(found, ["HEART_NOT_COVERED", "KVP"])
    assert [(n.code, n.severity, n.allowed) for n in notes] == [
        ("HEART_NOT_COVERED", "review", True),
        ("CONTRAST", "reject", False),
        ("KVP", "review", False),
    ]
    assert "--allow HEART_NOT_COVERED" in notes[0].message
    assert notes[2].message == "100 kV."


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        rounded(value)


def test_json_holds_no_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text({"value": math.nan})
