"""`calcium-score train scoring --table`: a cohort of scores makes a model of its own."""

from __future__ import annotations

import csv
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import SimpleITK as sitk
from click.testing import CliRunner, Result

from calcium.training_from_scores import FineTuning
from pipelines import scoring_table, scoring_training
from pipelines.cli import main
from pipelines.cli_train_scoring import SCANS_OPTIONS, TABLE_OPTIONS, command
from pipelines.model import (
    DEFAULT_MODEL,
    SCORING_WEIGHTS_NAME,
    load_model,
    read_description,
    update_description,
    verify_files,
)
from pipelines.phantoms import make_phantom
from pipelines.scoring_table import read_score_table
from pipelines.table_rows import UnusableTable


def write(path: Path, rows: list[list[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["train", "scoring", *map(str, arguments)])


def test_rows_are_scans_beside_the_table_with_scores_and_maybe_territories(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b.nrrd").touch()
    path = write(tmp_path / "t.csv", [["scan", "agatston"], ["a", "12.5"], ["b.nrrd", 0]])
    rows = read_score_table(path)
    assert [row.path for row in rows] == [tmp_path / "a", tmp_path / "b.nrrd"]
    assert [row.agatston for row in rows] == [12.5, 0.0]
    assert rows[0].territories is None
    header = ["scan", "agatston", "lm_lad", "lcx", "rca"]
    path = write(tmp_path / "t.csv", [header, ["a", 6, 1, 2, 3]])
    assert read_score_table(path)[0].territories == {"LM/LAD": 1.0, "LCX": 2.0, "RCA": 3.0}
    # rounded: 1 point and 1 % of 300 may be missing
    path = write(tmp_path / "t.csv", [header, ["a", 300, 100, 100, 96]])
    assert read_score_table(path)[0].agatston == 300.0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["scan", "score"], ["a", 1]], "must have the columns scan, agatston; missing: agatston"),
        ([["scan", "agatston"]], "t.csv has no rows"),
        ([["scan;agatston"], ["a;1"]], "t.csv must be separated by commas"),
        ([["scan", "agatston"], ["a", 1, 250]], "line 2 of t.csv has more cells than the header"),
        ([["scan", "agatston"], [], [], ["a", "x"]], "line 4 of t.csv: agatston must be a score"),
        (
            [["scan", "agatston"], ["a", 1], ["a", "-3"]],
            "line 3 of t.csv: agatston must be a",
        ),
        ([["scan", "agatston"], ["a", "many"]], "line 2 of t.csv: agatston must be a score"),
        ([["scan", "agatston"], ["gone", 1]], "line 2 of t.csv: the scan does not exist there"),
        ([["scan", "agatston"], ["", 1]], "line 2 of t.csv: the scan does not exist there"),
        (
            [["scan", "agatston", "lm_lad", "lcx", "rca"], ["a", 6, 1, 2, 3], ["a", 100, 1, 2, 3]],
            "line 3 of t.csv: lm_lad, lcx, rca must sum to agatston. Received: 6 and 100",
        ),
        ([["scan", "agatston", "lcx"], ["a", 1, 1]], "needs all of the columns lm_lad, lcx, rca"),
    ],
)
def test_tables_that_cannot_be_learnt_from_say_where(
    rows: list[list[object]], message: str, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    path = write(tmp_path / "t.csv", rows)
    with pytest.raises(UnusableTable, match=message):
        read_score_table(path)
    done = invoke("--table", path, "--out", tmp_path / "model")
    assert done.exit_code == 2
    assert message in done.output


def test_either_scans_or_a_table(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", [["scan", "agatston"]])
    both = invoke(tmp_path, "--table", table, "--out", tmp_path)
    neither = invoke("--out", tmp_path)
    for done in (both, neither):
        assert done.exit_code == 2
        assert "--annotations, or --table" in done.output


def test_a_folder_without_atlas_and_alignment_is_wrong_usage(tmp_path: Path) -> None:
    half = tmp_path / "half"
    half.mkdir()
    update_description(half, {"heart": {}})
    for out in (tmp_path, half, tmp_path / "absent"):
        done = invoke(tmp_path, "--annotations", tmp_path, "--out", out)
        assert done.exit_code == 2
        message = "--out must be a model folder with atlas and alignment, as `calcium-score train"
        assert message in " ".join(done.output.split())


def bad_annotation(*_: object) -> dict[str, float]:
    raise ValueError("p1.json cannot be read as JSON")


def bad_annotation_in_a_worker(*_: object) -> dict[str, float]:
    raise RuntimeError("p1-003 could not be made: no such component") from ValueError("component")


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (bad_annotation, "Error: p1.json cannot be read as JSON"),
        (bad_annotation_in_a_worker, "Error: p1-003 could not be made: no such component"),
    ],
)
def test_what_a_training_cannot_use_is_wrong_usage(
    train: Callable[..., dict[str, float]],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scoring_training, "train_model", train)
    update_description(tmp_path, {"heart": {}, "alignment": {}})
    done = invoke(tmp_path, "--annotations", tmp_path, "--out", tmp_path)
    assert done.exit_code == 2
    assert message in done.output


def test_settings_of_the_command_reach_the_recipe_and_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = []

    def note(scans: object, annotations: object, out: object, recipe: object, work: object) -> dict:
        recipes.append(recipe)
        return {}

    monkeypatch.setattr(scoring_training, "train_model", note)
    update_description(tmp_path, {"heart": {}, "alignment": {}})
    common = [tmp_path, "--annotations", tmp_path, "--out", tmp_path]
    assert invoke(*common).exit_code == 0
    assert invoke(*common, "--network", "plain").exit_code == 0
    changed = ["--widths", "16,32,64", "--phantom-share", 0.5, "--phantoms", 600]
    changed += ["--learning-rate", 0.001]
    assert invoke(*common, *changed).exit_code == 0
    default, plain, other = recipes
    assert default.widths == (12, 24, 40, 56)
    assert default.phantom_share is None
    assert plain.widths == (12, 16, 24, 32, 48)
    assert other.widths == (16, 32, 64)
    assert other.phantom_share == 0.5
    assert (default.learning_rate, plain.learning_rate, other.learning_rate) == (2e-3, 1e-3, 1e-3)
    told = ("--widths 16,32,64", "--phantom-share 0.5", "--phantoms 600", "--learning-rate 0.001")
    for words in told:
        assert words in other.command
    assert "--learning-rate" not in default.command + plain.command
    assert "--phantom-share" not in default.command


def test_phantoms_alone_need_no_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr(scoring_training, "train_model", lambda *all: given.append(all) or {})
    update_description(tmp_path, {"heart": {}, "alignment": {}})
    common = ["--phantoms-only", "--out", tmp_path]
    assert invoke(*common, "--phantoms", 30).exit_code == 0
    scans, annotations, _, recipe, _ = given[0]
    assert (scans, annotations, recipe.simulated, recipe.phantoms) == ((), None, 0, 30)
    assert "train scoring --phantoms-only --out MODEL" in recipe.command
    assert "--simulated" not in recipe.command
    for options, message in (
        ([tmp_path], "give either SCANS with --annotations, or --phantoms-only"),
        (["--phantoms", 0], "--phantoms-only needs --phantoms"),
        (["--hold-out", "x"], "--hold-out goes with SCANS and --annotations, not with"),
    ):
        done = invoke(*common, *options)
        assert done.exit_code == 2
        assert message in " ".join(done.output.split())


@pytest.mark.slow
def test_phantoms_alone_make_a_model_that_scores(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(DEFAULT_MODEL, model)
    few = ["--phantoms", 2, "--validation-phantoms", 0, "--steps", 2, "--members", 1]
    done = invoke("--phantoms-only", "--out", model, *few, "--widths", "4,6", "--workers", 1)
    assert done.exit_code == 0, done.output
    training = read_description(model)["training"]["scoring"]
    assert training["scans"] == []
    assert load_model(model).scorer is not None


@pytest.mark.parametrize("widths", ["16", "16;32", "16,0", "", "1,1,1,1,1,1,1,1"])
def test_widths_that_make_no_network_are_wrong_usage(widths: str, tmp_path: Path) -> None:
    done = invoke(tmp_path, "--annotations", tmp_path, "--out", tmp_path, "--widths", widths)
    assert done.exit_code == 2
    assert "must be two to seven positive numbers" in " ".join(done.output.split())


def test_scans_without_an_annotation_are_wrong_usage(tmp_path: Path) -> None:
    model, annotations = tmp_path / "model", tmp_path / "annotations"
    shutil.copytree(DEFAULT_MODEL, model)
    annotations.mkdir()
    (tmp_path / "scans").mkdir()
    done = invoke(tmp_path / "scans", "--annotations", annotations, "--out", model)
    assert done.exit_code == 2
    assert "no scan has an annotation of its name" in done.output


def test_options_of_the_other_way_are_refused(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", [["scan", "agatston"], ["t.csv", 1]])
    options = ["--steps", 7, "--members", 2, "--hold-out", "x", "--work", tmp_path]
    done = invoke("--table", table, "--out", tmp_path / "model", *options)
    assert done.exit_code == 2
    message = "--work, --members, --steps, --hold-out go with SCANS and --annotations, not with"
    assert message in " ".join(done.output.split())
    assert not (tmp_path / "model").exists()
    done = invoke(tmp_path, "--annotations", tmp_path, "--out", tmp_path, "--epochs", 20)
    assert done.exit_code == 2
    assert "--epochs goes with --table alone" in done.output
    options = ["--annotations", tmp_path, "--out", tmp_path, "--network", "plain", "--members", 5]
    done = invoke(tmp_path, *options)
    assert done.exit_code == 2
    assert "--members goes with --network additive alone" in done.output


def test_every_option_belongs_to_one_way_or_both() -> None:
    """A new option must say where it means something."""
    both = {"out", "seed", "table", "annotations", "scans"}
    assert {p.name for p in command.params} == {*TABLE_OPTIONS, *SCANS_OPTIONS, *both}


def test_progress_is_told_with_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fine_tune(*_: object) -> FineTuning:
        scoring_table.LOGGER.info("pass 1: error 0.400")
        return FineTuning(0.5, (0.4,), 1)

    monkeypatch.setattr(scoring_table, "fine_tune_model", fine_tune)
    caplog.set_level(logging.WARNING, logger="pipelines")  # as it is at first, and after the test
    caplog.handler.setLevel(logging.NOTSET)
    table = write(tmp_path / "t.csv", [["scan", "agatston"], ["t.csv", 1]])
    done = invoke("--table", table, "--out", tmp_path / "model")
    assert done.exit_code == 0, done.output
    assert "pass 1: error 0.400" in caplog.text
    assert "0.500 before, 0.400 after" in done.output


def test_a_new_model_replaces_no_other(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", [["scan", "agatston"], ["t.csv", 1]])
    start, link = tmp_path / "start", tmp_path / "link"
    start.mkdir()
    link.symlink_to(start)
    for out, options in ((link, ["--model", start]), (DEFAULT_MODEL, [])):
        done = invoke("--table", table, "--out", out, *options)
        assert done.exit_code == 2
        assert "the new model needs a folder of its own" in done.output


@pytest.mark.slow
def test_a_cohort_makes_a_model_that_names_its_start_and_no_patient(tmp_path: Path) -> None:
    rows: list[list[object]] = [["scan", "agatston"]]
    for number in range(7):
        phantom = make_phantom("cardiac", 700_000 + 2 * number)
        name = f"patient-{number}.nrrd"
        sitk.WriteImage(phantom.image, str(tmp_path / name), useCompression=False)
        rows.append([name, phantom.truth.agatston["agatston-1990"]])
    (tmp_path / "broken.nrrd").write_text("no image")
    rows.append(["broken.nrrd", 5])
    out = tmp_path / "model"
    done = invoke("--table", write(tmp_path / "t.csv", rows), "--out", out, "--epochs", 1)
    assert done.exit_code == 0, done.output
    description = read_description(out)
    verify_files(out, description)
    record = description["training"]["fine_tuning"]
    assert record["scans"] == 7
    assert record["start"]["model"].startswith("default ")
    assert "patient-" not in (out / "model.json").read_text(encoding="utf-8")
    assert description["name"] == "model"
    better = record["kept_pass"] == 1
    assert (record["log_error_after"] < record["log_error_before"]) is better
    assert (out / SCORING_WEIGHTS_NAME).stat().st_size > 100_000
    assert ("is kept" in done.output) is not better
