"""Markups files of 3D Slicer through `warp`: coordinate systems, missing points, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner, Result

from pipelines.cli import main
from pipelines.markup_files import read_markups
from pipelines.pair_files import UnusableFile
from registration.geometry import ImageGrid
from registration.transforms import write_transform

GRID = ImageGrid((8, 7, 5), (1.5, 2.0, 3.0), (-6.0, 20.0, 400.0))
SHIFT_MM = (1.0, -2.0, 4.0)


def markup(*positions: Any, **settings: Any) -> dict[str, Any]:
    points = [
        {
            "id": str(number),
            "label": f"F-{number}",
            "position": position,
            "positionStatus": "defined" if position else "undefined",
        }
        for number, position in enumerate(positions, start=1)
    ]
    return {
        "type": "Fiducial",
        "coordinateSystem": "LPS",
        "controlPoints": points,
        "measurements": [{"name": "length", "value": 3.0}],
        "display": {"color": [0.4, 1.0, 1.0]},
        **settings,
    }


def write(path: Path, *markups: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"@schema": "markups-schema-v1.0.3.json#", "markups": markups}))
    return path


def warp(tmp_path: Path, source: Path, out: Path) -> Result:
    write_transform(sitk.TranslationTransform(3, SHIFT_MM), tmp_path / "shift.tfm")
    sitk.WriteImage(GRID.empty_image(sitk.sitkInt16), str(tmp_path / "fixed.nii.gz"))
    words = ["warp", source, "--transform", tmp_path / "shift.tfm"]
    words += ["--reference", tmp_path / "fixed.nii.gz", "--out", out]
    return CliRunner().invoke(main, [str(word) for word in words])


def test_points_are_moved_in_the_coordinate_system_of_their_list(tmp_path: Path) -> None:
    source = write(
        tmp_path / "p.mrk.json",
        markup([0.0, 24.0, 410.0], None),
        markup([0.0, -24.0, 410.0], type="Line", coordinateSystem="RAS", coordinateUnits="mm"),
    )
    done = warp(tmp_path, source, tmp_path / "q.mrk.json")
    assert done.exit_code == 0, done.output
    assert "1 landmarks lie outside" in done.stderr
    written = json.loads((tmp_path / "q.mrk.json").read_text())
    assert written["@schema"] == "markups-schema-v1.0.3.json#"
    first, second = written["markups"]
    assert first["controlPoints"][0] == {
        "id": "1", "label": "F-1", "position": [-1.0, 26.0, 406.0], "positionStatus": "defined",
    }  # fmt: skip
    assert first["controlPoints"][1]["position"] is None
    assert first["controlPoints"][1]["positionStatus"] == "missing"
    assert second["controlPoints"][0]["position"] == [1.0, -26.0, 406.0]
    assert "measurements" not in first
    assert first["display"] == {"color": [0.4, 1.0, 1.0]}
    again = read_markups(tmp_path / "q.mrk.json").points
    np.testing.assert_allclose(again[[0, 2]], [[-1.0, 26.0, 406.0]] * 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"markups": [markup([0, 0, 0], type="Plane")]}, r"p\.mrk\.json holds a Plane"),
        ({"markups": [markup([0, 0, 0], coordinateUnits="cm")]}, r"in LPS or RAS, mm.*cm"),
        ({"markups": [markup([0, 0, 0], coordinateSystem="IJK")]}, r"in LPS or RAS.*IJK"),
        ({"markups": [markup([0, 0])]}, "not a Markups file"),
        ({"points": []}, "not a Markups file"),
        ([1, 2], "not a Markups file"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "p.mrk.json").write_text(json.dumps(content))
    with pytest.raises(UnusableFile, match=message):
        read_markups(tmp_path / "p.mrk.json")


def test_points_are_written_in_the_kind_they_had(tmp_path: Path) -> None:
    source = write(tmp_path / "p.mrk.json", markup([0.0, 24.0, 410.0]))
    done = warp(tmp_path, source, tmp_path / "q.csv")
    assert done.exit_code == 2
    assert "q.csv must be of the kind of p.mrk.json" in done.output
