"""`calcium-score register` on files: a known shift, formats, outputs, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from pipelines import pair_metrics
from pipelines.cli_register import _elastix
from pipelines.pair_files import UnusableFile
from pipelines.pair_metrics import PairMetrics
from pipelines.pair_registration import register_files
from registration.baselines import ElastixStage
from registration.geometry import ImageGrid
from registration.networks.deformable_network import DeformableConfig
from registration.networks.registration_network import RegistrationConfig, build_registration
from registration.registrar import Registration
from registration.registration_folder import save_registration
from registration.transforms_dense import displacement_field_transform
from tests.pipelines.dicom_factory import ORIGIN, make_slices, write_files
from tests.pipelines.pair_commands import (
    GRID,
    SHIFT_MM,
    TURNED,
    ShiftRegistrar,
    invoke,
    write_pair,
    write_shift,
)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write_pair(tmp_path)


@pytest.fixture
def shift(tmp_path: Path) -> Path:
    return write_shift(tmp_path)


def test_moved_image_keeps_format_and_type_and_lies_on_the_fixed_one(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    metrics = register_files(*pair, out, ShiftRegistrar())
    moved = sitk.ReadImage(str(out / "moved.nrrd"))
    fixed = sitk.ReadImage(str(pair[0]))
    assert moved.GetPixelID() == sitk.sitkInt16
    assert moved.GetSize() == fixed.GetSize()
    np.testing.assert_allclose(sitk.GetArrayFromImage(moved), sitk.GetArrayFromImage(fixed), atol=1)
    assert metrics.ncc_before is not None
    assert metrics.ncc_before < 0.9
    assert metrics.ncc_after == pytest.approx(1.0, abs=1e-4)
    assert metrics.folding_percent == 0.0
    assert metrics.sd_jacobian == pytest.approx(0.0, abs=1e-6)
    assert metrics.bending_energy_per_mm2 == pytest.approx(0.0, abs=1e-12)
    assert json.loads((out / "metrics.json").read_text())["method"] == "known shift"
    assert {path.name for path in out.iterdir()} == {"moved.nrrd", "transform.tfm", "metrics.json"}


class RampRegistrar:
    """Moves points along the slices' columns by 0.01/mm times the squared place along the rows."""

    name = "ramp"

    def register(self, fixed: sitk.Image, moving: sitk.Image) -> Registration:
        field = np.zeros((*GRID.shape, 3))
        along_rows_mm = GRID.spacing[0] * np.arange(GRID.size[0])
        field[..., 1] = 0.01 * along_rows_mm**2 / GRID.spacing[1]
        return Registration((displacement_field_transform(field, GRID),))


@pytest.mark.parametrize("measured_voxels", [2**22, 2000])
def test_bending_energy_is_in_millimeters_on_large_grids_as_well(
    pair: tuple[Path, Path], tmp_path: Path, measured_voxels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_metrics, "MEASURED_VOXELS", measured_voxels)
    metrics = register_files(*pair, tmp_path / "out", RampRegistrar())
    assert metrics.bending_energy_per_mm2 == pytest.approx((2 * 0.01) ** 2, rel=1e-5)
    text = (tmp_path / "out" / "metrics.json").read_text()
    assert json.loads(text)["bending_energy_per_mm2"] == metrics.bending_energy_per_mm2


def test_measures_that_are_no_numbers_are_null(pair: tuple[Path, Path], tmp_path: Path) -> None:
    fixed = sitk.Cast(sitk.ReadImage(str(pair[0])), sitk.sitkFloat32)
    fixed[3, 4, 5] = float("nan")
    sitk.WriteImage(fixed, str(tmp_path / "holed.nrrd"))

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    register_files(tmp_path / "holed.nrrd", pair[1], tmp_path / "out", ShiftRegistrar())
    text = (tmp_path / "out" / "metrics.json").read_text()
    assert json.loads(text, parse_constant=refuse)["ncc_after"] is None


def test_of_large_images_every_nth_voxel_is_measured(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = register_files(*pair, tmp_path / "whole", ShiftRegistrar())
    voxels = int(np.prod(sitk.ReadImage(str(pair[0])).GetSize()))
    monkeypatch.setattr("pipelines.pair_metrics.MEASURED_VOXELS", voxels // 8 + 1)
    coarse = register_files(*pair, tmp_path / "coarse", ShiftRegistrar())
    assert coarse.ncc_before != whole.ncc_before
    assert coarse.ncc_before == pytest.approx(whole.ncc_before, abs=0.1)
    assert coarse.ncc_after == pytest.approx(whole.ncc_after, abs=0.02)
    assert coarse.folding_percent == whole.folding_percent == 0.0
    moved = [sitk.ReadImage(str(tmp_path / name / whole.moved)) for name in ("whole", "coarse")]
    np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, moved))


class FoldingRegistrar:
    """A registrar whose transform turns the image inside out along x, twice as fast."""

    name = "folding"

    def register(self, fixed: sitk.Image, moving: sitk.Image) -> Registration:
        middle = fixed.TransformContinuousIndexToPhysicalPoint([n / 2 for n in fixed.GetSize()])
        scale = sitk.ScaleTransform(3, (-2.0, 1.0, 1.0))
        scale.SetCenter(middle)
        return Registration((scale,))


def test_a_result_that_folds_or_is_less_alike_is_doubted(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert register_files(*pair, tmp_path / "right", ShiftRegistrar()).doubts == ()
    monkeypatch.setattr("pipelines.cli_register._networks", lambda *_: FoldingRegistrar())
    (tmp_path / "model").mkdir()
    options = ("--model", tmp_path / "model", "--out", tmp_path / "out")
    result = invoke("register", *pair, *options)
    assert result.exit_code == 0
    assert "Warning: 100.0 % of the voxels are folded" in result.output
    assert "Warning: the images are less alike than before" in result.output


def test_files_that_do_not_fit_are_wrong_usage(
    pair: tuple[Path, Path], shift: Path, tmp_path: Path
) -> None:
    options = ["--reference", pair[0], "--out", tmp_path / "o.nii.gz"]
    flat = sitk.Image([8, 8], sitk.sitkUInt8)
    sitk.WriteImage(flat, str(tmp_path / "flat.png"))
    done = invoke("warp", tmp_path / "flat.png", "--transform", shift, *options)
    assert done.exit_code == 2
    assert "the transform has 3 axes, flat.png has 2" in done.output
    done = invoke("warp", pair[1], "--transform", pair[1], *options)
    assert done.exit_code == 2
    assert "not a transform that ITK reads" in done.output
    (tmp_path / "p.csv").write_text("a,b\n1,2\n")
    done = invoke(
        "warp", tmp_path / "p.csv", "--transform", shift, "--reference", pair[0],
        "--out", tmp_path / "o.csv",
    )  # fmt: skip
    assert done.exit_code == 2
    assert "must have columns x and y" in done.output
    with pytest.raises(UnusableFile, match="as many axes"):
        register_files(pair[0], tmp_path / "flat.png", tmp_path / "out", ShiftRegistrar())


def test_register_says_what_a_method_needs(pair: tuple[Path, Path], tmp_path: Path) -> None:
    done = invoke("register", *pair, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "--method network needs --model" in done.output
    options = (
        ("--refine", 3),
        ("--refine-finer", 3),
        ("--passes", 2),
        ("--affine-steps", 3),
        ("--deformable-steps", 3),
    )
    for option, value in options:
        done = invoke(
            "register", *pair, "--out", tmp_path / "out", "--method", "elastix", option, value
        )
        assert done.exit_code == 2
        assert "belong to --method network" in done.output
    elastix = ("--method", "elastix", "--unfold")
    done = invoke("register", *pair, "--out", tmp_path / "out", *elastix)
    assert done.exit_code == 2
    assert "belong to --method network" in done.output
    (tmp_path / "empty").mkdir()
    done = invoke("register", *pair, "--out", tmp_path / "out", "--model", tmp_path / "empty")
    assert done.exit_code == 2
    assert "There is no registration.json" in done.output
    done = invoke(
        "register", *pair, "--out", tmp_path / "out", "--model", tmp_path, "--ignore-margins"
    )
    assert done.exit_code == 2
    assert "--ignore-margins needs --refine or --refine-finer" in done.output


def test_iterations_and_bending_are_those_of_elastix(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    done = invoke(
        "register", *pair, "--out", tmp_path / "out", "--model", tmp_path, "--iterations", 5
    )
    assert done.exit_code == 2
    assert "--iterations and --bending belong to --method elastix" in done.output
    registrar = _elastix(15.0, 5, 2.0, 1)
    assert registrar.stages == (
        ElastixStage("affine", iterations=5),
        ElastixStage("bspline", 15.0, iterations=5, bending_weight=2.0),
    )
    assert _elastix(15.0, None, None, 1).stages[1] == ElastixStage("bspline", 15.0)


def test_steps_on_a_finer_grid_and_without_margins_are_what_is_asked_for(
    tmp_path: Path,
) -> None:
    """A margin beside the texture, and texture finer than the networks' voxels of 4."""
    noise = np.random.default_rng(1).normal(size=(48, 64))
    moving = np.rint(100 + 400 * gaussian_filter(noise, 1.0)).clip(0, 255).astype(np.uint8)
    fixed = np.roll(moving, (1, -1), (0, 1))
    fixed[:, :16] = 0
    for name, array in (("fixed", fixed), ("moving", moving)):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"{name}.png"))
    config = RegistrationConfig((DeformableConfig((2, 2), kernels=2),), spacing_mm=(4.0, 4.0))
    save_registration(tmp_path / "model", build_registration(config), config)
    errors = {}
    for more in ((), ("--refine-finer", 40), ("--refine-finer", 40, "--ignore-margins")):
        done = invoke(
            *("register", tmp_path / "fixed.png", tmp_path / "moving.png"),
            *("--out", tmp_path / "out", "--model", tmp_path / "model", "--refine", 20, *more),
        )
        assert done.exit_code == 0, done.output
        transform = sitk.ReadTransform(str(tmp_path / "out" / "transform.tfm"))
        points = np.array([[x, y] for x in (18, 26, 34, 42, 50) for y in (10, 20, 30, 38)], float)
        moved = np.array([transform.TransformPoint(point.tolist()) for point in points])
        errors[len(more)] = np.linalg.norm(moved - points - [1.0, -1.0], axis=1).mean()
    assert errors[3] < errors[2] < errors[0]
    assert errors[3] < 0.3


def test_images_that_do_not_overlap_are_told(pair: tuple[Path, Path], tmp_path: Path) -> None:
    moving = sitk.ReadImage(str(pair[1]))
    moving.SetOrigin((500.0, 57.0, 803.0))
    sitk.WriteImage(moving, str(tmp_path / "far.nrrd"))
    done = invoke(
        "register", pair[0], tmp_path / "far.nrrd", "--out", tmp_path / "out",
        "--method", "elastix",
    )  # fmt: skip
    assert done.exit_code == 1
    assert "the images do not overlap in physical space" in done.output
    assert not (tmp_path / "out").exists()


def test_elastix_finds_a_shift_and_its_transform_warps_alike(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    if os.environ.get("CI") != "true":
        pytest.importorskip("itk", reason="needs itk-elastix, the extra baselines")
    out = tmp_path / "out"
    done = invoke("register", *pair, "--out", out, "--method", "elastix")
    assert done.exit_code == 0, done.output
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["method"] == "elastix"
    assert metrics["ncc_before"] < 0.9
    assert metrics["ncc_after"] > 0.98
    again = tmp_path / "again.nrrd"
    transform = out / "transform.tfm"
    done = invoke("warp", pair[1], "--transform", transform, "--reference", pair[0], "--out", again)
    assert done.exit_code == 0, done.output
    arrays = [sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in (out / "moved.nrrd", again)]
    assert np.array_equal(*arrays)
    both = tmp_path / "both"
    done = invoke("register", *pair, "--out", both, "--method", "elastix", "--symmetric")
    assert done.exit_code == 0, done.output
    metrics = json.loads((both / "metrics.json").read_text())
    assert metrics["method"] == "elastix, both ways"
    assert metrics["ncc_after"] > 0.98


def test_an_image_that_stays_as_alike_is_not_doubted(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """Half a voxel off, interpolation of a smooth image costs less than is worth a word."""
    metrics = PairMetrics("m", 1.0, 0.9995, 0.0, 0.0, 0.0, 0.1, "moved.nrrd")
    assert metrics.doubts == ()
    assert len(replace(metrics, ncc_after=0.9985).doubts) == 1


@pytest.mark.parametrize("command", ["register", "warp"])
def test_a_place_that_cannot_be_written_is_wrong_usage(
    pair: tuple[Path, Path],
    shift: Path,
    tmp_path: Path,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("pipelines.cli_register._elastix", lambda *_: ShiftRegistrar())
    words = {
        "register": [*pair, "--method", "elastix", "--out", tmp_path / "file" / "out"],
        "warp": [pair[1], "--transform", shift, "--reference", pair[0],
                 "--out", tmp_path / "file" / "out" / "moved.nrrd"],
    }  # fmt: skip
    done = invoke(command, *words[command])
    assert done.exit_code == 2
    assert "cannot be written" in done.output


class FlatRegistrar:
    """Knows the shift of a pair of pictures."""

    name = "known shift"

    def register(self, fixed: sitk.Image, moving: sitk.Image) -> Registration:
        assert fixed.GetDimension() == moving.GetDimension() == 2
        return Registration((sitk.TranslationTransform(2, SHIFT_MM[:2]),))


def one_slice(path: Path, origin: Any, direction: Any = TURNED) -> Path:
    values = np.random.default_rng(3).integers(0, 200, (1, 20, 24)).astype(np.uint8)
    grid = ImageGrid((24, 20, 1), (0.8, 1.1, 6.0), origin, direction)
    sitk.WriteImage(grid.to_image(values), str(path))
    return path


def test_volumes_of_one_slice_are_registered_as_pictures_and_stay_in_their_place(
    tmp_path: Path,
) -> None:
    along = np.reshape(TURNED, (3, 3)) @ (*SHIFT_MM[:2], 0.0)  # two columns on, two rows back
    fixed = one_slice(tmp_path / "fixed.nii.gz", GRID.origin)
    moving = one_slice(tmp_path / "moving.nrrd", tuple((GRID.origin + along).tolist()))
    metrics = register_files(fixed, moving, tmp_path / "out", FlatRegistrar())
    assert metrics.ncc_after == pytest.approx(1.0, abs=1e-3)
    moved = sitk.ReadImage(str(tmp_path / "out" / "moved.nrrd"))
    place = sitk.ReadImage(str(fixed))
    np.testing.assert_allclose(moved.GetOrigin(), place.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(moved.GetDirection(), place.GetDirection(), atol=1e-5)
    inner = (0, slice(1, -1), slice(1, -1))
    np.testing.assert_allclose(
        sitk.GetArrayFromImage(moved)[inner], sitk.GetArrayFromImage(place)[inner], atol=1
    )
    for name in ("again.nrrd", "again.png"):  # PNG has no room for the place of a slice
        done = invoke(
            "warp", moving, "--transform", tmp_path / "out" / "transform.tfm",
            "--reference", fixed, "--out", tmp_path / name,
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        again = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name)))
        np.testing.assert_array_equal(
            np.atleast_3d(again).ravel(), sitk.GetArrayFromImage(moved).ravel()
        )


def test_a_frame_of_mr_is_registered_by_networks_for_pictures(tmp_path: Path) -> None:
    frames = [make_slices(1, Modality="MR", shape=(32, 48)) for _ in range(2)]
    paths = [write_files(f, tmp_path / str(n))[0] for n, f in enumerate(frames)]
    config = RegistrationConfig((DeformableConfig((2, 2), kernels=2),))
    save_registration(tmp_path / "model", build_registration(config), config)
    done = invoke("register", *paths, "--out", tmp_path / "o", "--model", tmp_path / "model")
    assert done.exit_code == 0, done.output
    moved = sitk.ReadImage(str(tmp_path / "o" / "moved.nrrd"))
    assert moved.GetSize() == (48, 32, 1)
    assert moved.GetOrigin() == pytest.approx(ORIGIN)


@pytest.mark.parametrize("words", [["register"], ["warp"], ["train", "registration"]])
def test_help_imports_neither_tensorflow_nor_simpleitk(words: list[str]) -> None:
    script = (
        "import sys; from pipelines.cli import main\n"
        f"try:\n    main({[*words, '--help']!r})\n"
        "except SystemExit:\n    pass\n"
        "print({'tensorflow', 'keras', 'SimpleITK', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Usage:")
    assert done.stdout.splitlines()[-1] == "set()"
