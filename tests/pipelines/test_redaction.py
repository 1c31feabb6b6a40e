from __future__ import annotations

from pathlib import Path

from pipelines.discovery import SeriesCandidate
from pipelines.redaction import redacted_traceback

FOLDER = Path("/data/Miller^Anna 1950")
CANDIDATE = SeriesCandidate((FOLDER / "Anna001.dcm", FOLDER / "x"), "Miller^Anna 1950/series")


def traceback_of(message: str) -> str:
    try:
        raise ValueError(message)
    except ValueError as error:
        return redacted_traceback(error, CANDIDATE)


def test_paths_of_the_scan_are_replaced() -> None:
    text = traceback_of(f"cannot open {FOLDER / 'Anna001.dcm'} in {FOLDER}, see Anna001.dcm")
    assert "ValueError: cannot open <scan> in <scan>, see <scan>" in text
    assert "Miller" not in text


def test_quoted_values_are_replaced_and_numbers_stay() -> None:
    text = traceback_of("PatientName 'Doe^Jane' or \"Doe\" has 512 rows\nand 'Doe' again")
    assert "ValueError: PatientName '…' or '…' has 512 rows" in text
    assert "Doe" not in text


def test_frames_stay_readable() -> None:
    text = traceback_of("no")
    assert "in traceback_of" in text
    assert 'test_redaction.py", line' in text
