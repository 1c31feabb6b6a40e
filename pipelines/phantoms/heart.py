"""The heart: chambers, root, fat, and the coronary arteries on its surface.

Positions are read off non-contrast CT of supine adults, in the anatomy frame (LPS mm, carina
at the origin); every heart is this one after an affine change drawn for the subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.phantoms.shapes import Array, capsule, ellipsoid, smooth_curve, smooth_min

Points = NDArray[np.float64]

HEART_CENTER = np.array([20.0, -48.0, -82.0])
"""Middle of the heart; scaling and turning leave it in place."""

LV_AXIS = np.array([0.61, -0.59, -0.53]) / np.linalg.norm([0.61, -0.59, -0.53])
"""Direction from the mitral valve to the apex: left, forward, down."""

ROOT = np.array([3.0, -47.0, -53.0])
"""Middle of the aortic sinuses."""

APEX = np.array([72.0, -76.0, -114.0])
"""Tip of the left ventricle."""

HEART_BOTTOM = np.array([32.0, -58.0, -124.0])
"""Where the heart rests on the diaphragm."""

CORONARY_KNOTS: dict[str, list[tuple[float, float, float]]] = {
    "LM": [(12, -39, -44), (17, -38, -44), (24, -39, -45)],
    "LAD": [
        (24, -39, -45), (33, -47, -48), (41, -57, -53), (48, -71, -64), (51, -84, -79),
        (56, -90, -95), (62, -88, -108), (66, -80, -119),
    ],
    "D1": [(43, -62, -56), (54, -64, -60), (65, -62, -68), (74, -58, -81), (79, -56, -94)],
    "LCX": [
        (24, -39, -45), (31, -30, -51), (39, -21, -57), (43, -14, -65), (41, -9, -75),
        (33, -8, -85), (23, -9, -91),
    ],
    "OM": [(42, -15, -64), (53, -20, -69), (63, -26, -77), (71, -33, -88), (75, -41, -98)],
    "RCA": [
        (0, -63, -55), (-6, -69, -58), (-13, -75, -64), (-22, -77, -78), (-26, -70, -95),
        (-20, -54, -108), (-9, -41, -112), (1, -34, -111),
    ],
    "PDA": [(1, -34, -111), (11, -40, -117), (23, -48, -122), (36, -59, -125)],
}  # fmt: skip
"""Courses of the coronary arteries before they are laid onto the heart's surface, mm."""

CORONARY_RADII_MM = {
    "LM": (2.3, 2.1), "LAD": (1.9, 0.8), "D1": (1.2, 0.7), "LCX": (1.7, 0.8),
    "OM": (1.1, 0.7), "RCA": (1.9, 1.1), "PDA": (1.1, 0.7),
}  # fmt: skip
"""Radius at the start and the end of each artery."""

TERRITORY = {"LM": "LM", "LAD": "LAD", "D1": "LAD", "LCX": "LCX", "OM": "LCX"} | {
    "RCA": "RCA",
    "PDA": "RCA",
}
"""Vessel that a branch is counted with."""


@dataclass(frozen=True, slots=True)
class Heart:
    """One subject's heart in the anatomy frame.

    Args:
        matrix: Linear part of the map average heart -> this heart, about `HEART_CENTER`.
        shift: Displacement of the heart, mm.
        aorta_radius_mm: Radius of the ascending aorta.
        epicardial_fat_mm: Fat between muscle and pericardium.
        thickness: Factor on the size of each chamber: LV, RV, RA, LA.
    """

    matrix: Points
    shift: Points
    aorta_radius_mm: float
    epicardial_fat_mm: float
    thickness: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)

    def place(self, points: ArrayLike) -> Points:
        """Points of the average heart moved to this one, mm, shape `(..., 3)`."""
        offset = np.asarray(points, float) - HEART_CENTER
        return offset @ self.matrix.T + HEART_CENTER + self.shift

    def bounds(self, margin_mm: float) -> tuple[Points, Points]:
        """Lower and upper corner of a box about the heart, mm."""
        corners = np.array([[-65, -112, -130], [95, 20, -20]], float)
        cube = np.array(
            [[corners[i, 0], corners[j, 1], corners[k, 2]] for i, j, k in np.ndindex(2, 2, 2)]
        )
        placed = self.place(cube)
        return placed.min(axis=0) - margin_mm, placed.max(axis=0) + margin_mm

    def _average_frame(self, points: Sequence[Array]) -> tuple[Array, Array, Array]:
        inverse = np.linalg.inv(self.matrix).astype(np.float32)
        start = (HEART_CENTER + self.shift).astype(np.float32)
        offset = [p - s for p, s in zip(points, start, strict=True)]
        x, y, z = (
            sum(inverse[r, k] * offset[k] for k in range(3)) + np.float32(HEART_CENTER[r])
            for r in range(3)
        )
        return x, y, z

    def chambers(self, points: Sequence[Array]) -> dict[str, Array]:
        """Distance to the outer surface of each part, mm, at anatomical points x, y, z."""
        local = self._average_frame(points)
        lv, rv, ra, la = self.thickness
        tip = 50.0 * (0.5 + 0.5 * lv)
        across = _frame(LV_AXIS)
        rv_axes = _frame(np.array([0.86, -0.12, -0.5]))
        ratio = self.aorta_radius_mm / 16.0
        result = {
            "lv": ellipsoid(local, APEX - tip * LV_AXIS, (tip, 33 * lv, 34 * lv), across),
            "rv": ellipsoid(local, (15, -72, -87), (48, 26 * rv, 31 * rv), rv_axes),
            "ra": ellipsoid(local, (-24, -44, -80), (21 * ra, 29 * ra, 33 * ra)),
            "la": smooth_min(
                ellipsoid(local, (3, -14, -60), (32 * la, 18 * la, 23 * la)),
                capsule(local, (27, -19, -50), (45, -36, -50), (9 * la, 7 * la)),
                6.0,
            ),
            "septum": ellipsoid(local, (4, -40, -86), (25, 24, 27)),
            "root": ellipsoid(local, ROOT, (16.0 * ratio**0.5, 16.0 * ratio**0.5, 16.5)),
            "rvot": _chain(local, RVOT, (15, 14.5, 14)),
        }
        return result

    def surface(self, points: Sequence[Array]) -> Array:
        """Distance to the outer surface of all chambers together, mm."""
        parts = list(self.chambers(points).values())
        result = parts[0]
        for part in parts[1:]:
            result = smooth_min(result, part, 9.0)
        return result

    def coronaries(self) -> dict[str, Points]:
        """Centerlines in the anatomy frame, one point per mm, shape `(n, 3)` each.

        They keep the distance of their radius and a little fat from the chambers.
        """
        lines = {n: smooth_curve(self.place(k), 3.0) for n, k in CORONARY_KNOTS.items()}
        self._lay_on_surface(lines)
        for name in ("LM", "RCA"):
            lines[name] = np.vstack([self.ostium(name), lines[name]])
        for name, parent in (("LAD", "LM"), ("LCX", "LM"), ("PDA", "RCA")):
            lines[name][0] = lines[parent][-1]
        for name, parent in (("D1", "LAD"), ("OM", "LCX")):
            gap = np.linalg.norm(lines[parent] - lines[name][0], axis=1)
            lines[name][0] = lines[parent][int(np.argmin(gap))]
        return {name: smooth_curve(line, 1.0) for name, line in lines.items()}

    def ostium(self, name: str) -> Points:
        """Where the left main (`LM`) or right (`RCA`) artery leaves the aortic root, mm."""
        direction = np.array(CORONARY_KNOTS[name][0]) - ROOT
        inside = ROOT + direction * np.linspace(0.5, 1.6, 45)[:, None]
        x, y, z = self.place(inside).T.astype(np.float32)
        outside = np.flatnonzero(self.chambers((x, y, z))["root"] > 0)
        at = int(outside[0]) if len(outside) else -1
        return np.asarray(self.place(inside[at]))

    def _lay_on_surface(self, lines: dict[str, Points]) -> None:
        """Newton steps along the gradient to the wanted distance, then light smoothing."""
        fat = min(0.5 + 0.25 * self.epicardial_fat_mm, 2.0)
        ends = np.cumsum([len(line) for line in lines.values()])[:-1]
        wanted = np.concatenate(
            [np.full(len(line), CORONARY_RADII_MM[n][0] + fat) for n, line in lines.items()]
        )
        probe = 0.5 * np.vstack([np.zeros(3), np.eye(3), -np.eye(3)])
        for _ in range(12):
            points = np.vstack(list(lines.values()))
            x, y, z = (points[None] + probe[:, None]).reshape(-1, 3).T.astype(np.float32)
            value = np.asarray(self.surface((x, y, z)), float).reshape(7, -1)
            gradient = (value[1:4] - value[4:7]).T
            norm2 = np.maximum((gradient**2).sum(axis=1), 0.25)
            move = np.clip((value[0] - wanted) / norm2, -4, 4)[:, None] * gradient
            pieces = np.split(points - 0.7 * move, ends)
            for name, piece in zip(lines, pieces, strict=True):
                piece[1:-1] = 0.5 * piece[1:-1] + 0.25 * (piece[:-2] + piece[2:])
                lines[name] = piece


RVOT = np.array([(16, -80, -64), (20, -75, -48), (23, -66, -33)], float)
"""Right ventricular outflow tract and the start of the pulmonary trunk."""


def _chain(points: Sequence[Array], path: Points, radii: Sequence[float]) -> Array:
    result = capsule(points, path[0], path[1], (radii[0], radii[1]))
    for a, b, ra, rb in zip(path[1:], path[2:], radii[1:], radii[2:], strict=False):
        result = np.minimum(result, capsule(points, a, b, (ra, rb)))
    return result


def _frame(axis: ArrayLike) -> Points:
    """Three orthogonal unit rows, the first along `axis`, the second level with the ground."""
    first = np.asarray(axis, float) / np.linalg.norm(axis)
    second = np.cross([0.0, 0.0, 1.0], first)
    second /= np.linalg.norm(second)
    return np.stack([first, second, np.cross(first, second)])
