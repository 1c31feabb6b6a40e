"""`calcium-score atlas refine`: an atlas goes on with more subjects."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from registration.networks.deformable_network import DeformableConfig
from registration.networks.registration_network import RegistrationConfig, build_registration
from registration.registration_folder import save_registration
from tests.atlas.blob import known_maps, subject
from tests.pipelines.atlas_commands import QUICK, run, write_images


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("atlas") / "out"
    result = run("build", images, "--out", out, *QUICK)
    assert result.exit_code == 0, result.output
    return out


def test_refine_takes_new_subjects_without_the_old_images(images, finished, tmp_path):
    matrix = known_maps()[4]
    (tmp_path / "new").mkdir()
    sitk.WriteImage(subject(matrix, seed=9), str(tmp_path / "new" / "s9.nii.gz"))
    shutil.copy(images / "images" / "s2.nii.gz", tmp_path / "new" / "s2.nii.gz")
    shutil.copy(images / "images" / "s4.nii.gz", tmp_path / "new" / "renamed.nii.gz")
    out = tmp_path / "out"
    result = run("refine", finished, tmp_path / "new", "--out", out)
    assert result.exit_code == 0, result.output
    assert "6 subjects of the atlas, 1 new ones" in result.output
    told = " ".join(result.output.split())
    assert "skipped as known: renamed (which is s4 of ATLAS), s2" in told
    record = json.loads((out / "atlas.json").read_text())
    assert record["subjects_averaged"] == 7
    assert record["started_from"] == "an atlas"
    first, second = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "atlas.nii.gz")))
        for folder in (finished, out)
    )
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.98


@pytest.fixture(scope="module")
def moved_away(images, tmp_path_factory) -> Path:
    """An atlas whose images and labels are gone; one file was refused."""
    folder = tmp_path_factory.mktemp("moved")
    shutil.copytree(images, folder / "cohort")
    (folder / "cohort" / "images" / "torn.nii.gz").write_bytes(b"torn")
    result = run("build", folder / "cohort", "--out", folder / "atlas", *QUICK)
    assert result.exit_code == 3, result.output
    shutil.rmtree(folder / "cohort")
    return folder / "atlas"


def new_subject(folder: Path) -> Path:
    folder.mkdir()
    sitk.WriteImage(subject(known_maps()[4], seed=9), str(folder / "s9.nii.gz"))
    return folder


def test_refine_carries_labels_over_whose_files_are_gone(moved_away, tmp_path):
    out = tmp_path / "out"
    result = run("refine", moved_away, new_subject(tmp_path / "new"), "--out", out)
    assert result.exit_code == 3, result.output
    assert "left out: torn" in result.output
    first, second = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labels.nii.gz")))
        for folder in (moved_away, out)
    )
    assert (first == 1).any()
    assert (first == second).mean() > 0.95
    assert len(list((out / "labels").iterdir())) == 6


def test_labels_that_an_earlier_version_did_not_keep_are_named(moved_away, tmp_path):
    shutil.copytree(moved_away, tmp_path / "atlas")
    (tmp_path / "atlas" / "work" / "members" / "s3.label.nrrd").unlink()
    result = run(
        "refine", tmp_path / "atlas", new_subject(tmp_path / "new"), "--out", tmp_path / "out"
    )
    assert result.exit_code == 3, result.output
    assert "s3: its label is gone and is not carried over" in result.output
    assert len(list((tmp_path / "out" / "labels").iterdir())) == 5


def test_an_atlas_of_few_that_grows_is_judged_by_new_subjects(finished, tmp_path):
    (tmp_path / "new").mkdir()
    for number in (8, 9):
        image = subject(known_maps()[number - 5], seed=number)
        sitk.WriteImage(image, str(tmp_path / "new" / f"s{number}.nii.gz"))
    result = run("refine", finished, tmp_path / "new", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "held out 0.9" in result.output
    with (tmp_path / "out" / "subjects.csv").open() as stream:
        parts = {row["id"]: row["part"] for row in csv.DictReader(stream)}
    assert list(parts.values()).count("held-out") == 1
    assert "held-out" in (parts["s8"], parts["s9"])


def test_refine_needs_every_prepared_subject(images, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "atlas")
    (tmp_path / "atlas" / "work" / "members" / "s3.json").unlink()
    result = run("refine", tmp_path / "atlas", images, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "s3" in result.output
    assert not (tmp_path / "out").exists()


def test_refine_refuses_other_people_under_known_ids(images, finished, tmp_path):
    (tmp_path / "new").mkdir()
    shutil.copy(images / "images" / "s1.nii.gz", tmp_path / "new" / "s1.nii.gz")
    shutil.copy(images / "images" / "s3.nii.gz", tmp_path / "new" / "s0.nii.gz")
    result = run("refine", finished, tmp_path / "new", "--out", tmp_path / "out")
    assert result.exit_code == 2
    message = "s0 is another image than s0 of ATLAS; give ids in a table"
    assert message in " ".join(result.output.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_an_atlas_by_a_trained_registration_goes_on_without_its_folder(images, tmp_path):
    model = tmp_path / "model"
    config = RegistrationConfig((DeformableConfig((2, 2, 2), kernels=8, convolutions=1),))
    save_registration(model, build_registration(config), config)
    words = ("--method", "trained", "--registration", model, "--rounds", "1", "--spacing", "4")
    result = run("build", images, "--out", tmp_path / "atlas", *words)
    assert result.exit_code == 0, result.output
    shutil.rmtree(model)
    (tmp_path / "new").mkdir()
    sitk.WriteImage(subject(known_maps()[4], seed=9), str(tmp_path / "new" / "s9.nii.gz"))
    result = run("refine", tmp_path / "atlas", tmp_path / "new", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "atlas.json").read_text())
    assert record["subjects_averaged"] == 7
    assert record["settings"]["method"] == "trained"
    assert len(record["settings"]["registration_sha256"]) == 64
