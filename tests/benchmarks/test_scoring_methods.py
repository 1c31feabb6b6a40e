from dataclasses import replace

import pytest

import benchmarks.scoring_methods
from benchmarks.scoring_methods import (
    Case,
    _territory_points,
    agreement,
    available_methods,
    write_score_tables,
)
from calcium.lesions import Lesion
from pipelines.score_pairs import read_pairs


def row(kind, truth, score, **more):
    known = {"method": "additive", "case": f"{kind} {truth}", "kind": kind, "truth": truth}
    known |= {"score": score, "seconds": 0.5, "low": None, "high": None}
    return {**known, "located": None, "located_right": None, **more}


def test_agreement_by_hand():
    rows = [
        row("cardiac", 0.0, 0.0),
        row("cardiac", 0.0, 3.0),  # one category off
        row("cardiac", 50.0, 50.0),
        row("chest", 500.0, 500.0),
    ]
    table = agreement(rows)
    # one chest scan alone is no agreement
    assert [entry["kind"] for entry in table] == ["cardiac", "both"]
    both = table[1]
    assert both["n"] == 4
    assert both["same category"] == pytest.approx(0.75)
    assert both["within one"] == 1.0
    assert both["zero found zero"] == pytest.approx(0.5)
    # linear kappa: disagreement 1 in sum; by chance (2*1 + 2*2 + 2*4 + 1*0 ...) over the margins
    # truth 0,0,2,4; score 0,1,2,4: all 16 pairs differ by 0,1,2,4 | 0,1,2,4 | 2,1,0,2 | 4,3,2,0
    expected = 1.0 - (1.0 / 4.0) / ((7 + 7 + 5 + 9) / 16.0)
    assert both["linear kappa"] == pytest.approx(expected)
    assert both["in 90 % interval"] is None
    assert both["territory"] is None


def test_intervals_and_territories_by_hand():
    rows = [
        row("chest", 10.0, 12.0, low=10.0, high=20.0, located=10.0, located_right=4.0),
        row("chest", 50.0, 60.0, low=51.0, high=70.0, located=50.0, located_right=50.0),
        row("chest", 0.0, 0.0, low=0.0, high=0.0),
        row("chest", 9.0, 0.0, low=0.0, high=9.0),
    ]
    chest = agreement(rows)[0]
    assert chest["in 90 % interval"] == pytest.approx(0.75)
    assert chest["territory"] == pytest.approx(54.0 / 60.0)


def test_points_are_located_by_the_smaller_of_true_and_predicted_score():
    case = Case("a", "chest", None, 100.0, {"LM/LAD": 60.0, "LCX": 40.0, "RCA": 0.0})
    lesions = [
        Lesion((0, 0, 0), 50.0, 1.0, 200.0, (1,), "LM/LAD"),
        Lesion((0, 0, 0), 30.0, 1.0, 200.0, (1,), "RCA"),
    ]
    found = _territory_points(case, lesions)
    assert found == {"located": 80.0, "located_right": 50.0}
    unknown = [replace(lesions[0], territory=None)]
    assert _territory_points(case, unknown)["located"] is None


def test_tables_for_evaluate_and_calibration_hold_the_first_method(tmp_path):
    rows = [
        row("chest", 10.0, 12.0, low=10.0, high=20.0),
        row("chest", 10.0, 99.0, method="plain"),
        row("cardiac", 0.0, 0.0, low=0.0, high=1.0),
    ]
    write_score_tables("phantoms", rows, tmp_path)
    paths = [tmp_path / f"phantoms_{ending}.csv" for ending in ("predicted", "reference")]
    pairs = read_pairs(*paths)
    assert pairs.names == ("chest 10.0", "cardiac 0.0")
    assert pairs.predicted.tolist() == [12.0, 0.0]
    assert pairs.reference.tolist() == [10.0, 0.0]
    assert pairs.high.tolist() == [20.0, 1.0]
    assert pairs.kinds == ("chest", "cardiac")


def test_methods_without_weights_are_not_asked_for_by_default(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks.scoring_methods, "PLAIN", tmp_path)
    assert available_methods() == ("additive",)
    (tmp_path / "plain.json").write_text("{}")
    assert available_methods() == ("additive", "plain")
