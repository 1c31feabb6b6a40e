import csv

import numpy as np
import pytest

from registration.alignment_batches import AlignmentExample
from registration.alignment_training import AlignmentTrainer, AlignmentTrainingPlan
from registration.geometry import ImageGrid
from registration.preprocessing import prepare_volume
from tests.registration.torso import HEART, oblique_chest_grid, small_affine, torso_scan

PLAN = AlignmentTrainingPlan(
    steps=6,
    batch=2,
    check_every=2,
    validation_samples=2,
    cube_size=12,
    cube_spacing_mm=26.0,
    filters=(4, 6),
    dense_units=(8,),
    seed=5,
)


@pytest.fixture(scope="module")
def cohort():
    grid = ImageGrid.centered((80, 64, 70), (4.5, 4.5, 4.5), (0.0, 0.0, 0.0))
    atlas = prepare_volume(torso_scan(grid))
    examples = []
    for number, shift in enumerate([(0.0, 0.0, 0.0), (30.0, 10.0, 100.0), (-20.0, 5.0, 40.0)]):
        known = small_affine(shift)
        volume = prepare_volume(torso_scan(oblique_chest_grid(shift), known))
        examples.append(AlignmentExample.from_volume(f"torso-{number}", volume, known))
    return atlas, examples


def trainer(cohort, folder, plan=PLAN, **kwargs):
    atlas, examples = cohort
    return AlignmentTrainer(atlas, HEART, examples[:2], examples[2:], folder, plan=plan, **kwargs)


def rows(folder):
    return list(csv.DictReader((folder / "curves.csv").read_text().splitlines()))


def test_a_training_that_was_killed_ends_as_if_it_had_not_been(cohort, tmp_path):
    whole = trainer(cohort, tmp_path / "whole").train().get_weights()
    trainer(cohort, tmp_path / "killed").train(stop_after=3)
    (tmp_path / "killed" / "checkpoint.partial.npz").write_bytes(b"torn")
    resumed = trainer(cohort, tmp_path / "killed").train().get_weights()
    for expected, found in zip(whole, resumed, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    curves = [rows(tmp_path / name) for name in ("whole", "killed")]
    assert [row["step"] for row in curves[1]] == ["2.0", "4.0", "6.0"]
    assert float(curves[1][2]["loss"]) == pytest.approx(float(curves[0][2]["loss"]), abs=1e-4)


def test_the_seed_decides(cohort, tmp_path):
    from dataclasses import replace

    plan = replace(PLAN, steps=2)
    runs = [
        trainer(cohort, tmp_path / name, replace(plan, seed=seed)).train().get_weights()
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    ]
    for one, same in zip(runs[0], runs[1], strict=True):
        np.testing.assert_allclose(one, same, atol=1e-6)
    assert max(np.abs(a - c).max() for a, c in zip(runs[0], runs[2], strict=True)) > 1e-3


def test_a_finished_training_is_only_read(cohort, tmp_path):
    lines = []
    weights = trainer(cohort, tmp_path).train().get_weights()
    again = trainer(cohort, tmp_path, report=lines.append)
    for expected, found in zip(weights, again.train().get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert lines == []
    assert np.isfinite(again.best_error_mm)


@pytest.mark.slow
def test_training_brings_the_error_down(cohort, tmp_path):
    from dataclasses import replace

    plan = replace(PLAN, steps=120, check_every=40, batch=4, learning_rate=4e-3)
    run = trainer(cohort, tmp_path, plan)
    run.train()
    assert run.last_training_error_mm < 0.8 * float(rows(tmp_path)[0]["train_error_mm"])


def test_refuses_the_checkpoint_of_another_plan(cohort, tmp_path):
    from dataclasses import replace

    trainer(cohort, tmp_path, replace(PLAN, steps=2)).train()
    with pytest.raises(ValueError, match=r"same plan and augmentation.*empty folder"):
        trainer(cohort, tmp_path).train()
