import pytest

import benchmarks.scoring_methods
from benchmarks.scoring_methods import agreement, available_methods


def row(kind, truth, score):
    return {"method": "additive", "kind": kind, "truth": truth, "score": score, "seconds": 0.5}


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


def test_methods_without_weights_are_not_asked_for_by_default(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks.scoring_methods, "PLAIN", tmp_path)
    assert available_methods() == ("additive",)
    (tmp_path / "plain.json").write_text("{}")
    assert available_methods() == ("additive", "plain")
