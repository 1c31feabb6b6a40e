from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.journal import JOURNAL_NAME, Journal
from pipelines.output_lock import OutputInUseError, locked
from tests.pipelines.fakes import (
    MODEL,
    FakeCandidate,
    run_fake_batch,
    write_candidate,
)

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def cohort(folder: Path, scores: list[str]) -> list[FakeCandidate]:
    return [write_candidate(folder, f"s{i}", text) for i, text in enumerate(scores)]


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "scores.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def calls(out: Path) -> list[str]:
    return (out / "calls").read_text().split()


def without_seconds(out: Path) -> list[dict[str, str]]:
    return [{**row, "seconds": ""} for row in rows(out)]


def test_table_has_one_row_per_series_in_the_order_given(tmp_path: Path) -> None:
    series = cohort(tmp_path / "in", ["score 12.5", "reject", "fail", "score 0"])
    summary = run_fake_batch(tmp_path / "out", series)
    table = rows(tmp_path / "out")
    assert [row["scan_id"] for row in table] == [c.scan_id for c in series]
    assert [row["status"] for row in table] == ["ok", "rejected", "failed", "ok"]
    assert [row["agatston"] for row in table] == ["12.5", "", "", "0"]
    assert [row["n_lesions"] for row in table] == ["1", "", "", "0"]
    assert summary.counts == {"ok": 2, "review": 0, "rejected": 1, "failed": 1}


def test_columns_are_those_other_scripts_rely_on(tmp_path: Path) -> None:
    run_fake_batch(tmp_path / "out", cohort(tmp_path / "in", ["score 1"]))
    head = (tmp_path / "out" / "scores.csv").read_text().splitlines()[0]
    assert head == (
        "scan_id,status,reasons,kind,agatston,agatston_low,agatston_high,risk_category,"
        "risk_label,cac_drs,volume_mm3,n_lesions,preset,model,slice_spacing_mm,kvp,seconds,source"
    )


def test_rerun_scores_nothing_again_and_gives_the_same_bytes(tmp_path: Path) -> None:
    series = cohort(tmp_path / "in", ["score 12.5", "reject"])
    run_fake_batch(tmp_path / "out", series)
    before = (tmp_path / "out" / "scores.csv").read_bytes()
    summary = run_fake_batch(tmp_path / "out", series)
    assert summary.n_skipped == 2
    assert len(calls(tmp_path / "out")) == 2
    assert (tmp_path / "out" / "scores.csv").read_bytes() == before


def test_failed_series_are_tried_again(tmp_path: Path) -> None:
    series = cohort(tmp_path / "in", ["fail", "score 2"])
    run_fake_batch(tmp_path / "out", series)
    summary = run_fake_batch(tmp_path / "out", series)
    assert summary.n_skipped == 1
    assert calls(tmp_path / "out").count(series[0].scan_id) == 2
    assert len(rows(tmp_path / "out")) == 2


def test_another_model_or_option_scores_again(tmp_path: Path) -> None:
    series = cohort(tmp_path / "in", ["score 12.5"])
    run_fake_batch(tmp_path / "out", series)
    run_fake_batch(tmp_path / "out", series, model=replace(MODEL, model_hash="1" * 64))
    run_fake_batch(tmp_path / "out", series, options={"preset": "agatston-4conn"})
    assert len(calls(tmp_path / "out")) == 3


def test_a_series_keeps_its_folder_whatever_it_is_scored_with(tmp_path: Path) -> None:
    out, [series] = tmp_path / "out", cohort(tmp_path / "in", ["score 12.5"])
    first: dict[str, object] = {"preset": None}
    for options in (first, {"preset": "agatston-4conn"}, first):
        assert run_fake_batch(out, [series], options=options).n_skipped == 0
        assert [row["scan_id"] for row in rows(out)] == [series.scan_id]
        assert os.listdir(out / "scans") == [series.scan_id]
    assert run_fake_batch(out, [series], options=first).n_skipped == 1


def test_killed_while_it_takes_a_folder_over_does_not_lend_it_to_the_earlier_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, [series] = tmp_path / "out", cohort(tmp_path / "in", ["score 12.5"])
    run_fake_batch(out, [series], options={"dicom_out": False})
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append", raise_interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_fake_batch(out, [series], options={"dicom_out": True})
    assert run_fake_batch(out, [series], options={"dicom_out": False}).n_skipped == 0
    assert len(calls(out)) == 3
    assert os.listdir(out / "scans") == [rows(out)[0]["scan_id"]] == [series.scan_id]


def test_fresh_deletes_what_a_killed_run_took_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, [series] = tmp_path / "out", cohort(tmp_path / "in", ["score 12.5"])
    run_fake_batch(out, [series])
    monkeypatch.setattr(Journal, "append", raise_interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_fake_batch(out, [series], options={"dicom_out": True})
    run_fake_batch(out, [], fresh=True)
    assert os.listdir(out / "scans") == []


def raise_interrupt(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_lines_of_earlier_versions_count_and_give_their_folder_up(tmp_path: Path) -> None:
    out, series = tmp_path / "out", cohort(tmp_path / "in", ["score 12.5", "reject"])
    run_fake_batch(out, series)
    entries = [json.loads(line) for line in (out / JOURNAL_NAME).read_text().splitlines()]
    for entry in entries:
        del entry["content"]
    (out / JOURNAL_NAME).write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    assert run_fake_batch(out, series).n_skipped == 2
    assert run_fake_batch(out, series, options={"dicom_out": True}).n_skipped == 0
    assert [row["scan_id"] for row in rows(out)] == [c.scan_id for c in series]
    assert sorted(os.listdir(out / "scans")) == sorted(c.scan_id for c in series)


def test_changed_content_is_scored_again(tmp_path: Path) -> None:
    [series] = cohort(tmp_path / "in", ["score 12.5"])
    run_fake_batch(tmp_path / "out", [series])
    series.path.write_text("score 99")
    run_fake_batch(tmp_path / "out", [series])
    [row] = rows(tmp_path / "out")
    assert row["agatston"] == "99"
    assert row["scan_id"].startswith(f"{series.scan_id}-")


def test_missing_scan_folder_is_made_again(tmp_path: Path) -> None:
    [series] = cohort(tmp_path / "in", ["score 12.5"])
    run_fake_batch(tmp_path / "out", [series])
    (tmp_path / "out" / "scans" / series.scan_id / "result.json").unlink()
    run_fake_batch(tmp_path / "out", [series])
    assert len(calls(tmp_path / "out")) == 2
    assert (tmp_path / "out" / "scans" / series.scan_id / "result.json").is_file()


def test_same_content_twice_is_scored_once_and_told_twice(tmp_path: Path) -> None:
    first = write_candidate(tmp_path / "a", "s", "score 12.5")
    second = write_candidate(tmp_path / "b", "s", "score 12.5")
    run_fake_batch(tmp_path / "out", [first, second])
    table = rows(tmp_path / "out")
    assert len(calls(tmp_path / "out")) == 1
    assert [row["source"] for row in table] == ["a/s.txt", "b/s.txt"]
    assert table[0]["scan_id"] == table[1]["scan_id"]


def test_one_pseudonym_for_two_contents_gives_two_folders(tmp_path: Path) -> None:
    first = write_candidate(tmp_path / "a", "s", "score 12.5")
    second = replace(write_candidate(tmp_path / "b", "s", "score 1"), scan_id=first.scan_id)
    run_fake_batch(tmp_path / "out", [first, second])
    names = [row["scan_id"] for row in rows(tmp_path / "out")]
    assert len(set(names)) == 2
    stored = [json.loads((tmp_path / "out/scans" / n / "result.json").read_text()) for n in names]
    assert [result["agatston"] for result in stored] == [12.5, 1.0]
    run_fake_batch(tmp_path / "out", [second, first], options={"dicom_out": True})
    assert [row["scan_id"] for row in rows(tmp_path / "out")] == names[::-1]
    assert sorted(os.listdir(tmp_path / "out/scans")) == sorted(names)


def test_fresh_starts_anew_and_leaves_foreign_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    series = cohort(tmp_path / "in", ["score 12.5", "score 3"])
    run_fake_batch(out, series)
    note = out / "scans" / series[1].scan_id / "note.txt"
    note.write_text("mine")
    (out / "letter.txt").write_text("mine too")
    run_fake_batch(out, series[:1], fresh=True)
    assert len(calls(out)) == 3
    assert note.read_text() == "mine"
    assert (out / "letter.txt").read_text() == "mine too"
    assert not (note.parent / "result.json").exists()
    assert len((out / JOURNAL_NAME).read_text().splitlines()) == 1


def test_foreign_files_in_a_scan_folder_survive_its_replacement(tmp_path: Path) -> None:
    out = tmp_path / "out"
    [series] = cohort(tmp_path / "in", ["score 12.5"])
    folder = out / "scans" / series.scan_id
    folder.mkdir(parents=True)
    (folder / "note.txt").write_text("mine")
    (folder / "feedback.nii.gz").write_text("of an earlier run")
    run_fake_batch(out, [series])
    assert (folder / "note.txt").read_text() == "mine"
    assert (folder / "result.json").is_file()
    assert not (folder / "feedback.nii.gz").exists()


def test_torn_last_line_costs_one_scan_and_no_more(tmp_path: Path) -> None:
    out = tmp_path / "out"
    series = cohort(tmp_path / "in", ["score 1", "score 2", "score 3"])
    run_fake_batch(out, series)
    journal = out / JOURNAL_NAME
    journal.write_bytes(journal.read_bytes()[:-40])
    run_fake_batch(out, series)
    assert len(calls(out)) == 4
    assert [json.loads(line)["format"] for line in journal.read_text().splitlines()] == [1, 1, 1]


def test_nothing_to_score_leaves_a_table_with_a_head_alone(tmp_path: Path) -> None:
    summary = run_fake_batch(tmp_path / "out", [])
    assert summary.results == ()
    assert rows(tmp_path / "out") == []
    assert json.loads((tmp_path / "out" / "run.json").read_text())["series"] == 0


def test_second_run_in_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out"), pytest.raises(OutputInUseError, match="another run"):
        run_fake_batch(tmp_path / "out", [])


def test_traceback_goes_to_the_log(tmp_path: Path) -> None:
    run_fake_batch(tmp_path / "out", cohort(tmp_path / "in", ["fail"]))
    assert "trace of the error" in (tmp_path / "out" / "run.log").read_text()


def test_file_names_that_are_no_text_are_written_as_escapes(tmp_path: Path) -> None:
    [series] = cohort(tmp_path / "in", ["score 1"])
    run_fake_batch(tmp_path / "out", [replace(series, source="caf\udce9,x\ny")])
    assert rows(tmp_path / "out")[0]["source"] == "caf\\udce9,x\ny"


@pytest.mark.slow
def test_workers_give_the_same_table_and_survive_a_death(tmp_path: Path) -> None:
    texts = [f"score {i}" for i in range(5)]
    series = cohort(tmp_path / "in", [*texts[:3], "kill", *texts[3:], "exit"])
    run_fake_batch(tmp_path / "many", series, workers=2, seconds=0.05)
    table = rows(tmp_path / "many")
    assert [row["status"] for row in table] == [*["ok"] * 3, "failed", "ok", "ok", "failed"]
    assert calls(tmp_path / "many").count(series[3].scan_id) == 2
    assert "gave up: KilledWorker" in (tmp_path / "many" / "run.log").read_text()
    alone = series[:3] + series[4:6]
    run_fake_batch(tmp_path / "one", alone)
    many = [row for row in without_seconds(tmp_path / "many") if row["status"] == "ok"]
    assert many == without_seconds(tmp_path / "one")


KILLED_RUN = """
import sys
from pathlib import Path
from tests.pipelines.fakes import run_fake_batch, write_candidate
out, folder = Path(sys.argv[1]), Path(sys.argv[2])
series = [write_candidate(folder, f"s{i}", f"score {i + 1}") for i in range(8)]
if __name__ == "__main__":
    run_fake_batch(out, series, seconds=0.1, workers=int(sys.argv[3]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "finished"), [(1, 0), (1, 3), (1, 7), (2, 3)])
def test_kill_and_rerun_loses_nothing_and_repeats_nothing(
    tmp_path: Path, workers: int, finished: int
) -> None:
    out, script = tmp_path / "out", tmp_path / "killed_run.py"
    script.write_text(KILLED_RUN)
    words = [sys.executable, str(script), str(out), str(tmp_path / "in"), str(workers)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
    wait_until_lines(out / "calls", 1)
    wait_until_lines(out / JOURNAL_NAME, finished)
    process.send_signal(signal.SIGKILL)
    process.wait()
    held = lines(out / JOURNAL_NAME)
    assert finished <= held < 8
    subprocess.run(words, env=environment, check=True, stderr=subprocess.DEVNULL)
    assert lines(out / JOURNAL_NAME) == 8
    assert [row["agatston"] for row in rows(out)] == [str(i + 1) for i in range(8)]
    assert sorted(os.listdir(out / "scans")) == sorted(row["scan_id"] for row in rows(out))
    summary = json.loads((out / "run.json").read_text())
    assert summary["finished_by_an_earlier_run"] == held


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_until_lines(path: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while lines(path) < count:
        assert time.monotonic() < deadline, f"{path.name} has {lines(path)} of {count} lines"
        time.sleep(0.01)


def test_killed_in_the_middle_of_a_folder_leaves_no_part_behind(tmp_path: Path) -> None:
    out = tmp_path / "out"
    [series] = cohort(tmp_path / "in", ["score 1"])
    part = out / "scans" / ".scan-1.xyz.part"
    part.mkdir(parents=True)
    (part / "report.html").write_text("half")
    (out / ".scores.csv.abc.part").write_text("half")
    run_fake_batch(out, [series])
    assert os.listdir(out / "scans") == [series.scan_id]
    assert not (out / ".scores.csv.abc.part").exists()
