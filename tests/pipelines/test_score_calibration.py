"""`calcium-score train calibration`: from two tables to intervals in the reports."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from click.testing import CliRunner

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
