"""`calcium-score evaluate` on small tables whose every number can be checked by hand."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from pipelines.cli import main
from pipelines.evaluation import evaluate_pairs
from pipelines.evaluation_figures import draw_figures
from pipelines.score_pairs import read_pairs
from pipelines.table_rows import UnusableTable

COLUMNS = [
    "scan_id",
    "status",
    "reasons",
    "kind",
    "agatston",
    "agatston_low",
    "agatston_high",
    "source",
]


def write_table(path: Path, columns: list[str], rows: list[list[Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


@pytest.fixture
def predicted(tmp_path: Path) -> Path:
    rows = [
        ["a1", "ok", "", "cardiac", 0, 0, 3, "study/p1"],
        ["a2", "ok", "", "cardiac", 8, 2, 20, "study/p2"],
        ["a3", "ok", "", "cardiac", 120, 100, 150, "study/p3"],
        ["b1", "review", "KVP", "chest", 0, 0, 3, "study/p4"],
        ["b2", "ok", "", "chest", 50, 30, 60, "study/p5"],
        ["b3", "ok", "", "chest", 500, 420, 600, "study/p6"],
        ["b4", "rejected", "CONTRAST", "", "", "", "", "study/p7"],
        ["b5", "ok", "", "chest", 9, "", "", "study/p8"],
    ]
    return write_table(tmp_path / "scores.csv", COLUMNS, rows)


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    rows = [["p1", 0], ["p2", 12], ["p3", 130], ["p4", 4], ["p5", 50], ["p6", 450], ["p7", 33]]
    return write_table(tmp_path / "reference.csv", ["scan", "agatston"], [*rows, ["p9", 2]])


def invoke(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def test_measures_are_those_computed_by_hand(
    predicted: Path, reference: Path, tmp_path: Path
) -> None:
    result = invoke(predicted, reference, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert record["counts"] == {
        "pairs": 6,
        "review": 1,
        "reference_without_score": 1,
        "reference_without_prediction": 1,
        "prediction_without_reference": 1,
    }
    assert (record["without_score"], record["without_prediction"]) == (["p7"], ["p9"])
    everything = record["all"]
    # Categories: reference 0 2 3 1 2 4, predicted 0 1 3 0 2 4.
    assert everything["confusion"]["counts"] == [
        [1, 0, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1],
    ]
    assert everything["same_category"] == pytest.approx(4 / 6)
    assert everything["within_one_category"] == 1.0
    truth, found = [0, 2, 3, 1, 2, 4], [0, 1, 3, 0, 2, 4]
    chance = sum(abs(a - b) for a in truth for b in found) / 36
    assert everything["linear_kappa"]["value"] == pytest.approx(1 - (2 / 6) / chance)
    assert everything["zero"] == {
        "sensitivity": pytest.approx(4 / 5),
        "specificity": 1.0,
        "n_positive": 5,
        "n_negative": 1,
    }
    differences = np.array([0, -4, -10, -4, 0, 50])
    assert everything["bland_altman"]["bias"]["value"] == pytest.approx(differences.mean())
    limit = differences.mean() + 1.96 * differences.std(ddof=1)
    assert everything["bland_altman"]["upper"] == pytest.approx(limit)
    assert everything["median_absolute_error"] == 4.0
    logs = np.log([1 / 1, 9 / 13, 121 / 131, 1 / 5, 51 / 51, 501 / 451])
    ratio = everything["bland_altman_ratio"]["bias"]["value"]
    assert ratio == pytest.approx(math.exp(logs.mean()))
    # 4 lies above its interval of 0 to 3; the other five are covered.
    assert everything["interval"] == {"n": 6, "coverage": pytest.approx(5 / 6)}


def test_both_kinds_are_reported_by_themselves(predicted: Path, reference: Path) -> None:
    record = evaluate_pairs(read_pairs(predicted, reference))
    assert {kind: part["n"] for kind, part in record["kinds"].items()} == {"cardiac": 3, "chest": 3}
    assert record["kinds"]["cardiac"]["bland_altman"]["bias"]["value"] == pytest.approx(-14 / 3)


def test_calibration_tells_the_reference_of_each_predicted_category(
    predicted: Path, reference: Path
) -> None:
    rows = evaluate_pairs(read_pairs(predicted, reference))["all"]["calibration"]
    zero = rows[0]
    assert (zero["predicted_category"], zero["n"], zero["mean_reference"]) == ("0", 2, 2.0)
    assert [row["n"] for row in rows] == [2, 1, 1, 1, 1]


def test_pages_and_figures_are_written(predicted: Path, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = invoke(predicted, reference, "--out", out)
    assert "linearly weighted kappa" in result.stdout
    page = (out / "evaluation.html").read_text(encoding="utf-8")
    assert "Research use, not a medical device" in page
    assert "http" not in page
    markdown = (out / "evaluation.md").read_text(encoding="utf-8")
    assert "| same risk category | 66.7 % | 66.7 % | 66.7 % |" in markdown
    figures = sorted((out / "figures").glob("*.png"))
    assert [figure.stem for figure in figures] == [
        "agreement",
        "bland_altman",
        "bland_altman_ratio",
        "calibration",
        "confusion",
    ]
    for figure in figures:
        assert f"figures/{figure.name}" in markdown
        with Image.open(figure) as image:
            assert np.asarray(image.convert("L")).std() > 5


def test_the_same_tables_give_the_same_files(
    predicted: Path, reference: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for out in (first, second):
        assert invoke(predicted, reference, "--out", out).exit_code == 0
    for path in (p for p in first.rglob("*") if p.is_file()):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()


@pytest.mark.parametrize("column", ["scan_id", "source"])
def test_scans_may_be_named_by_identifier_or_source(
    predicted: Path, tmp_path: Path, column: str
) -> None:
    names = {"scan_id": ["a2", "b3"], "source": ["study/p2", "study/p6/"]}[column]
    rows = [[names[0], 12], [names[1], 450]]
    pairs = read_pairs(predicted, write_table(tmp_path / "r.csv", [column, "agatston"], rows))
    assert pairs.predicted.tolist() == [8.0, 500.0]
    assert pairs.kinds == ("cardiac", "chest")


def test_a_single_pair_of_zeros_is_described_without_numbers_that_do_not_exist(
    tmp_path: Path,
) -> None:
    predicted = write_table(tmp_path / "p.csv", ["scan_id", "agatston"], [["x", 0]])
    reference = write_table(tmp_path / "r.csv", ["scan_id", "agatston"], [["x", 0]])
    out = tmp_path / "out"
    assert invoke(predicted, reference, "--out", out).exit_code == 0
    everything = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))["all"]
    assert everything["icc_2_1"]["value"] is None
    assert everything["linear_kappa"]["value"] is None
    assert everything["zero"]["sensitivity"] is None
    assert everything["zero"]["specificity"] == 1.0
    assert len(draw_figures(read_pairs(predicted, reference))) == 5


def test_exchanged_scores_leave_a_dash_for_what_is_undefined(tmp_path: Path) -> None:
    rows = [["x", 10], ["y", 20]]
    predicted = write_table(tmp_path / "p.csv", ["scan_id", "agatston"], rows)
    exchanged = [["x", 20], ["y", 10]]
    reference = write_table(tmp_path / "r.csv", ["scan_id", "agatston"], exchanged)
    result = invoke(predicted, reference, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    markdown = (tmp_path / "out" / "evaluation.md").read_text(encoding="utf-8")
    assert "| ICC(2,1), absolute agreement | - |" in markdown


@pytest.mark.parametrize(
    ("columns", "rows", "message"),
    [
        (["scan_id"], [["a1"]], r"missing: agatston"),
        (["name", "agatston"], [["a1", 0]], r"one of the columns scan_id, scan, source"),
        (["scan_id", "agatston"], [], r"r\.csv has no rows"),
        (["scan_id", "agatston"], [["a1", 1, 250]], r"line 2 of r\.csv has more cells than"),
        (["scan_id;agatston"], [["a1;1"]], r"r\.csv must be separated by commas"),
        (["scan_id", "agatston"], [["a2", 1], [], ["a1", ""]], r"line 4 of r\.csv: agatston must"),
        (["scan_id", "agatston"], [["a1", "many"]], r"score of 0 or more\. Received: 'many'"),
        (["scan_id", "agatston"], [["a1", -3]], r"score of 0 or more\. Received: '-3'"),
        (["scan_id", "agatston"], [["a1", 1], ["a1", 2]], r"names the scan 'a1' twice"),
        (["scan_id", "agatston"], [["nobody", 1]], r"no scan has a score in both tables"),
    ],
)
def test_unusable_tables_are_refused_with_the_place(
    predicted: Path, tmp_path: Path, columns: list[str], rows: list[list[Any]], message: str
) -> None:
    table = write_table(tmp_path / "r.csv", columns, rows)
    with pytest.raises(UnusableTable, match=message):
        read_pairs(predicted, table)
    result = invoke(predicted, table, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_a_prediction_that_is_no_score_is_refused_by_its_line(
    reference: Path, tmp_path: Path
) -> None:
    rows = [["a2", "ok", "", "", 8, "", "", "p2"], ["a1", "ok", "", "", 7, "-1", "", "p1"]]
    table = write_table(tmp_path / "p.csv", COLUMNS, rows)
    message = r"line 3 of p\.csv: agatston_low must be a score of 0 or more\. Received: '-1'"
    with pytest.raises(UnusableTable, match=message):
        read_pairs(table, reference)


@pytest.mark.parametrize(
    ("first", "second"), [("p1", "p1/"), ("p1", "study/p1"), ("study/p7", "p7")]
)
def test_two_names_of_one_scan_are_refused(
    predicted: Path, tmp_path: Path, first: str, second: str
) -> None:
    rows = [[first, 1], ["p2", 3], [second, 1]]
    table = write_table(tmp_path / "r.csv", ["scan", "agatston"], rows)
    with pytest.raises(
        UnusableTable, match=rf"r\.csv names one scan twice, as '{first}' and as '{second}'"
    ):
        read_pairs(predicted, table)


@pytest.mark.parametrize("name", ["", "  ", "/"])
def test_a_row_that_names_no_scan_is_refused_by_its_line(tmp_path: Path, name: str) -> None:
    predicted = write_table(tmp_path / "p.csv", ["scan_id", "agatston"], [["x", 7]])
    rows = [["x", 6], [], [name, 5]]
    table = write_table(tmp_path / "r.csv", ["scan", "agatston"], rows)
    with pytest.raises(UnusableTable, match=r"line 4 of r\.csv names no scan: its column scan"):
        read_pairs(predicted, table)


def test_ambiguous_names_are_refused(tmp_path: Path) -> None:
    rows = [["a", "ok", "", "", 1, "", "", "one/p1"], ["b", "ok", "", "", 2, "", "", "two/p1"]]
    predicted = write_table(tmp_path / "p.csv", COLUMNS, rows)
    table = write_table(tmp_path / "r.csv", ["scan", "agatston"], [["p1", 1]])
    with pytest.raises(UnusableTable, match=r"'p1' fits 2 scored rows of p\.csv"):
        read_pairs(predicted, table)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("cohort/cardiac-0001/series", "cardiac-0001"),
        ("cohort/p1 [IM1.dcm and 9 more]", "p1"),
        ("scans/lung1.nii.gz", "lung1"),
        ("scans/lung1.nii.gz", "lung1.nii.gz"),
        ("scans/lung1.v2.NII.gz", "lung1.v2"),
        ("scans/p1.v2/IM1.dcm [IM1.dcm]", "IM1"),
        ("scans/p1.zip/ct", "p1"),
        ("data/1/1.2.840.113", "1.2.840.113"),
        ("data [x]/p1/ct", "p1"),
        ("data/p1/ct [a]", "ct [a]"),
        ("data/ct [a] [IM [1].dcm and 9 more]", "ct [a]"),
    ],
)
def test_a_folder_or_file_name_in_the_source_is_enough(
    tmp_path: Path, source: str, name: str
) -> None:
    rows = [["a", "ok", "", "", 1, "", "", source], ["b", "ok", "", "", 2, "", "", "cohort/other"]]
    predicted = write_table(tmp_path / "p.csv", COLUMNS, rows)
    table = write_table(tmp_path / "r.csv", ["scan", "agatston"], [[name, 4]])
    assert read_pairs(predicted, table).predicted.tolist() == [1.0]


@pytest.mark.parametrize(
    ("sources", "name", "score"),
    [
        (["data/1/1.2.840.113", "data/2/1.2.840.114", "data/3/1.2.840.115"], "1", 0.0),
        (["data/1/p.1", "data/2/p.2", "data/p"], "p", 2.0),
        (["data/ct [a]", "data/ct [b]", "data/ct"], "ct", 2.0),
    ],
)
def test_a_part_of_a_name_is_no_name(
    tmp_path: Path, sources: list[str], name: str, score: float
) -> None:
    rows = [[f"s{n}", "ok", "", "", n, "", "", source] for n, source in enumerate(sources)]
    predicted = write_table(tmp_path / "p.csv", COLUMNS, rows)
    table = write_table(tmp_path / "r.csv", ["scan", "agatston"], [[name, 4]])
    assert read_pairs(predicted, table).predicted.tolist() == [score]


def test_a_refused_series_beside_the_scored_one_is_passed_over(tmp_path: Path) -> None:
    rows = [
        ["a", "rejected", "LOCALIZER", "", "", "", "", "cohort/p1"],
        ["b", "ok", "", "chest", 7, "", "", "cohort/p1"],
    ]
    predicted = write_table(tmp_path / "p.csv", COLUMNS, rows)
    table = write_table(tmp_path / "r.csv", ["scan", "agatston"], [["p1", 6]])
    assert read_pairs(predicted, table).predicted.tolist() == [7.0]


def test_binary_file_is_no_table(predicted: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(b"\xff\xfe\x00binary\x00")
    with pytest.raises(UnusableTable, match=r"r\.csv is not a table in UTF-8 CSV"):
        read_pairs(predicted, path)


@pytest.mark.parametrize("name", ["file", "file/x", "folder"])
def test_a_folder_that_cannot_be_written_is_wrong_usage(
    predicted: Path, reference: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "folder" / "evaluation.json").mkdir(parents=True)
    result = invoke(predicted, reference, "--out", tmp_path / name)
    assert result.exit_code == 2
    assert result.stderr.count("--out") == 1
