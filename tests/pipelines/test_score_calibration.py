"""`calcium-score train calibration`: from two tables to intervals in the reports."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from calcium.calibration import Calibration
from pipelines.cli import main
from pipelines.model import read_description, update_description


def write(path: Path, columns: list[str], rows: list[list[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def tables(folder: Path, count: int) -> tuple[Path, Path]:
    """Chest scans whose true score is the predicted one plus 10 %, every tenth twice as much."""
    predicted = np.geomspace(15.0, 90.0, count)
    truth = predicted * np.where(np.arange(count) % 10 == 0, 2.0, 1.1)
    first = [[f"s{k}", "ok", "chest", p] for k, p in enumerate(predicted)]
    second = [[f"s{k}", t] for k, t in enumerate(truth)]
    return (
        write(folder / "scores.csv", ["scan_id", "status", "kind", "agatston"], first),
        write(folder / "reference.csv", ["scan_id", "agatston"], second),
    )


def test_a_model_learns_what_its_scores_are_worth(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    update_description(model, {"scoring": {"network": "additive", "preset": "agatston-130"}})
    done = CliRunner().invoke(
        main, ["train", "calibration", *map(str, tables(tmp_path, 60)), "--out", str(model)]
    )
    assert done.exit_code == 0, done.output
    assert "chest: 60 scans" in done.output
    settings = read_description(model)["scoring"]
    assert settings["network"] == "additive"
    assert read_description(model)["training"]["calibration"]["scans"] == {"chest": 60}
    calibration = Calibration.from_dict(settings["calibration"])
    assert calibration.preset == "agatston-130"
    low, high = calibration.interval(50.0, "chest") or (0.0, 0.0)
    # errors of log1p: most of ln 1.1, one in ten of ln 2, and the prediction lies inside
    assert low == 50.0
    assert 95.0 < high < 101.0
    assert calibration.interval(50.0, "cardiac") is None


def named_tables(folder: Path, preset: str, model: str) -> tuple[Path, Path]:
    """Scores as `run` writes them, with the definition and the model; the last row is of them."""
    predicted, reference = tables(folder, 30)
    with predicted.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    own = [["agatston-130", "mine 1"]] * 29 + [[preset, model]]
    named = [[*row, *who] for row, who in zip(rows, own, strict=True)]
    return write(predicted, [*header, "preset", "model"], [list(row) for row in named]), reference


def calibrate_mine(folder: Path, preset: str, model: str) -> Result:
    mine = folder / "mine"
    mine.mkdir(exist_ok=True)
    update_description(mine, {"scoring": {"network": "additive", "preset": "agatston-130"}})
    table_paths = map(str, named_tables(folder, preset, model))
    return CliRunner().invoke(main, ["train", "calibration", *table_paths, "--out", str(mine)])


def test_predictions_of_the_model_itself_are_taken_again_and_again(tmp_path: Path) -> None:
    for _ in range(2):  # the second time the model is calibrated, its description another one
        done = calibrate_mine(tmp_path, "agatston-130", "mine 1")
        assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("preset", "model", "message"),
    [
        ("agatston-1990", "mine 1", "of the preset agatston-130"),
        ("agatston-130", "mine 2", "of the model mine 1"),
    ],
)
def test_predictions_of_another_model_or_definition_are_refused(
    preset: str, model: str, message: str, tmp_path: Path
) -> None:
    done = calibrate_mine(tmp_path, preset, model)
    assert done.exit_code == 2
    text = " ".join(done.output.split())
    assert f"predictions must be {message}" in text
    assert "Received: 1 of 30 rows of" in text
    assert "calibration" not in read_description(tmp_path / "mine")["scoring"]


def test_too_few_scans_are_refused_with_the_number_needed(tmp_path: Path) -> None:
    update_description(tmp_path, {"scoring": {}})
    done = CliRunner().invoke(
        main, ["train", "calibration", *map(str, tables(tmp_path, 19)), "--out", str(tmp_path)]
    )
    assert done.exit_code == 2
    assert "at least 20 scans of a kind" in done.output
    assert "Received: 19" in done.output


def test_a_folder_without_model_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    done = CliRunner().invoke(
        main, ["train", "calibration", *map(str, tables(tmp_path, 30)), "--out", str(empty)]
    )
    assert done.exit_code == 2
    assert "There is no model.json" in done.output
