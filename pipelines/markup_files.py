"""Landmarks in Markups files of 3D Slicer 5 (`.mrk.json`): read, and written in their form.

Source:
    Markups JSON schema of 3D Slicer, `Modules/Loadable/Markups/Resources/Schema`, version 1.0.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.pair_files import UnusableFile
from registration.atomic_files import write_atomically

MARKUP_SUFFIX = ".mrk.json"

POINT_TYPES = ("Fiducial", "Line", "Angle", "Curve", "ClosedCurve")
"""Markups that are their control points alone; others have axes and sizes as well."""


@dataclass(frozen=True, slots=True)
class Markups:
    """Control points of a file, and what else is in it.

    Args:
        points: LPS mm, shape `(n, 3)`; NaN for points that have not been placed.
        content: The file as it was read.
    """

    points: NDArray[np.float64]
    content: dict[str, Any]


def is_markup_file(path: Path) -> bool:
    """Whether a file is one of Markups by its ending."""
    return path.name.lower().endswith(MARKUP_SUFFIX)


def read_markups(path: Path) -> Markups:
    """Control points of all markups of a file, one list after the other.

    Raises:
        UnusableFile: If it is no such file, in other units than mm, or holds markups with more
            than points, such as planes.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        lists = content["markups"]
        for markup in lists:
            _check_markup(markup, path.name)
        points = [
            _position(point, -1.0 if _is_ras(markup) else 1.0)
            for markup in lists
            for point in markup["controlPoints"]
        ]
    except UnusableFile:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise UnusableFile(f"{path.name} is not a Markups file of 3D Slicer") from error
    return Markups(np.array(points, dtype=float).reshape(-1, 3), content)


def write_markups(markups: Markups, points: NDArray[np.float64], path: Path) -> None:
    """Write a file again with other points, in the coordinate system it had.

    Measurements, which Slicer makes anew, are left out: they were of the former points.

    Args:
        markups: The file as it was read.
        points: New points, LPS mm; those that are not finite are marked as missing.
        path: File of the same kind.
    """
    content = copy.deepcopy(markups.content)
    coming = iter(points)
    for markup in content["markups"]:
        markup.pop("measurements", None)
        sign = -1.0 if _is_ras(markup) else 1.0
        for point in markup["controlPoints"]:
            x, y, z = next(coming).tolist()
            is_placed = bool(np.isfinite([x, y, z]).all())
            point["position"] = [sign * x, sign * y, z] if is_placed else None
            point["positionStatus"] = "defined" if is_placed else "missing"
    write_atomically(path, json.dumps(content, indent=4, allow_nan=False) + "\n")


def _check_markup(markup: dict[str, Any], name: str) -> None:
    kind = markup.get("type", POINT_TYPES[0])
    if kind not in POINT_TYPES:
        raise UnusableFile(f"{name} holds a {kind}; only {', '.join(POINT_TYPES)} are points alone")
    system, unit = markup.get("coordinateSystem", "LPS"), markup.get("coordinateUnits", "mm")
    if str(system).upper() not in ("LPS", "RAS", "0", "1") or unit not in ("mm", ["mm"]):
        raise UnusableFile(f"{name} must be in LPS or RAS, mm; it is in {system}, {unit}")


def _is_ras(markup: dict[str, Any]) -> bool:
    return str(markup.get("coordinateSystem", "LPS")).upper() in ("RAS", "0")


def _position(point: dict[str, Any], sign: float) -> list[float]:
    """LPS coordinates; NaN for a point that has no place."""
    position = point.get("position")
    if position is None or point.get("positionStatus", "defined") != "defined":
        return [np.nan] * 3
    x, y, z = (float(value) for value in position)
    return [sign * x, sign * y, z]
