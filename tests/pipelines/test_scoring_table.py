"""Scans of a table of scores on their way to the network, with a model that needs no training."""

from __future__ import annotations

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
from registration.geometry import Ellipsoid, ImageGrid
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


def fake_model() -> Model:
    scorer = SimpleNamespace(heart=HEART, preset=to_preset(DEFAULT_PRESET))
    return cast("Model", FakeModel(heart=HEART, scorer=cast("Any", scorer)))


def prepare(folder: Path, *rows: str) -> list[ScoredScan]:
    table = folder / "t.csv"
    table.write_text("\n".join(["scan,agatston", *rows]) + "\n", encoding="utf-8")
    return list(prepared_scans(read_score_table(table), fake_model(), folder / "cache"))


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
