import pytest

from benchmarks.scoring_real import read_truth, truth_of


def test_the_longest_fitting_name_wins():
    truth = {"a": 1.0, "a/b": 2.0, "lung1": 3.0}
    assert truth_of("a/b/1.dcm", truth) == "a/b"
    assert truth_of("a/c/1.dcm", truth) == "a"
    assert truth_of("lung1.nrrd", truth) == "lung1"
    assert truth_of("cohort/lung1", truth) == "lung1"


def test_a_name_is_no_prefix_of_another():
    assert truth_of("lung10/1.dcm", {"lung1": 3.0}) is None


def test_truth_needs_both_columns(tmp_path):
    path = tmp_path / "truth.csv"
    path.write_text("scan,agatston\ncase-1/, 12.5\n")
    assert read_truth(path) == {"case-1": 12.5}
    path.write_text("scan,score\ncase-1,12.5\n")
    with pytest.raises(SystemExit, match=r"truth\.csv needs the columns scan and agatston"):
        read_truth(path)
