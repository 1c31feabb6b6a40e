import subprocess
import sys

import pytest

from pipelines.scoring_training import ScoringRecipe, Validation, model_sections
from registration.geometry import Ellipsoid

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
