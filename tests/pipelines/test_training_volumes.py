"""`train registration` on volumes of mixed sizes, masked and in patches; killed in the middle."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner
from scipy.ndimage import gaussian_filter

from pipelines.cli import main
from registration.geometry import ImageGrid
from registration.registration_folder import load_registration

DIRECTION = sitk.Euler3DTransform((0, 0, 0), 0.2, -0.1, 0.3).GetMatrix()

RECIPE = {
    "registration": {
        "stages": [
            {"kind": "affine", "dimension": 3, "kernels": 2, "poolings": 1, "dense_units": [4]},
            {"kind": "deformable", "downsamplings": [1, 2, 2], "kernels": 2},
        ],
        "spacing_mm": [1.5, 1.5, 3.0],
    },
    "training": {
        "steps": 6,
        "batch_size": 2,
        "evaluate_every": 1,
        "patch_shape": [4, 12, 12],
        "inverse_weight": 0.01,
        "objective": {"bending_weight": 0.1},
        "augmentation": {"rotation_deg": 5.0, "noise": 0.01, "in_plane": True},
    },
}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Pairs of three subjects, each of its own size; half of the images have a mask."""
    lines = ["image,mask,group"]
    for subject, size in enumerate(((24, 20, 8), (20, 26, 7), (28, 22, 9))):
        grid = ImageGrid(size, (1.2, 1.5, 3.0), (-20.0, 31.0, 400.0), DIRECTION)
        noise = np.random.default_rng(subject).normal(size=grid.shape)
        values = gaussian_filter(noise, (1.0, 2.0, 2.0))
        for phase in range(2):
            moved = np.roll(values, phase, axis=2).astype(np.float32)
            sitk.WriteImage(grid.to_image(moved), str(tmp_path / f"s{subject}-{phase}.nii.gz"))
        mask = np.zeros(grid.shape, np.uint8)
        mask[1:-1, 4:-4, 4:-4] = 1
        sitk.WriteImage(grid.to_image(mask), str(tmp_path / f"m{subject}.nii.gz"))
        lines += [
            f"s{subject}-0.nii.gz,m{subject}.nii.gz,{subject}",
            f"s{subject}-1.nii.gz,,{subject}",
        ]
    (tmp_path / "images.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE))
    return tmp_path / "images.csv"


def words(table: Path, out: str) -> list[str]:
    folder = table.parent
    options = ["--out", str(folder / out), "--recipe", str(folder / "recipe.json")]
    return ["train", "registration", str(table), *options, "--validation-share", "0.34",
            "--threads", "1"]  # fmt: skip


@pytest.mark.slow  # two stages of three axes are compiled
def test_volumes_of_mixed_sizes_are_learnt_in_patches_within_their_masks(table: Path) -> None:
    done = CliRunner().invoke(main, words(table, "model"))
    assert done.exit_code == 0, done.output
    folder = table.parent
    rows = list(csv.DictReader((folder / "model" / "curve.csv").read_text().splitlines()))
    assert [(row["stage"], row["step"]) for row in rows[-2:]] == [("1.0", "5.0"), ("1.0", "6.0")]
    assert np.isfinite([[float(value) for value in row.values()] for row in rows]).all()
    registrar = load_registration(folder / "model")
    pair = [sitk.ReadImage(str(folder / f"s0-{phase}.nii.gz")) for phase in range(2)]
    parts = sitk.CompositeTransform(registrar.register(*pair).transform)
    assert [parts.GetNthTransform(n).GetName() for n in range(2)] == [
        "AffineTransform",
        "BSplineTransform",
    ]


@pytest.mark.slow  # three processes that each start TensorFlow
def test_a_command_that_was_killed_ends_with_the_weights_of_one_that_was_not(table: Path) -> None:
    folder = table.parent
    command = [sys.executable, "-m", "pipelines"]
    whole = subprocess.run([*command, *words(table, "whole")], capture_output=True, check=False)
    assert whole.returncode == 0, whole.stderr
    with subprocess.Popen(
        [*command, *words(table, "killed")], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        seen = 0
        for line in process.stderr:
            seen += line.startswith("stage")
            if seen == 8:  # in the second stage, maybe while a checkpoint is written
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "killed" / "registration.json").exists()
    rest = subprocess.run([*command, *words(table, "killed")], capture_output=True, check=False)
    assert rest.returncode == 0, rest.stderr
    assert 0 < rest.stderr.count(b"\nstage") < 6
    names = ("whole", "killed")
    curves = [(folder / name / "curve.csv").read_text() for name in names]
    assert curves[0] == curves[1]
    weights = [load_registration(folder / name).network.get_weights() for name in names]
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)
