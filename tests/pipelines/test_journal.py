from __future__ import annotations

from dataclasses import replace
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


def test_a_withdrawn_result_is_gone_and_its_folder_known(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append("k1", result("a"), "c1")
    journal.append("k2", result("b"), "c2")
    journal.withdraw("k1")
    for known in (journal, Journal(path)):
        assert list(known) == ["k2"]
        assert known.content_hash("k2") == "c2"
        assert list(known.scan_ids) == ["a", "b"]
        assert known.passed_over == 0
    Journal(path).append("k1", result("c"))
    assert Journal(path)["k1"].scan_id == "c"


def test_the_content_of_earlier_lines_is_what_their_result_says(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).append("k1", replace(result("a"), details={"content_sha256": "c1"}))
    Journal(path).append("k2", result("b"))
    assert [Journal(path).content_hash(key) for key in ("k1", "k2")] == ["c1", ""]


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
