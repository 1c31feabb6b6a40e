"""`calcium-score agatston` on files: hand arithmetic, the QRM phantom, and refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner, Result

from calcium.presets import PRESETS
from pipelines.cli import main
from pipelines.discovery import find_series
from pipelines.reading import read_scan
from registration.geometry import ImageGrid

C, S = math.cos(0.1), math.sin(0.1)
GRID = ImageGrid((20, 24, 8), (0.7, 0.7, 2.5), (-40.0, 12.5, -310.0), (C, -S, 0, S, C, 0, 0, 0, 1))

QRM_INSERTS = {
    # Center in LPS mm, radius of the mask in mm, published Agatston score of the scan.
    "large, low density": ((17.2, 31.4, 600.9), 6.0, 137.4),
    "large, medium density": ((13.7, -32.5, 600.9), 6.0, 236.7),
    "large, high density": ((-40.7, 1.5, 600.9), 6.0, 396.3),
    "medium, medium density": ((8.3, -21.4, 600.9), 4.0, 69.5),
    "medium, high density": ((-28.2, 1.6, 600.9), 4.0, 89.3),
}
QRM_HALF_HEIGHT_MM = 7.0


def invoke(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["agatston", *map(str, arguments)])


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A scan with one plaque of 4 x 2 pixels, 250 HU, in two slices, as NIfTI."""
    hu = np.full(GRID.shape, -1000, dtype=np.int16)
    hu[:, 2:22, 2:18] = 30
    hu[3:5, 8:10, 5:9] = 250
    path = tmp_path / "scan" / "scan.nii.gz"
    path.parent.mkdir()
    sitk.WriteImage(GRID.to_image(hu), str(path))
    return path


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """A generous mask around the plaque: label 2 on the lower slice, 1 on the upper one."""
    values = np.zeros(GRID.shape, dtype=np.uint8)
    values[3, 5:13, 3:11] = 2
    values[4, 5:13, 3:11] = 1
    path = tmp_path / "mask.nrrd"
    sitk.WriteImage(GRID.to_image(values), str(path))
    return path


SLICE_SCORE = 8 * 0.7 * 0.7 * 2 * 2.5 / 3


def test_table_lists_every_preset(scan: Path, mask: Path) -> None:
    result = invoke(scan, mask)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split()[:2] == ["preset", "Agatston"]
    assert [line.split()[0] for line in lines[1:]] == list(PRESETS)
    assert {line.split()[1] for line in lines[1:]} == {f"{2 * SLICE_SCORE:.1f}"}
    assert lines[1].split()[2:] == ["11-100", "A1", f"{16 * 0.7 * 0.7 * 2.5:.1f}", "-", "1"]


def test_json_holds_the_lesions(scan: Path, mask: Path) -> None:
    result = invoke(scan, mask, "--preset", "agatston-4conn", "--calibration", "0.7", "--json")
    assert result.exit_code == 0, result.output
    (record,) = json.loads(result.stdout)
    assert record["preset"] == "agatston-4conn"
    assert record["agatston"] == pytest.approx(2 * SLICE_SCORE)
    assert record["mass_mg"] == pytest.approx(0.7 * 250 * 16 * 0.49 * 2.5 / 1000)
    (lesion,) = record["lesions"]
    assert lesion["slice_indices"] == [3, 4]
    x, y = 6.5 * 0.7, 8.5 * 0.7
    center = [-40.0 + C * x - S * y, 12.5 + S * x + C * y, -310.0 + 3.5 * 2.5]
    assert lesion["center_mm"] == pytest.approx(center, abs=1e-3)


@pytest.mark.parametrize("factor", ["-1", "0", "nan", "inf"])
def test_a_mass_calibration_that_is_none_is_a_usage_error(
    scan: Path, mask: Path, factor: str
) -> None:
    result = invoke(scan, mask, "--calibration", factor)
    assert result.exit_code == 2
    assert "the mass calibration must be a number above 0" in result.stderr


def test_unknown_voltage_is_said_and_nothing_is_converted(scan: Path, mask: Path) -> None:
    assert "130 HU is defined for 120 kV" in invoke(scan, mask).stderr


def test_one_label_of_a_mask_can_be_chosen(scan: Path, mask: Path) -> None:
    result = invoke(scan, mask, "--label", "2", "--preset", "agatston-1990", "--json")
    assert json.loads(result.stdout)[0]["agatston"] == pytest.approx(SLICE_SCORE)
    missing = invoke(scan, mask, "--label", "7")
    assert missing.exit_code == 2
    assert "holds no voxel of label 7" in missing.stderr


def test_mask_of_another_scan_is_a_usage_error(scan: Path, tmp_path: Path) -> None:
    other = ImageGrid(GRID.size, (0.7, 0.7, 3.0), GRID.origin, GRID.direction)
    path = tmp_path / "other.nii.gz"
    sitk.WriteImage(other.empty_image(sitk.sitkUInt8) + 1, str(path))
    result = invoke(scan, path)
    assert result.exit_code == 2
    assert "the mask must lie on the voxels of the scan" in result.stderr
    assert "0.7 x 0.7 x 3 mm" in result.stderr


def test_mask_with_an_unmarked_background_is_a_usage_error(scan: Path, tmp_path: Path) -> None:
    values = np.full(GRID.shape, np.nan, dtype=np.float32)
    values[3, 5:13, 3:11] = 1
    path = tmp_path / "mask.nrrd"
    sitk.WriteImage(GRID.to_image(values), str(path))
    result = invoke(scan, path)
    assert result.exit_code == 2
    assert "write 0 outside of what may count" in result.stderr
    # a label that is asked for says by itself what is inside
    chosen = invoke(scan, path, "--label", "1", "--preset", "agatston-1990", "--json")
    assert json.loads(chosen.stdout)[0]["agatston"] == pytest.approx(SLICE_SCORE)


def test_mask_that_is_no_image_is_a_usage_error(scan: Path, tmp_path: Path) -> None:
    path = tmp_path / "mask.txt"
    path.write_text("not an image")
    result = invoke(scan, path)
    assert result.exit_code == 2
    assert "cannot be read as a mask" in result.stderr


def test_folder_without_images_has_nothing_to_score(mask: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    result = invoke(empty, mask)
    assert result.exit_code == 4
    assert "holds no image series" in result.stderr


def test_folder_with_two_scans_is_ambiguous(scan: Path, mask: Path) -> None:
    twin = sitk.ReadImage(str(scan)) + 1
    sitk.WriteImage(twin, str(scan.with_name("twin.nii.gz")))
    result = invoke(scan.parent, mask)
    assert result.exit_code == 4
    assert "must hold one usable scan, it holds 2 of 2 series" in result.stderr


def test_unusable_scan_is_rejected_with_its_reason(mask: Path, tmp_path: Path) -> None:
    path = tmp_path / "thin.nii.gz"
    hu = np.full((2, 24, 20), -900, dtype=np.int16)
    sitk.WriteImage(ImageGrid((20, 24, 2), GRID.spacing, GRID.origin).to_image(hu), str(path))
    result = invoke(path, mask)
    assert result.exit_code == 3
    assert "TOO_FEW_SLICES" in result.stderr


@pytest.fixture(scope="module")
def qrm_mask(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cylinders around the inserts of the QRM phantom, labeled from 1."""
    grid = read_scan(find_series([shared_data / "qrm-phantom"])[0]).grid
    labels = np.zeros(grid.shape, dtype=np.uint8)
    for label, (center, radius_mm, _) in enumerate(QRM_INSERTS.values(), start=1):
        middle = grid.indices(center)
        x, y, z = (
            (axis - c) * spacing
            for axis, c, spacing in zip(
                np.ogrid[tuple(slice(n) for n in grid.shape)][::-1],
                middle,
                grid.spacing,
                strict=True,
            )
        )
        labels[(x**2 + y**2 <= radius_mm**2) & (np.abs(z) <= QRM_HALF_HEIGHT_MM)] = label
    path = tmp_path_factory.mktemp("qrm") / "inserts.nrrd"
    sitk.WriteImage(grid.to_image(labels), str(path))
    return path


@pytest.mark.shared_data
@pytest.mark.parametrize(("label", "name"), list(enumerate(QRM_INSERTS, start=1)))
def test_qrm_phantom_is_within_three_percent_of_the_published_score(
    label: int, name: str, shared_data: Path, qrm_mask: Path
) -> None:
    folder, published = shared_data / "qrm-phantom", QRM_INSERTS[name][2]
    result = invoke(folder, qrm_mask, "--label", label, "--preset", "agatston-1990", "--json")
    assert result.exit_code == 0, result.output
    assert "130 HU is defined" not in result.stderr
    assert json.loads(result.stdout)[0]["agatston"] == pytest.approx(published, rel=0.03)
