"""`calcium-score warp` on files: directions, labels, landmarks, doubts."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from registration.transforms import write_transform
from tests.pipelines.pair_commands import GRID, SHIFT_MM, invoke, write_pair, write_shift


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write_pair(tmp_path)


@pytest.fixture
def shift(tmp_path: Path) -> Path:
    return write_shift(tmp_path)


def test_an_image_and_its_landmark_end_up_at_the_same_place(
    pair: tuple[Path, Path], shift: Path, tmp_path: Path
) -> None:
    fixed, _ = pair
    index = (7, 11, 4)
    moving = sitk.Image(list(GRID.size), sitk.sitkInt16)
    moving.CopyInformation(sitk.ReadImage(str(pair[1])))
    moving[index] = 1000
    sitk.WriteImage(moving, str(tmp_path / "dot.mha"))
    landmark = moving.TransformIndexToPhysicalPoint(index)
    (tmp_path / "dot.csv").write_text("name,x,y,z\ncarina,{:.6f},{:.6f},{:.6f}\n".format(*landmark))
    options = ["--transform", shift, "--reference", fixed]
    assert (
        invoke("warp", tmp_path / "dot.mha", *options, "--out", tmp_path / "m.mha").exit_code == 0
    )
    assert (
        invoke("warp", tmp_path / "dot.csv", *options, "--out", tmp_path / "m.csv").exit_code == 0
    )
    warped = sitk.ReadImage(str(tmp_path / "m.mha"))
    z, y, x = np.argwhere(sitk.GetArrayFromImage(warped) > 900)[0].tolist()
    (row,) = csv.DictReader((tmp_path / "m.csv").read_text().splitlines())
    assert row["name"] == "carina"
    found = [float(row[axis]) for axis in "xyz"]
    np.testing.assert_allclose(found, warped.TransformIndexToPhysicalPoint((x, y, z)), atol=1e-3)
    # against the shift by hand
    np.testing.assert_allclose(found, np.subtract(landmark, SHIFT_MM), atol=1e-5)


def test_labels_are_never_mixed(pair: tuple[Path, Path], tmp_path: Path) -> None:
    labels = sitk.ReadImage(str(pair[1]), sitk.sitkInt16) * 0 + 2
    labels[12:, :, :] = 7
    sitk.WriteImage(sitk.Cast(labels, sitk.sitkUInt8), str(tmp_path / "labels.nii.gz"))
    sitk.WriteTransform(sitk.TranslationTransform(3, (2.0, -2.0, 3.5)), str(tmp_path / "t.tfm"))
    done = invoke(
        "warp", tmp_path / "labels.nii.gz", "--labels", "--transform", tmp_path / "t.tfm",
        "--reference", pair[0], "--out", tmp_path / "out.nii.gz",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    warped = sitk.ReadImage(str(tmp_path / "out.nii.gz"))
    assert warped.GetPixelID() == sitk.sitkUInt8
    assert set(np.unique(sitk.GetArrayFromImage(warped)).tolist()) <= {0, 2, 7}


@pytest.mark.parametrize(("system", "sign"), [("LPS", 1.0), ("1", 1.0), ("RAS", -1.0), ("0", -1.0)])
def test_slicer_points_are_read_in_their_own_coordinate_system(
    pair: tuple[Path, Path], shift: Path, tmp_path: Path, system: str, sign: float
) -> None:
    point = GRID.center + SHIFT_MM  # in the moving image, LPS
    x, y, z = point * (sign, sign, 1.0)
    (tmp_path / "p.fcsv").write_text(
        "# Markups fiducial file version = 4.11\n"
        f"# CoordinateSystem = {system}\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
        f"a,{x},{y},{z},0,0,0,1,1,1,0,apex,,\n"
    )
    done = invoke(
        "warp", tmp_path / "p.fcsv", "--transform", shift, "--reference", pair[0],
        "--out", tmp_path / "q.fcsv",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    lines = (tmp_path / "q.fcsv").read_text().splitlines()
    assert lines[1] == f"# CoordinateSystem = {system}"
    cells = lines[3].split(",")
    assert cells[11] == "apex"
    found = np.array([float(cell) for cell in cells[1:4]]) * (sign, sign, 1.0)
    np.testing.assert_allclose(found, GRID.center, atol=1e-5)


def test_landmarks_outside_the_reference_are_counted(
    pair: tuple[Path, Path], shift: Path, tmp_path: Path
) -> None:
    (tmp_path / "far.csv").write_text("x,y,z\n0,0,0\n")
    done = invoke(
        "warp", tmp_path / "far.csv", "--transform", shift, "--reference", pair[0],
        "--out", tmp_path / "o.csv",
    )  # fmt: skip
    assert done.exit_code == 0
    assert "1 landmarks lie outside the reference" in done.stderr


def test_an_image_that_does_not_reach_the_reference_is_told(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    write_transform(sitk.TranslationTransform(3, (900.0, 0.0, 0.0)), tmp_path / "far.tfm")
    options = ["--reference", pair[0], "--out", tmp_path / "o.nrrd"]
    done = invoke("warp", pair[1], "--transform", tmp_path / "far.tfm", *options)
    assert done.exit_code == 0
    assert "Warning: the image does not reach the reference" in done.stderr
    assert sitk.ReadImage(str(tmp_path / "o.nrrd")).GetSize() == GRID.size


def test_labels_that_are_warped_as_an_image_are_told(
    pair: tuple[Path, Path], shift: Path, tmp_path: Path
) -> None:
    labels = sitk.Cast(sitk.ReadImage(str(pair[1])) * 0 + 2, sitk.sitkUInt8)
    labels[12:, :, :] = 7
    sitk.WriteImage(labels, str(tmp_path / "labels.nrrd"))
    options = ["--transform", shift, "--reference", pair[0], "--out", tmp_path / "o.nrrd"]
    assert "looks like labels" in invoke("warp", tmp_path / "labels.nrrd", *options).stderr
    done = invoke("warp", tmp_path / "labels.nrrd", "--labels", *options)
    assert done.stderr == ""
    assert invoke("warp", pair[1], *options).stderr == ""
