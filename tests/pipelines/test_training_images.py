"""Cohorts to learn from with DICOM in them: series of CT and MR, and frames as pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner

from pipelines.cli import main
from pipelines.training_images import read_cohort, read_training_image
from registration.registration_folder import read_registration
from registration.training_pairs import file_state
from tests.pipelines.dicom_factory import make_slices, write_files

SHAPE = (32, 40)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two series of CT, one of MR, and a volume file."""
    images = tmp_path / "images"
    for name, modality in (("p1-a", "CT"), ("p1-b", "CT"), ("p2-a", "MR")):
        files = write_files(make_slices(8, shape=SHAPE, Modality=modality), images / name)
        if modality == "MR":  # scanners often give no suffix
            for path in files:
                path.rename(path.with_suffix(""))
    sitk.WriteImage(read_training_image(images / "p2-a"), str(images / "p2-b.nii.gz"))
    (images / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (images / "notes.txt").write_text("none of them")
    return images


def train(images: Path, out: Path, recipe: dict[str, object], *more: str) -> str:
    path = out.with_suffix(".json")
    path.write_text(json.dumps(recipe))
    words = ["train", "registration", str(images), "--out", str(out), "--recipe", str(path)]
    done = CliRunner().invoke(main, [*words, "--validation-share", "0", *more])
    assert done.exit_code == 0, done.output
    return done.stderr


def recipe(*halvings: int) -> dict[str, object]:
    stage = {"kind": "deformable", "downsamplings": list(halvings), "kernels": 2}
    return {"registration": {"stages": [stage]}, "training": {"steps": 1, "batch_size": 1}}


def test_every_folder_with_a_series_is_an_image_to_networks_of_three_axes(folder: Path) -> None:
    cohort = read_cohort(folder, dimension=3, group=r"p\d")
    assert [image.path.name for image in cohort.images] == ["p1-a", "p1-b", "p2-a", "p2-b.nii.gz"]
    assert [image.group for image in cohort.images] == ["p1", "p1", "p2", "p2"]
    arrays = [sitk.GetArrayFromImage(read_training_image(i.path)) for i in cohort.images]
    assert {array.shape for array in arrays} == {(8, *SHAPE)}
    np.testing.assert_array_equal(arrays[2], arrays[3])


def test_trains_on_series_of_ct_and_mr(folder: Path, tmp_path: Path) -> None:
    assert "4 images and 4 pairs" in train(
        folder, tmp_path / "model", recipe(1, 2, 2), "--group", r"p\d"
    )
    assert read_registration(tmp_path / "model")["training"]["subjects"] == ["p1", "p2"]


def test_every_file_is_a_picture_to_networks_of_two_axes(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "frames.csv"
    table.write_text("fixed;moving\nimages/p2-a/IM0001;images/p2-a/IM0002\n")
    assert "2 images and 1 pairs" in train(table, tmp_path / "model", recipe(2, 2))
    cohort = read_cohort(folder / "p2-a", dimension=2)
    assert len(cohort.images) == 8


def test_tables_name_folders_with_a_series(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "series.csv"
    table.write_text("fixed,moving\nimages/p1-a,images/p2-b.nii.gz\n")
    assert "2 images and 1 pairs" in train(table, tmp_path / "model", recipe(1, 2, 2))


def test_a_folder_that_is_no_series_is_told_by_name(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "series.csv"
    table.write_text("fixed,moving\nimages,images/p2-b.nii.gz\n")
    (tmp_path / "r.json").write_text(json.dumps(recipe(1, 2, 2)))
    words = ["train", "registration", str(table), "--out", str(tmp_path / "m")]
    words += ["--validation-share", "0", "--recipe", str(tmp_path / "r.json")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1
    assert "exactly one DICOM series; it holds" in done.output


def test_an_empty_folder_is_told_with_what_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"no image in .*{tmp_path.name}.*\.nii\.gz.*DICOM"):
        read_cohort(tmp_path, dimension=3)


def test_the_state_of_a_series_changes_with_a_slice_of_it(folder: Path) -> None:
    before = file_state(folder / "p1-a")
    (folder / "p1-a" / ".DS_Store").touch()
    assert file_state(folder / "p1-a") == before
    (folder / "p1-a" / "IM0008.dcm").unlink()
    assert file_state(folder / "p1-a") != before
