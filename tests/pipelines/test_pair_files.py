"""Landmark tables and images of a pair: what is read, what is refused, what lies on the disk."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner, Result
from pydicom.uid import MRImageStorage

from pipelines.cli import main
from pipelines.pair_files import (
    UnusableFile,
    read_landmarks,
    read_pair_image,
    write_landmarks,
    write_pair_image,
)
from registration.geometry import ImageGrid
from registration.transforms import bspline_transform, write_transform
from tests.pipelines.dicom_factory import (
    CORONAL,
    PIXEL_SPACING_MM,
    hu_pattern,
    make_slices,
    slice_positions,
    write_files,
)

GRID = ImageGrid((8, 7, 5), (1.5, 2.0, 3.0), (-6.0, 20.0, 400.0))


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "points.csv"
    path.write_text(text, encoding="utf-8")
    return path


def warp(tmp_path: Path, source: Path, out: Path, **given: Any) -> Result:
    if "transform" not in given:
        given["transform"] = tmp_path / "shift.tfm"
        shift = sitk.TranslationTransform(3, (1.0, -2.0, 4.0))
        write_transform(shift, given["transform"])
    if "reference" not in given:
        given["reference"] = tmp_path / "fixed.nii.gz"
        sitk.WriteImage(GRID.empty_image(sitk.sitkInt16), str(given["reference"]))
    words = [str(source), "--out", str(out)]
    words += [word for name, path in given.items() for word in (f"--{name}", str(path))]
    return CliRunner().invoke(main, ["warp", *words])


@pytest.mark.parametrize(
    "text", ["\nname,x,y,z\nA,12,-20,510\n", ",,,\n\nname,x,y,z\nA,12,-20,510"]
)
def test_blank_lines_before_the_names_of_columns_are_passed_over(tmp_path: Path, text: str) -> None:
    assert read_landmarks(table(tmp_path, text)).points.tolist() == [[12.0, -20.0, 510.0]]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_are_read_and_written_again(tmp_path: Path, separator: str) -> None:
    lines = [["name", "x", "y", "z"], ["left, upper", "12.5", "-20", "510"]]
    path = table(tmp_path, "".join(separator.join(line) + "\n" for line in lines))
    landmarks = read_landmarks(path)
    assert landmarks.points.tolist() == [[12.5, -20.0, 510.0]]
    write_landmarks(landmarks, landmarks.points + 1.0, tmp_path / "out.csv")
    written = (tmp_path / "out.csv").read_text().splitlines()[1].split(separator)
    assert written == ["left, upper", "13.500000", "-19.000000", "511.000000"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name;x;y;z\nA;12,5;-20;510\n", r"decimal commas.*'12,5'.*12\.5"),
        ('name,x,y,z\nA,"12,5",-20,510\n', r"decimal commas.*'12,5'"),
        ("name,x,y,z\nA,12,5,-20,510\n", r"row of 5 cells under 4 names.*decimal commas"),
        ("name,x,y,z\nA,left,-20,510\n", r"coordinates must be numbers.*'left'"),
        ("name,x,y,z\nA,12\n", r"row of 2 cells"),
        ("name,a,b\nA,1,2\n", r"must have columns x and y"),
        ("", r"must have columns x and y"),
    ],
)
def test_tables_that_would_be_misread_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UnusableFile, match=message):
        read_landmarks(table(tmp_path, text))


def test_a_table_that_is_not_utf_8_is_refused_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes("name,x,y,z\nGefäß,12,-20,510\n".encode("latin-1"))
    done = warp(tmp_path, path, tmp_path / "out.csv")
    assert done.exit_code == 2
    assert "latin.csv must be text in UTF-8" in done.output


@pytest.mark.parametrize("kind", ["shift", "spline"])
def test_a_point_without_a_place_keeps_its_empty_cells(tmp_path: Path, kind: str) -> None:
    control_points = np.zeros((2, 2, 2, 3))
    transform: sitk.Transform = sitk.TranslationTransform(3, (1.0, -2.0, 4.0))
    if kind == "spline":
        spline = bspline_transform(control_points, GRID, spacing=(4.0, 4.0, 4.0))
        transform = sitk.CompositeTransform([transform, spline])
    write_transform(transform, tmp_path / "t.tfm")
    source = table(tmp_path, "name,x,y,z\nA,nan,-20,510\nB,,,\nC,0,24,410\n")
    done = warp(tmp_path, source, tmp_path / "out.csv", transform=tmp_path / "t.tfm")
    assert done.exit_code == 0, done.output
    assert "2 landmarks lie outside" in done.stderr
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[1:3] == ["A,,,", "B,,,"]
    assert [float(cell) for cell in lines[3].split(",")[1:]] == pytest.approx((-1, 26, 406))
    again = warp(tmp_path, tmp_path / "out.csv", tmp_path / "again.csv")
    assert again.exit_code == 0, again.output
    assert math.isnan(read_landmarks(tmp_path / "again.csv").points[1, 2])


def test_a_reference_with_rounded_axes_is_told_by_name(tmp_path: Path) -> None:
    image = GRID.empty_image(sitk.sitkInt16)
    image.SetDirection((0.966, -0.259, 0, 0.259, 0.966, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / "rounded.mha"))
    source = table(tmp_path, "x,y,z\n0,24,410\n")
    done = warp(tmp_path, source, tmp_path / "out.csv", reference=tmp_path / "rounded.mha")
    assert done.exit_code == 2
    assert "rounded.mha: direction must be orthonormal" in done.output


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr", ".nii.gz", ".mha", ".tif"])
def test_an_image_is_written_under_its_name_with_all_its_files(tmp_path: Path, suffix: str) -> None:
    values = np.arange(np.prod(GRID.shape), dtype=np.int16).reshape(GRID.shape)
    path = tmp_path / f"moved{suffix}"
    for _ in range(2):  # the second replaces the first
        write_pair_image(GRID.to_image(values), path)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), values)
    assert {file.name.partition(".")[0] for file in tmp_path.iterdir()} == {"moved"}


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("a.dcm", sitk.sitkUInt8, r"a\.dcm must end in .*\.nii\.gz"),
        ("a.vtk", sitk.sitkInt16, r"a\.vtk must end in"),
        ("a.png", sitk.sitkUInt8, r"a\.png holds images of two axes; this one has 3"),
        ("a.bmp", sitk.sitkUInt8, r"a\.bmp holds images of two axes"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_and_leaves_nothing(
    tmp_path: Path, name: str, kind: int, message: str
) -> None:
    with pytest.raises(UnusableFile, match=message):
        write_pair_image(GRID.empty_image(kind), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_voxel_type_that_a_format_lacks_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnusableFile, match=r"a\.png .*32-bit float.*PNG supports.*choose"):
        write_pair_image(sitk.Image([4, 4], sitk.sitkFloat32), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_a_series_of_ct_is_read_in_hu(tmp_path: Path) -> None:
    write_files(make_slices(6), tmp_path / "ct")
    image = read_pair_image(tmp_path / "ct")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), hu_pattern(6))


@pytest.mark.parametrize("count", [1, 2, 6])
def test_a_series_of_mr_is_read_in_its_plane_with_its_stored_values(
    tmp_path: Path, count: int
) -> None:
    slices = make_slices(count, orientation=CORONAL, intercept=-2000.0, Modality="MR")
    for ds in slices:
        ds.SOPClassUID = MRImageStorage
        del ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType
    write_files(reversed(slices), tmp_path / "mr")
    image = read_pair_image(tmp_path / "mr")
    places = slice_positions(count, orientation=CORONAL)
    for number, expected in enumerate(hu_pattern(count) + 2000):
        index = image.TransformPhysicalPointToIndex(places[number].tolist())
        assert index[:2] == (0, 0)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image)[index[2]], expected)
    assert image.GetSpacing() == pytest.approx((*PIXEL_SPACING_MM[::-1], 3.0))
    np.testing.assert_allclose(np.reshape(image.GetDirection(), (3, 3))[:, 0], CORONAL[:3])


def test_slices_of_mr_are_checked_as_those_of_a_scan_are(tmp_path: Path) -> None:
    slices = make_slices(6, Modality="MR")
    write_files(slices[:2] + slices[3:], tmp_path / "gap")
    with pytest.raises(UnusableFile, match=r"MISSING_SLICE: 5 slices every 3\.00 mm"):
        read_pair_image(tmp_path / "gap")
    phase = make_slices(6, Modality="MR", series_uid=slices[0].SeriesInstanceUID)
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        for ds in phase:
            setattr(ds, name, getattr(slices[0], name))
    write_files(slices + phase, tmp_path / "cine")
    with pytest.raises(UnusableFile, match=r"DUPLICATE_SLICE.*several phases give one"):
        read_pair_image(tmp_path / "cine")
