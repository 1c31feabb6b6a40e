from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.journal import Journal, journal_key
from pipelines.results import ScanResult


def result(name: str) -> ScanResult:
    return ScanResult(scan_id=name, status="ok", source="caf\udce9", model="m", agatston=1.5)


def test_what_is_appended_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append("k1", result("a"))
    journal.append("k2", result("b"))
    again = Journal(path)
    assert list(again) == ["k1", "k2"]
    assert again["k2"] == result("b")
    assert "k3" not in again


def test_later_lines_replace_earlier_ones(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for key, name in (("k1", "a"), ("k2", "b"), ("k1", "c")):
        journal.append(key, result(name))
    again = Journal(path)
    assert len(again) == 2
    assert again["k1"].scan_id == "c"
    assert [r.scan_id for r in again.results()] == ["b", "c"]


@pytest.mark.parametrize("cut", [1, 2, 30, 200])
def test_torn_last_line_is_cut_off_and_written_over(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append("k1", result("a"))
    journal.append("k2", result("b"))
    path.write_bytes(path.read_bytes()[:-cut])
    torn = Journal(path)
    assert list(torn) == ["k1"]
    torn.append("k3", result("c"))
    assert list(Journal(path)) == ["k1", "k3"]
    assert Journal(path).passed_over == 0


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"format": 0, "key": "k", "result": {}}', '{"format": 1}', "null", "\0\0"]
)
def test_lines_that_are_not_understood_are_passed_over(tmp_path: Path, line: str) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).append("k1", result("a"))
    path.write_bytes(line.encode() + b"\n" + path.read_bytes())
    again = Journal(path)
    assert list(again) == ["k1"]
    assert again.passed_over == 1


def test_key_changes_with_content_model_and_options_alone() -> None:
    base = journal_key("c", "m", {"preset": None, "allow": []})
    assert base == journal_key("c", "m", {"allow": [], "preset": None})
    others = {
        journal_key("d", "m", {"preset": None, "allow": []}),
        journal_key("c", "n", {"preset": None, "allow": []}),
        journal_key("c", "m", {"preset": "agatston-4conn", "allow": []}),
        journal_key("c", "m", {"preset": None, "allow": ["KVP"]}),
    }
    assert len(others | {base}) == 5
