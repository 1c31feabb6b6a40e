import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from calcium.heart_field import HeartEllipsoid
from calcium.simulation.anatomy import Anatomy
from calcium.simulation.background import Background
from pipelines.scoring_training import (
    ScoringRecipe,
    model_sections,
    read_backgrounds,
    simulated_scans,
)
from registration.geometry import ImageGrid

GRID = ImageGrid((60, 55, 14), (2.0, 2.0, 5.0), (-70.0, 20.0, -100.0))
HEART = HeartEllipsoid((0.0, 0.0, 0.0), (40.0, 38.0, 30.0))


def background():
    hu = np.full(GRID.shape, -80, np.int16)
    hu[3:11, 15:40, 15:45] = 40
    to_scan = np.eye(4)
    to_scan[:3, 3] = (-11.0, 74.0, -67.0)
    course = np.array([[-30.0, 60, -60], [-10, 48, -70], [10, 50, -80]])
    return Background("b", hu, GRID, to_scan, Anatomy({"LAD": course}), slice_thickness_mm=5.0)


def test_simulated_scans_come_from_the_cache_on_a_second_call(tmp_path):
    recipe = ScoringRecipe(simulated=2)
    first = list(simulated_scans(background(), HEART, recipe, tmp_path))
    stamps = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    again = list(simulated_scans(background(), HEART, recipe, tmp_path))
    assert len(stamps) == 2
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == stamps
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.hu, other.hu)
        assert one.agatston == other.agatston
        assert one.group == "b"


def test_scans_without_annotation_are_left_out(tmp_path):
    sitk.WriteImage(GRID.to_image(background().volume_hu), str(tmp_path / "stranger.nii.gz"))
    assert list(read_backgrounds([tmp_path], tmp_path, aligner=None)) == []


def test_sections_hold_what_the_scorer_needs_and_how_it_was_trained():
    sections = model_sections(ScoringRecipe(seed=7), HEART, ["a"], {"kappa": 0.98765}, "command")
    assert sections["scoring"]["network"] == "additive"
    assert sections["scoring"]["widths"] == [12, 24, 40, 56]
    assert sections["scoring"]["heart"]["radii_mm"] == [40.0, 38.0, 30.0]
    training = sections["training"]["scoring"]
    assert training["recipe"]["seed"] == 7
    assert training["metrics"] == {"kappa": 0.9877}


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
