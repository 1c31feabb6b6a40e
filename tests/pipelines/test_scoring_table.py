"""Scans of a table of scores on their way to the network, with a model that needs no training."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import SimpleITK as sitk

from calcium.presets import DEFAULT_PRESET, to_preset
from calcium.training_from_scores import ScoredScan
from pipelines.model import Model
from pipelines.scoring_table import prepared_scans, read_score_table
from pipelines.table_rows import UnusableTable
from registration.alignment import Alignment
from registration.geometry import Ellipsoid, ImageGrid, affine_transform
from tests.pipelines.fake_model import FakeModel

GRID = ImageGrid((44, 40, 24), (4.0, 4.0, 5.0), (-90.0, -75.0, -310.0))
HEART = Ellipsoid((0.0, 0.0, 0.0), (60.0, 50.0, 55.0))


def chest(brightness_hu: int = 600) -> sitk.Image:
    """A body with one plaque, which lies left, in front and above of its middle."""
    rng = np.random.default_rng(0)
    hu = np.full(GRID.shape, -1000, np.int16)
    hu[:, 4:36, 4:40] = 40
    hu += rng.normal(0, 3, hu.shape).astype(np.int16)
    hu[13:15, 16:18, 24:27] = brightness_hu
    return GRID.to_image(hu)


class MiddleAligner:
    """Lays the heart into the middle of a scan, of which short ones hold a fifth."""

    def align(self, image: sitk.Image) -> Alignment:
        matrix = np.eye(4)
        matrix[:3, 3] = ImageGrid.from_image(image).center
        coverage = 0.2 if image.GetSize()[2] < 12 else 0.95
        scales = (1.1, 1.0, 0.9)
        return Alignment(affine_transform(matrix), 0.9, coverage, 1.0, 5.0, 0.4, scales, 0.0)


def fake_model() -> Model:
    scorer = SimpleNamespace(heart=HEART, preset=to_preset(DEFAULT_PRESET))
    model = FakeModel(heart=HEART, aligner=cast("Any", MiddleAligner()), scorer=cast("Any", scorer))
    return cast("Model", model)


def prepare(folder: Path, *rows: str) -> list[ScoredScan]:
    table = folder / "t.csv"
    table.write_text("\n".join(["scan,agatston", *rows]) + "\n", encoding="utf-8")
    return list(prepared_scans(read_score_table(table), fake_model(), folder / "cache"))


def test_scans_that_a_run_refuses_are_left_out_with_line_and_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sitk.WriteImage(chest(), str(tmp_path / "heart.nrrd"))
    sitk.WriteImage(chest()[:, :, 14:], str(tmp_path / "shoulders.nrrd"))
    (found,) = prepare(tmp_path, "heart.nrrd,9", "", "shoulders.nrrd,800")
    assert found.agatston == 9.0
    (message,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert message.startswith("line 4: HEART_NOT_COVERED: About 20 % of the heart lies inside")


def test_a_localizer_beside_the_scan_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "pat").mkdir()
    sitk.WriteImage(chest(), str(tmp_path / "pat" / "ct.nrrd"))
    sitk.WriteImage(chest()[:, :, :1], str(tmp_path / "pat" / "localizer.nrrd"))
    assert [scan.agatston for scan in prepare(tmp_path, "pat,9")] == [9.0]


def test_two_scans_in_one_folder_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "pat").mkdir()
    for number in (1, 2):
        sitk.WriteImage(chest(500 * number), str(tmp_path / "pat" / f"{number}.nrrd"))
    assert prepare(tmp_path, "pat,9") == []
    assert "must hold one usable scan, it holds 2 of 2 series" in caplog.text


def test_one_scan_with_two_scores_is_refused_by_its_lines(tmp_path: Path) -> None:
    for name in ("a.nrrd", "copy.nrrd"):
        sitk.WriteImage(chest(), str(tmp_path / name))
    with pytest.raises(UnusableTable, match="lines 2 and 4 of the table are of one scan"):
        prepare(tmp_path, "a.nrrd,0", "", "copy.nrrd,800")


@pytest.mark.parametrize(
    ("axes", "flips"),
    [((0, 1, 2), (True, True, False)), ((1, 0, 2), (False, True, False))],
)
def test_scans_are_learnt_from_upright_however_they_are_stored(
    axes: tuple[int, int, int], flips: tuple[bool, bool, bool], tmp_path: Path
) -> None:
    upright = chest()
    turned = sitk.Flip(sitk.PermuteAxes(upright, axes), flips)
    sitk.WriteImage(upright, str(tmp_path / "upright.nrrd"))
    sitk.WriteImage(turned, str(tmp_path / "turned.nrrd"))
    first, second = (s.scan for s in prepare(tmp_path, "upright.nrrd,9", "turned.nrrd,9"))
    # the plaque is left (columns), in front (rows) of the middle of the lattice, in both
    assert first.points[:, 2].min() > 128 > first.points[:, 1].max()
    assert np.array_equal(first.points, second.points)
    assert second.density == pytest.approx(first.density, rel=1e-4)
    assert np.abs(first.hu.astype(int) - second.hu).max() <= 1
