from types import SimpleNamespace

import pytest
import SimpleITK as sitk

import benchmarks.scoring_learning_curve as script


@pytest.fixture
def made(monkeypatch):
    """Phantoms are one voxel and score their number; the numbers that were made."""
    numbers: list[int] = []

    def phantom(first, number):
        numbers.append(number)
        truth = SimpleNamespace(agatston={script.PRESET: float(number)})
        return "chest", SimpleNamespace(image=sitk.Image(1, 1, 1, sitk.sitkInt16), truth=truth)

    monkeypatch.setattr(script, "shifted_phantom", phantom)
    return numbers


def test_larger_cohorts_hold_the_smaller_ones_and_nothing_is_made_twice(made, tmp_path):
    few = script.write_cohort(2, tmp_path).read_text().splitlines()
    many = script.write_cohort(5, tmp_path).read_text().splitlines()
    assert made == [0, 1, 2, 3, 4]
    assert few == many[:3]
    assert [line.split(",")[1] for line in many] == ["agatston", "0.0", "1.0", "2.0", "3.0", "4.0"]
    assert all((tmp_path / line.split(",")[0]).exists() for line in many[1:])


def test_no_scan_is_both_learnt_from_and_scored():
    assert script.TRAINING_SEED + 10_000 < script.TEST_SEED
    assert script.TEST_SEED + 10_000 < 1_000_000  # where training phantoms begin


def test_sizes_share_what_was_prepared_and_say_what_they_keep(tmp_path, monkeypatch):
    (tmp_path / "cohort").mkdir()
    table = tmp_path / "cohort" / "scores-5.csv"

    def fine_tune(table, start, folder, options):
        (folder / "work" / "scan").touch()
        return SimpleNamespace(best=options.epochs - 1, errors=(0.3,) * options.epochs)

    monkeypatch.setattr(script, "fine_tune_model", fine_tune)
    monkeypatch.setattr(script, "load_model", lambda folder: SimpleNamespace(scorer=folder.name))
    for folder in ("model-5", "model-5"):  # a second time is as the first
        scorer, kept = script.fine_tuned(table, tmp_path / folder, None, SimpleNamespace(epochs=3))
    assert (scorer, kept) == ("model-5", "pass 2 of 3")
    assert (tmp_path / "cohort" / "work" / "scan").exists()
    _, kept = script.fine_tuned(table, tmp_path / "model-8", None, SimpleNamespace(epochs=1))
    assert kept == "the start"
