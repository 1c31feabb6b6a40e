"""Dense fields, Learn2Reg files, inverses and pictures of `register`, read by SimpleITK."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner, Result
from PIL import Image
from scipy.ndimage import gaussian_filter

from pipelines.cli import main
from pipelines.pair_files import UnusableFile
from pipelines.pair_outputs import PairOutputs, pair_picture
from registration.geometry import ImageGrid
from registration.registrar import Registration
from registration.transforms import bspline_transform

TURNED = sitk.Euler3DTransform((0, 0, 0), 0.2, -0.1, 0.3).GetMatrix()
GRID = ImageGrid((24, 20, 10), (0.8, 1.1, 3.0), (-31.0, 57.0, 803.0), TURNED)
SHIFT_MM = (1.6, -2.2, 3.0)
INDEX = (9, 7, 4)
"""A voxel of the fixed image, (x, y, z)."""


class KnownRegistrar:
    """Answers with a transform that is known."""

    name = "known"

    def __init__(self, transform: sitk.Transform) -> None:
        self.transform = transform

    def register(self, fixed: sitk.Image, moving: sitk.Image) -> Registration:
        return Registration((self.transform,))


def spline(order: int = 3) -> sitk.BSplineTransform:
    """Displacements of up to some voxels, different everywhere."""
    points = np.random.default_rng(1).uniform(-1.5, 1.5, (3, 5, 6, 3))
    return bspline_transform(points, GRID, spacing=(4.0, 4.0, 4.0), order=order)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    noise = np.random.default_rng(0).normal(size=GRID.shape)
    array = np.rint(500 * gaussian_filter(noise, 1.5)).astype(np.int16)
    for name in ("fixed", "moving"):
        sitk.WriteImage(GRID.to_image(array), str(tmp_path / f"{name}.nii.gz"))
    return tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz"


@pytest.fixture
def register(pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(transform: sitk.Transform, *options: object) -> Result:
        monkeypatch.setattr("pipelines.cli_register._elastix", lambda *_: KnownRegistrar(transform))
        words = [*pair, "--out", tmp_path / "out", "--method", "elastix", *options]
        return CliRunner().invoke(main, ["register", *map(str, words)])

    return run


def fixed_point(index: Sequence[float] = INDEX) -> list[float]:
    return GRID.physical_points(index).tolist()


@pytest.mark.parametrize("name", ["d.h5", "d.tfm", "d.nii.gz", "d.nrrd", "d.mha"])
def test_a_dense_field_takes_a_point_where_the_transform_does(
    register: Any, tmp_path: Path, name: str
) -> None:
    done = register(sitk.TranslationTransform(3, SHIFT_MM), "--dense", tmp_path / "new" / name)
    assert done.exit_code == 0, done.output
    path = str(tmp_path / "new" / name)
    if name.endswith((".h5", ".tfm")):
        field = sitk.ReadTransform(path)
    else:
        field = sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))
    expected = np.add(fixed_point(), SHIFT_MM)
    np.testing.assert_allclose(field.TransformPoint(fixed_point()), expected, atol=1e-4)


def test_the_field_of_learn2reg_is_of_voxels_along_the_axes_of_the_array(
    register: Any, tmp_path: Path
) -> None:
    along_x = (np.reshape(TURNED, (3, 3))[:, 0] * 2 * 0.8).tolist()  # two voxels of 0.8 mm
    done = register(sitk.TranslationTransform(3, along_x), "--learn2reg", tmp_path / "l.nii.gz")
    assert done.exit_code == 0, done.output
    field = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "l.nii.gz")))
    assert field.shape == (3, *GRID.shape)
    np.testing.assert_allclose(field[:, 4, 7, 9], [2.0, 0.0, 0.0], atol=1e-4)


@pytest.mark.parametrize("name", ["i.tfm", "i.h5", "i.nii.gz"])
def test_the_inverse_undoes_the_transform_and_says_how_well(
    register: Any, tmp_path: Path, name: str
) -> None:
    transform = spline()
    done = register(transform, "--inverse", tmp_path / name)
    assert done.exit_code == 0, done.output
    path = str(tmp_path / name)
    if name.endswith(".nii.gz"):
        back = sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))
    else:
        back = sitk.ReadTransform(path)
    point = fixed_point()
    there = transform.TransformPoint(point)
    assert np.linalg.norm(np.subtract(there, point)) > 0.2
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert 0 < metrics["inverse_mean_error_mm"] < metrics["inverse_max_error_mm"]
    assert "inverse_max_error_mm" in done.stdout
    error = np.linalg.norm(np.subtract(back.TransformPoint(there), point))
    assert error < max(2 * metrics["inverse_max_error_mm"], 0.05)
    assert error < 0.2


def test_a_linear_inverse_is_exact_and_not_told_of_unless_wanted(
    register: Any, tmp_path: Path
) -> None:
    shift = sitk.TranslationTransform(3, SHIFT_MM)
    assert register(shift).exit_code == 0
    assert "inverse" not in (tmp_path / "out" / "metrics.json").read_text()
    assert register(shift, "--inverse", tmp_path / "i.tfm").exit_code == 0
    back = sitk.ReadTransform(str(tmp_path / "i.tfm"))
    assert back.IsLinear()
    expected = np.subtract(fixed_point(), SHIFT_MM)
    np.testing.assert_allclose(back.TransformPoint(fixed_point()), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("transform", "is_told"),
    [
        (sitk.TranslationTransform(3, SHIFT_MM), False),
        (spline(3), False),
        (spline(2), True),
        (sitk.CompositeTransform([sitk.AffineTransform(3), spline(2)]), True),
    ],
)
def test_what_slicer_takes_for_another_transform_is_told(
    register: Any, tmp_path: Path, transform: sitk.Transform, is_told: bool
) -> None:
    done = register(transform)
    assert ("Note: 3D Slicer reads cubic B-splines" in done.stderr) == is_told
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["slicer_reads"] is not is_told


@pytest.mark.parametrize(
    ("outputs", "dimension", "message"),
    [
        (PairOutputs(dense=Path("d.png")), 3, r"d\.png must end in \.h5.*--dense"),
        (PairOutputs(inverse=Path("d.csv")), 3, r"d\.csv must end in .*--inverse"),
        (PairOutputs(learn2reg=Path("d.nrrd")), 3, r"d\.nrrd must end in .*--learn2reg"),
        (PairOutputs(picture=Path("d.jpg")), 2, r"d\.jpg must end in \.png"),
        (PairOutputs(learn2reg=Path("d.nii")), 2, r"layout is of three axes.*have 2"),
    ],
)
def test_files_that_cannot_be_written_are_refused_beforehand(
    outputs: PairOutputs, dimension: int, message: str
) -> None:
    with pytest.raises(UnusableFile, match=message):
        outputs.check(dimension)


def test_the_picture_is_of_the_middle_slice(
    register: Any, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    done = register(sitk.TranslationTransform(3, SHIFT_MM), "--picture", tmp_path / "p.png")
    assert done.exit_code == 0, done.output
    image = sitk.ReadImage(str(pair[0]))
    images = (image, image)
    still = sitk.Transform(3, sitk.sitkIdentity)
    drawn = pair_picture(images, image, still)
    other = sitk.Image(image)
    other[:, :, :4] = 0  # not in the middle
    assert pair_picture((other, image), image, still) == drawn
    other[8, 8, 5] = 400
    assert pair_picture((other, image), image, still) != drawn
    with Image.open(BytesIO(drawn)) as expected, Image.open(tmp_path / "p.png") as written:
        assert written.size == expected.size


def test_pictures_are_drawn_of_images_of_two_axes() -> None:
    array = np.random.default_rng(0).integers(0, 255, (20, 24)).astype(np.uint8)
    image = sitk.GetImageFromArray(array)
    drawn = pair_picture((image, image), image, sitk.Transform(2, sitk.sitkIdentity))
    assert drawn.startswith(b"\x89PNG")
