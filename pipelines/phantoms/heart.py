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

LV_AXIS = np.array([0.60, -0.64, -0.48]) / np.linalg.norm([0.60, -0.64, -0.48])
"""Direction from the mitral valve to the apex: left, forward, down."""

ROOT = np.array([3.0, -47.0, -53.0])
"""Middle of the aortic sinuses."""

APEX = np.array([74.0, -82.0, -114.0])
"""Tip of the left ventricle."""

HEART_BOTTOM = np.array([32.0, -58.0, -124.0])
"""Where the heart rests on the diaphragm."""

CORONARY_KNOTS: dict[str, list[tuple[float, float, float]]] = {
    "LM": [(16, -40, -46), (22, -38, -46), (29, -42, -48)],
    "LAD": [
        (29, -42, -48), (38, -54, -54), (44, -66, -61), (50, -77, -71), (58, -86, -83),
        (67, -91, -97), (75, -90, -110), (76, -82, -119),
    ],
    "D1": [(44, -66, -61), (55, -67, -64), (66, -65, -72), (75, -60, -85), (79, -58, -96)],
    "LCX": [
        (29, -42, -48), (38, -35, -53), (48, -26, -58), (54, -15, -66), (52, -6, -78),
        (44, -3, -90), (33, -8, -100),
    ],
    "OM": [(52, -19, -63), (63, -25, -69), (72, -33, -80), (76, -42, -94)],
    "RCA": [
        (-5, -62, -50), (-11, -70, -54), (-19, -78, -62), (-25, -80, -74), (-26, -75, -88),
        (-21, -62, -102), (-10, -46, -111), (4, -32, -112),
    ],
    "PDA": [(4, -32, -112), (16, -40, -117), (32, -52, -121), (48, -64, -122)],
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
            "lv": ellipsoid(local, APEX - tip * LV_AXIS, (tip, 35 * lv, 36 * lv), across),
            "rv": ellipsoid(local, (17, -73, -87), (52, 27 * rv, 31 * rv), rv_axes),
            "ra": ellipsoid(local, (-30, -44, -80), (24 * ra, 31 * ra, 33 * ra)),
            "la": smooth_min(
                ellipsoid(local, (6, -14, -60), (34 * la, 19 * la, 23 * la)),
                capsule(local, (34, -18, -54), (47, -38, -54), (11 * la, 7 * la)),
                6.0,
            ),
            "septum": ellipsoid(local, (4, -40, -86), (25, 24, 27)),
            "root": ellipsoid(local, ROOT, (17.5 * ratio**0.5, 17.5 * ratio**0.5, 17)),
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
