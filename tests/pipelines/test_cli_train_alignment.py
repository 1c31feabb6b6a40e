import hashlib
import json

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner

from pipelines.cli_train_alignment import command
from pipelines.model import read_description
from registration.alignment import ReferenceAligner
from registration.geometry import Ellipsoid, affine_matrix
from tests.registration.torso import (
    mean_distance_mm,
    oblique_chest_grid,
    small_affine,
    torso_scan,
)

SHIFTS = {"one": (0.0, 0.0, 0.0), "two": (30.0, 10.0, 500.0), "three": (-20.0, 5.0, -300.0)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    scans, out = folder / "scans", folder / "model"
    scans.mkdir()
    for name, shift in SHIFTS.items():
        grid = oblique_chest_grid(shift, spacing=(3.6, 3.6, 5.0))
        image = torso_scan(grid, small_affine(shift), noise_hu=10.0)
        sitk.WriteImage(image, str(scans / f"{name}.nii.gz"))
    arguments = [str(scans), "--out", str(out), "--steps", "2", "--phantoms", "0"]
    result = CliRunner().invoke(command, [*arguments, "--hold-out", "three"])
    return scans, out, result


@pytest.mark.slow
def test_writes_a_model_folder_that_aligns(trained):
    scans, out, result = trained
    assert result.exit_code == 0, result.output
    description = read_description(out)
    assert set(description["files"]) == {"atlas.nii.gz", "alignment.weights.h5"}
    aligner = ReferenceAligner.from_settings(
        sitk.ReadImage(str(out / "atlas.nii.gz")),
        Ellipsoid.from_dict(description["heart"]),
        description["alignment"],
        out / "alignment.weights.h5",
    )
    check_agreement(aligner, scans)


def check_agreement(aligner, scans):
    """The same torso thrice: whatever the atlas is, scans must agree on where its points are."""
    found = {
        name: affine_matrix(
            aligner.align(sitk.ReadImage(str(scans / f"{name}.nii.gz"))).atlas_to_scan
        )
        for name in SHIFTS
    }
    for name in ("two", "three"):
        between = found[name] @ np.linalg.inv(found["one"])
        expected = small_affine(SHIFTS[name]) @ np.linalg.inv(small_affine(SHIFTS["one"]))
        assert mean_distance_mm(between, expected) < 4.0


@pytest.mark.slow
def test_an_atlas_that_is_given_is_aligned_to(trained, tmp_path):
    scans, first, _ = trained
    atlas, out = tmp_path / "atlas", tmp_path / "model"
    atlas.mkdir()
    # another place and lattice than those of models, and padding beyond what was covered
    mean = sitk.ReadImage(str(first / "atlas.nii.gz"))
    mean = sitk.Resample(mean, mean.GetSize(), sitk.Transform(), sitk.sitkLinear,
                         mean.GetOrigin(), (3.2, 3.2, 3.2), mean.GetDirection(), -2048)  # fmt: skip
    mean.SetOrigin(np.add(mean.GetOrigin(), (40.0, -20.0, 90.0)).tolist())
    sitk.WriteImage(mean, str(atlas / "atlas.nii.gz"))
    record = {"rounds": 14, "subjects_averaged": 3, "subjects": [{"id": "one"}]}
    (atlas / "atlas.json").write_text(json.dumps(record), encoding="utf-8")
    arguments = [str(scans), "--atlas", str(atlas), "--out", str(out), "--steps", "2"]
    done = CliRunner().invoke(command, [*arguments, "--phantoms", "0", "--hold-out", "three"])
    assert done.exit_code == 0, done.output
    description = read_description(out)
    assert description["training"]["alignment"]["recipe"]["atlas"] == "atlas"
    digest = hashlib.sha256((atlas / "atlas.nii.gz").read_bytes()).hexdigest()
    assert description["training"]["atlas"] == {
        "command": "calcium-score atlas build",
        **{key: record[key] for key in ("rounds", "subjects_averaged")},
        "sha256": digest,
    }
    kept = sitk.ReadImage(str(out / "atlas.nii.gz"))
    heart = Ellipsoid.from_dict(description["heart"])
    check_agreement(ReferenceAligner(kept, heart, wide_offset_mm=(30.0, -30.0, -44.0)), scans)
    # what no subject covers stays padding, and nothing between padding and tissue is made up
    values = sitk.GetArrayViewFromImage(kept)
    assert values.min() == -2048
    assert not np.any((values > -2048) & (values < -1024))


def test_a_folder_without_an_atlas_of_chests_is_told(tmp_path):
    scans, empty, air = tmp_path / "scans", tmp_path / "empty", tmp_path / "air"
    for folder in (scans, empty, air):
        folder.mkdir()
    grid = oblique_chest_grid((0.0, 0.0, 0.0), spacing=(7.2, 7.2, 10.0))
    torso = torso_scan(grid, np.eye(4), noise_hu=10.0)
    sitk.WriteImage(torso, str(scans / "one.nii.gz"))
    sitk.WriteImage(torso * 0 - 1000, str(air / "atlas.nii.gz"))
    for atlas, message in (
        (empty, "empty holds no finished atlas: there is no atlas.nii.gz"),
        (air, "must show both lungs, as whole chests do"),
    ):
        arguments = [str(scans), "--atlas", str(atlas), "--out", str(tmp_path / "model")]
        done = CliRunner().invoke(command, arguments)
        assert done.exit_code == 1
        assert message in done.output


@pytest.mark.slow
def test_records_what_was_trained_on(trained):
    _, out, _ = trained
    training = read_description(out)["training"]["alignment"]
    assert training["scans"] == ["one", "two"]
    assert training["held_out"] == ["three"]
    assert training["recipe"]["steps"] == 2
    assert training["metrics"]["left_out_error_mm"] > 0


@pytest.mark.slow
def test_refuses_to_hold_out_an_unknown_scan(trained):
    scans, out, _ = trained
    arguments = [str(scans), "--out", str(out), "--hold-out", "four"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 1
    assert "hold_out must name scans of the cohort" in result.output
    assert "four" in result.output
