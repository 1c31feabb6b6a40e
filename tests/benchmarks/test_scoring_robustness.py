import pytest

from benchmarks.scoring_robustness import FIRST, changes


def scans(name, truths, scores):
    return [
        {"case": f"c{k}", "scan": name, "truth": t, "score": s}
        for k, (t, s) in enumerate(zip(truths, scores, strict=True))
    ]


def test_second_scans_are_compared_with_the_first_of_the_same_patient():
    rows = scans(FIRST, (0, 50, 200, 600), (0, 60, 200, 500))
    rows += scans("noise alone", (0, 50, 200, 600), (0, 66, 190, 500))
    rows += scans("turned 10 deg", (0, 50, 220, 500), (5, 120, 220, 600))
    rows += scans("140 kV", (0, 40, 100, 380), (0, 48, 160, 350))
    table = {row["second scan"]: row for row in changes(rows)}
    assert list(table)[-1] == "test-retest: noise, offset, 10 deg"
    assert table["noise alone"]["same category"] == 1.0
    # 0 to 5 and 60 to 120 are other categories
    assert table["turned 10 deg"]["same category"] == 0.5
    assert table["140 kV"]["median change"] == pytest.approx(-0.2)
    # the true categories: 200 to 100 and 600 to 380
    assert table["140 kV"]["same category, truth"] == 0.5
    assert table["test-retest: noise, offset, 10 deg"]["n"] == 8
    assert table["noise alone"]["ICC(2,1)"] > 0.99
