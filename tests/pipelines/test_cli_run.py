from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner, Result

from pipelines import guards, model, run, run_inputs
from pipelines.batch import BatchSummary
from pipelines.cli import main
from pipelines.cli_output import print_summary
from pipelines.guards import GuardFinding
from pipelines.results import ScanResult
from tests.pipelines.dicom_factory import PATIENT, hu_pattern, make_slices, write_files
from tests.pipelines.fake_model import (
    IDENTITY,
    BrokenScorer,
    FakeModel,
    bright_score,
)

COUNT = 12
"""Slices of a series, enough to be a scan of the heart."""

COVERAGE = GuardFinding("HEART_NOT_COVERED", "reject", "About 40 % of the heart lies inside.")
CONTRAST = GuardFinding("CONTRAST", "review", "Blood measures about 200 HU.")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeModel]:
    """The model of every run of a test; its findings and scorer may be replaced."""
    made = FakeModel()
    run._loaded_model.cache_clear()
    monkeypatch.setattr(run, "load_model", lambda folder, preset: made)
    monkeypatch.setattr(
        guards, "evaluate_guards", lambda scan, alignment, model, allowed: made.findings
    )
    monkeypatch.setattr(run_inputs, "read_description", lambda folder: {})
    monkeypatch.setattr(run_inputs, "verify_files", lambda folder, description: None)
    for module in (model, run_inputs):
        monkeypatch.setattr(module, "read_identity", lambda folder: IDENTITY)
    yield made
    run._loaded_model.cache_clear()


def write_series(folder: Path, count: int = COUNT, **attributes: object) -> Path:
    write_files(make_slices(count, **attributes), folder)
    return folder


def invoke(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "scores.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def scan_of(out: Path) -> Path:
    [row] = rows(out)
    return out / "scans" / row["scan_id"]


def test_scored_series_has_score_row_and_every_file(tmp_path: Path, fake: FakeModel) -> None:
    write_series(tmp_path / "in")
    done = invoke("run", tmp_path / "in", "--out", tmp_path / "out")
    assert done.exit_code == 0
    [row] = rows(tmp_path / "out")
    expected = bright_score(hu_pattern(COUNT))
    assert float(row["agatston"]) == pytest.approx(expected, rel=1e-4)
    assert (row["status"], row["reasons"], row["kind"]) == ("ok", "", "cardiac")
    assert row["model"] == "fake 2.0"
    assert row["n_lesions"] == "1"
    names = {path.name for path in scan_of(tmp_path / "out").iterdir()}
    assert names == {"result.json", "report.html", "feedback.nii.gz", "alignment.tfm"}
    assert row["scan_id"] in done.stdout


def test_feedback_sums_to_the_score_on_the_native_grid(tmp_path: Path, fake: FakeModel) -> None:
    write_series(tmp_path / "in")
    invoke("run", tmp_path / "in", "--out", tmp_path / "out")
    feedback = sitk.ReadImage(str(scan_of(tmp_path / "out") / "feedback.nii.gz"))
    total = sitk.GetArrayFromImage(feedback).sum(dtype=float)
    [row] = rows(tmp_path / "out")
    assert total == pytest.approx(float(row["agatston"]), rel=1e-3)
    assert feedback.GetSize() == (16, 12, COUNT)
    assert feedback.GetSpacing() == pytest.approx((0.5, 0.7, 3.0), rel=1e-5)
    assert feedback.GetOrigin() == pytest.approx((-31.0, 12.5, -140.0), rel=1e-4)


def test_result_json_agrees_with_the_table_and_names_the_parts(
    tmp_path: Path, fake: FakeModel
) -> None:
    write_series(tmp_path / "in")
    invoke("run", tmp_path / "in", "--out", tmp_path / "out")
    [row] = rows(tmp_path / "out")
    result = json.loads((scan_of(tmp_path / "out") / "result.json").read_text())
    assert f"{result['agatston']:.5g}" == row["agatston"]
    seconds = result["details"]["seconds"]
    assert set(seconds) == {"reading", "alignment", "guards", "scoring", "files", "report"}
    assert sum(seconds.values()) == pytest.approx(result["seconds"], abs=1e-3)


def test_alignment_is_an_itk_file(tmp_path: Path, fake: FakeModel) -> None:
    write_series(tmp_path / "in")
    invoke("run", tmp_path / "in", "--out", tmp_path / "out")
    transform = sitk.ReadTransform(str(scan_of(tmp_path / "out") / "alignment.tfm"))
    stored = json.loads((scan_of(tmp_path / "out") / "result.json").read_text())
    corner = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    said = stored["details"]["alignment"]
    assert (said["coverage"], said["scales"], said["doubt_mm"]) == (0.95, [1.1, 1.0, 0.9], None)
    assert corner == pytest.approx(np.array(stored["details"]["alignment"]["atlas_to_scan"])[:3, 3])


def test_review_is_scored_and_exits_with_zero(tmp_path: Path, fake: FakeModel) -> None:
    fake.findings = (CONTRAST,)
    write_series(tmp_path / "in")
    assert invoke("run", tmp_path / "in", "--out", tmp_path / "out").exit_code == 0
    [row] = rows(tmp_path / "out")
    assert (row["status"], row["reasons"]) == ("review", "CONTRAST")
    assert row["agatston"]


def test_refusal_has_a_row_a_report_and_no_score(tmp_path: Path, fake: FakeModel) -> None:
    slices = make_slices(COUNT)
    del slices[5]
    write_files(slices, tmp_path / "in")
    done = invoke("run", tmp_path / "in", "--out", tmp_path / "out")
    assert done.exit_code == 3
    [row] = rows(tmp_path / "out")
    assert (row["status"], row["reasons"], row["agatston"]) == ("rejected", "MISSING_SLICE", "")
    report = (scan_of(tmp_path / "out") / "report.html").read_text()
    assert "Not scored" in report
    assert "MISSING_SLICE" in done.stdout


def test_refusal_of_a_guard_withholds_the_score(tmp_path: Path, fake: FakeModel) -> None:
    fake.findings = (CONTRAST, COVERAGE)
    write_series(tmp_path / "in")
    assert invoke("run", tmp_path / "in", "--out", tmp_path / "out").exit_code == 3
    [row] = rows(tmp_path / "out")
    assert (row["status"], row["agatston"]) == ("rejected", "")
    assert row["reasons"] == "CONTRAST;HEART_NOT_COVERED"
    assert not (scan_of(tmp_path / "out") / "feedback.nii.gz").exists()
    assert (scan_of(tmp_path / "out") / "alignment.tfm").exists()


def test_allowed_refusal_is_scored_for_review_and_says_so(tmp_path: Path, fake: FakeModel) -> None:
    fake.findings = (COVERAGE,)
    write_series(tmp_path / "in")
    words = ("run", tmp_path / "in", "--out", tmp_path / "out", "--allow", "heart_not_covered")
    assert invoke(*words).exit_code == 0
    [row] = rows(tmp_path / "out")
    assert (row["status"], row["reasons"]) == ("review", "HEART_NOT_COVERED")
    assert float(row["agatston"]) > 0
    report = (scan_of(tmp_path / "out") / "report.html").read_text()
    assert "because --allow HEART_NOT_COVERED asks for it" in report


def test_one_broken_series_does_not_stop_the_others(tmp_path: Path, fake: FakeModel) -> None:
    write_series(tmp_path / "in" / "a")
    slices = make_slices(COUNT)
    slices[3].ImagePositionPatient = slices[2].ImagePositionPatient
    write_files(slices, tmp_path / "in" / "b")
    assert invoke("run", tmp_path / "in", "--out", tmp_path / "out").exit_code == 3
    assert [row["status"] for row in rows(tmp_path / "out")] == ["ok", "rejected"]


def test_error_of_the_program_is_failed_with_its_traceback_in_the_log(
    tmp_path: Path, fake: FakeModel
) -> None:
    fake.scorer = BrokenScorer()
    write_series(tmp_path / "in")
    assert invoke("run", tmp_path / "in", "--out", tmp_path / "out").exit_code == 3
    [row] = rows(tmp_path / "out")
    assert (row["status"], row["reasons"]) == ("failed", "INTERNAL_ERROR")
    log = (tmp_path / "out" / "run.log").read_text()
    assert "RuntimeError: cannot score '…'" in log
    assert "in _score" in log
    assert "INTERNAL_ERROR" in (scan_of(tmp_path / "out") / "report.html").read_text()


def test_no_identifier_leaves_the_headers(tmp_path: Path, fake: FakeModel) -> None:
    fake.scorer = BrokenScorer()
    write_series(tmp_path / "in" / "a")
    slices = make_slices(COUNT)
    del slices[4]
    write_files(slices, tmp_path / "in" / "b")
    invoke("run", tmp_path / "in", "--out", tmp_path / "out", "--dicom-out")
    family = PATIENT.split("^")[0]
    for path in (tmp_path / "out").rglob("*"):
        assert family not in path.name
        if path.is_file():
            assert family.encode() not in path.read_bytes()


def test_rerun_skips_and_fresh_does_not(tmp_path: Path, fake: FakeModel) -> None:
    write_series(tmp_path / "in")
    words = ("run", tmp_path / "in", "--out", tmp_path / "out")
    invoke(*words)
    before = (tmp_path / "out" / "scores.csv").read_bytes()
    assert "1 finished before" in invoke(*words).stdout
    assert (tmp_path / "out" / "scores.csv").read_bytes() == before
    assert "finished before" not in invoke(*words, "--fresh").stdout


def test_output_inside_the_input_is_not_read(tmp_path: Path, fake: FakeModel) -> None:
    write_series(tmp_path / "series")
    words = ("run", tmp_path, "--out", tmp_path / "out", "--dicom-out")
    invoke(*words)
    invoke(*words)
    assert len(rows(tmp_path / "out")) == 1


def test_results_of_an_earlier_run_inside_the_input_are_not_read(
    tmp_path: Path, fake: FakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    write_series(tmp_path / "series")
    invoke("run", tmp_path, "--out", tmp_path / "out1", "--dicom-out")
    write_series(tmp_path / "out1" / "later")
    done = invoke("run", tmp_path, "--out", tmp_path / "out2")
    assert done.exit_code == 0
    sources = [row["source"] for row in rows(tmp_path / "out2")]
    assert sources == [f"{tmp_path.name}/out1/later", f"{tmp_path.name}/series"]
    assert "results of an earlier run are passed over (scans: 1)" in caplog.messages


def test_scans_may_lie_where_the_results_go(tmp_path: Path, fake: FakeModel) -> None:
    write_series(tmp_path / "scans" / "p1")
    words = ("run", tmp_path / "scans", "--out", tmp_path, "--dicom-out")
    for _ in range(2):
        assert invoke(*words).exit_code == 0
        assert [row["source"] for row in rows(tmp_path)] == ["scans/p1"]


def test_output_folder_that_is_the_input_is_wrong_usage(tmp_path: Path, fake: FakeModel) -> None:
    write_series(tmp_path / "in")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    done = invoke("run", tmp_path / "in", "--out", tmp_path / "link")
    assert done.exit_code == 2
    assert "Choose another folder for --out" in done.stderr
    assert not (tmp_path / "in" / "scores.csv").exists()


def test_dicom_results_are_written_on_request(tmp_path: Path, fake: FakeModel) -> None:
    write_series(tmp_path / "in")
    words = ("run", tmp_path / "in", "--out", tmp_path / "out", "--dicom-out")
    assert invoke(*words).exit_code == 0
    folder = scan_of(tmp_path / "out")
    assert (folder / "sr.dcm").is_file()
    assert (folder / "sc" / "0001.dcm").is_file()


def test_other_options_replace_what_stands_in_the_folder_of_a_scan(
    tmp_path: Path, fake: FakeModel
) -> None:
    write_series(tmp_path / "in")
    words = ("run", tmp_path / "in", "--out", tmp_path / "out")
    invoke(*words)
    folder = scan_of(tmp_path / "out")
    for more in (["--dicom-out"], []):
        assert "finished before" not in invoke(*words, *more).stdout
        assert list((tmp_path / "out" / "scans").iterdir()) == [folder]
        assert scan_of(tmp_path / "out") == folder
        assert (folder / "sr.dcm").exists() == (folder / "sc").exists() == bool(more)


def test_nothing_to_score_exits_with_four(tmp_path: Path, fake: FakeModel) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "letter.txt").write_text("no image")
    done = invoke("run", tmp_path / "in", "--out", tmp_path / "out")
    assert done.exit_code == 4
    assert rows(tmp_path / "out") == []
    assert "Nothing to score" in done.stderr


def test_long_names_and_scores_stand_apart_in_what_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = ScanResult(
        scan_id="32c9540b1049-e1feacf3",
        status="rejected",
        source="in/a",
        model="m",
        agatston=1234567.5,
    )
    print_summary(BatchSummary((result,), 0, 1.0), tmp_path)
    [head, line, *_] = capsys.readouterr().out.splitlines()
    assert line.split() == ["32c9540b1049-e1feacf3", "rejected", "1234567.5", "-", "in/a"]
    result = replace(result, scan_id="32c9540b1049", agatston=7.0)
    print_summary(BatchSummary((result,), 0, 1.0), tmp_path)
    line = capsys.readouterr().out.splitlines()[1]
    assert line.index("rejected") == head.index("status")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--allow", "MISSING_SLICE"], "cannot be allowed"),
        (["--allow", "SUNSHINE"], "is none of"),
        (["--workers", "0"], "Invalid value for '--workers'"),
        (["--workers", "2", "--scheduler", "tcp://localhost:1"], "exclude each other"),
        (["--preset", "mine"], "Invalid value for '--preset'"),
        (["--identifiers", "some"], "Invalid value for '--identifiers'"),
        (["--model", "nowhere"], "Invalid value for '--model'"),
    ],
)
def test_wrong_usage_exits_with_two(tmp_path: Path, words: list[str], said: str) -> None:
    done = invoke("run", tmp_path, "--out", tmp_path / "out", *words)
    assert done.exit_code == 2
    assert said in done.stderr


def test_input_that_does_not_exist_is_wrong_usage(tmp_path: Path) -> None:
    done = invoke("run", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "does not exist" in done.stderr


def test_folder_without_a_model_is_wrong_usage(tmp_path: Path) -> None:
    done = invoke("run", tmp_path, "--out", tmp_path / "out", "--model", tmp_path)
    assert done.exit_code == 2
    assert "model.json" in done.stderr
    assert not (tmp_path / "out").exists()


def test_model_whose_files_changed_is_wrong_usage(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "atlas.nii.gz").write_bytes(b"changed")
    description = {"format": 1, "name": "m", "version": "1", "files": {"atlas.nii.gz": "0" * 64}}
    (folder / "model.json").write_text(json.dumps(description))
    done = invoke("run", tmp_path, "--out", tmp_path / "out", "--model", folder)
    assert done.exit_code == 2
    assert "SHA-256 differs" in done.stderr


HEAVY = ("tensorflow", "keras", "SimpleITK", "numpy", "scipy", "pydicom", "dask", "highdicom")


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["demo", "--help"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    script = (
        "import sys\nfrom pipelines.cli import main\n"
        f"main({words!r}, standalone_mode=False)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "Usage: " in done.stdout
    assert done.stderr.strip() == "[]"
