import csv
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from calcium.lattice_scan import lattice_scan
from calcium.networks.attention_unet import member_name
from calcium.networks.predictor import build_network
from pipelines import scoring_training
from pipelines.scoring_recipe import ScoringRecipe
from pipelines.scoring_training import (
    ATTENTION_NAME,
    HELD_OUT_NAME,
    Validation,
    model_sections,
    train_model,
    train_scoring,
)
from registration.geometry import Ellipsoid
from tests.calcium.test_training import HEART as LATTICE_HEART
from tests.calcium.test_training import labeled

HEART = Ellipsoid((0.0, 0.0, 0.0), (40.0, 38.0, 30.0))


def test_sections_hold_what_the_scorer_needs_and_how_it_was_trained():
    sections = model_sections(
        ScoringRecipe(seed=7), HEART, ["a"], Validation({"kappa": 0.98765, "found": float("nan")})
    )
    assert sections["scoring"]["network"] == "additive"
    assert sections["scoring"]["widths"] == [12, 24, 40, 56]
    assert sections["scoring"]["heart"]["radii_mm"] == [40.0, 38.0, 30.0]
    training = sections["training"]["scoring"]
    assert training["recipe"]["seed"] == 7
    assert "--network additive" in training["command"]
    assert "--seed 7" in training["command"]
    assert training["metrics"] == {"kappa": 0.9877}


def test_the_command_tells_of_a_training_without_anatomy():
    assert "--no-anatomy" in ScoringRecipe(anatomy=False).command
    assert "anatomy" not in ScoringRecipe().command
    assert "anatomy" not in ScoringRecipe(network="plain").command


def test_who_is_left_out_is_scored_and_chooses_nothing(tmp_path):
    scans = [lattice_scan(labeled(k), LATTICE_HEART) for k in range(4)]
    seen, out, judge = scans[:2], replace(scans[2], group="absent"), scans[3]
    recipe = ScoringRecipe(widths=(4, 6), steps=4, batch_size=2, hold_out=("absent",))
    _, alone = train_scoring([*seen, out], recipe, tmp_path / "a", validation=[judge])
    _, beside = train_scoring(seen, recipe, tmp_path / "b", validation=[judge])
    assert alone == beside
    rows = list(csv.DictReader((tmp_path / "a" / HELD_OUT_NAME).read_text().splitlines()))
    assert [(row["scan_id"], row["group"]) for row in rows] == [(out.name, "absent")]
    assert float(rows[0]["truth"]) == pytest.approx(out.agatston, abs=0.01)
    assert not (tmp_path / "b" / HELD_OUT_NAME).exists()


def test_a_folder_keeps_to_one_training(tmp_path):
    scans = [lattice_scan(labeled(k), LATTICE_HEART) for k in range(3)]
    recipe = ScoringRecipe(widths=(4, 6), steps=2, batch_size=2, seed=1)
    weights, _ = train_scoring(scans[:2], recipe, tmp_path, validation=scans[2:])
    stamp = (tmp_path / "checkpoint.npz").stat().st_mtime_ns
    # neither processes nor judges change a weight
    same = replace(recipe, workers=7)
    assert train_scoring(scans[:2], same, tmp_path)[0] == weights
    assert (tmp_path / "checkpoint.npz").stat().st_mtime_ns == stamp
    for changed in (
        {"hold_out": (scans[0].group,)},
        {"seed": 2},
        {"steps": 1},
        {"learning_rate": 1e-2},
        {"anatomy": False},
    ):
        with pytest.raises(ValueError, match="belongs to another training"):
            train_scoring(scans[:2], replace(recipe, **changed), tmp_path, validation=scans[2:])
    assert not (tmp_path / HELD_OUT_NAME).exists()


def test_nobody_is_left_out_under_a_name_that_no_scan_has(tmp_path, monkeypatch):
    found = [SimpleNamespace(name=name) for name in ("lung2", "lung1")]
    monkeypatch.setattr(scoring_training, "load_aligner", lambda model: (None, HEART))
    monkeypatch.setattr(scoring_training, "find_backgrounds", lambda *given: iter(found))
    recipe = ScoringRecipe(hold_out=("lung1", "lung_2"))
    with pytest.raises(ValueError, match=r"must name annotated scans: lung1, lung2\. .*: lung_2$"):
        train_model([tmp_path], tmp_path, tmp_path, recipe, tmp_path / "work")


def test_members_are_trained_from_seeds_of_their_own_and_joined(tmp_path):
    scans = [lattice_scan(labeled(k), LATTICE_HEART) for k in range(3)]
    out, judge = replace(scans[1], group="absent"), scans[2]
    recipe = ScoringRecipe(
        widths=(4, 6), members=2, steps=4, batch_size=2, seed=5, hold_out=("absent",)
    )
    weights, found = train_scoring([scans[0], out], recipe, tmp_path / "a", validation=[judge])
    joined = build_network("additive", (4, 6), 2)
    joined.load_weights(weights)
    for number, folder in enumerate((tmp_path / "a", tmp_path / "a" / "member-2")):
        alone = build_network("additive", (4, 6))
        alone.load_weights(folder / ATTENTION_NAME)
        kept = joined.get_layer(member_name(number)).get_weights()
        assert all(map(np.array_equal, kept, alone.get_weights()))
    # the second is what a training from the next seed gives
    other = replace(recipe, members=1, seed=6)
    following, _ = train_scoring([scans[0], out], other, tmp_path / "b", validation=[judge])
    alone.load_weights(following)
    assert all(map(np.array_equal, kept, alone.get_weights()))
    assert (tmp_path / "a" / HELD_OUT_NAME).exists()
    sections = model_sections(recipe, HEART, ["a"], found)
    assert sections["scoring"]["members"] == 2
    assert "--members 2" in sections["training"]["scoring"]["command"]


@pytest.mark.slow
def test_help_of_the_command_does_not_import_tensorflow():
    code = (
        "import sys; from click.testing import CliRunner; "
        "from pipelines.cli_train_scoring import command; "
        "r = CliRunner().invoke(command, ['--help']); "
        "assert r.exit_code == 0 and '--annotations' in r.output; "
        "assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
