"""Chest wall, bones, lungs and what lies below the diaphragm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.phantoms.shapes import Array, Canvas, TubeField, ellipsoid, refine, smooth_min

Points = NDArray[np.float64]

LEVELS_MM = np.array([130.0, 105, 80, 40, 0, -60, -120, -180, -260])
"""Heights above the carina at which the profile of the chest is given."""

HALF_WIDTH_MM = np.array([20.0, 48, 78, 104, 121, 131, 136, 137, 132])
FRONT_MM = np.array([5.0, -12, -29, -56, -77, -98, -106, -102, -94])
BACK_MM = np.array([45.0, 61, 70, 79, 84, 87, 86, 80, 70])
SPINE_MM = np.array([12.0, 18, 24, 34, 40, 46, 46, 40, 28])
"""Profile of the inner chest at `LEVELS_MM`: half width (x), front and back (y), and the
middle of the vertebral bodies (y); read off CT of supine adults, mm."""

COARSE_MM = 4.0
"""Lattice on which large smooth surfaces are evaluated; a sphere of 50 mm errs by 0.04 mm."""

RIB_WALL_MM = 10.0
"""Thickness of the layer that ribs and intercostal muscle share."""


@dataclass(frozen=True, slots=True)
class Thorax:
    """One subject's chest in the anatomy frame, mm.

    Args:
        fat_mm: Subcutaneous fat.
        muscle: Factor on muscle thickness.
        depth: Factor on the depth of the chest.
        diaphragm_mm: Shift of the diaphragm, upward positive.
        female: With breasts.
        breast_mm: Size of the breasts.
        lung_hu: Mean attenuation of the lungs.
        emphysema: Strength of emphysema, 0 for none.
        effusion_mm: Depth of fluid behind each lung (right, left), 0 for none.
        arms_up: Shoulders drawn up, as in nearly all chest CT.
        marrow_hu: Attenuation of cancellous bone; low in osteoporosis.
    """

    fat_mm: float
    muscle: float
    depth: float
    diaphragm_mm: float
    female: bool
    breast_mm: float
    lung_hu: float
    emphysema: float
    effusion_mm: tuple[float, float]
    marrow_hu: float

    def front(self, z: ArrayLike) -> Points:
        """Inner side of the front chest wall, y in mm at height `z`."""
        return _profile(z, FRONT_MM) * self.depth

    def back(self, z: ArrayLike) -> Points:
        """Inner side of the rear chest wall, y in mm at height `z`."""
        return _profile(z, BACK_MM)

    def spine(self, z: ArrayLike) -> Points:
        """Middle of the vertebral bodies, y in mm at height `z`."""
        return _profile(z, SPINE_MM)

    def half_width(self, z: ArrayLike) -> Points:
        """Half of the inner width, mm at height `z`."""
        return _profile(z, HALF_WIDTH_MM)

    def cavity(self, points: Sequence[Array]) -> Array:
        """Distance to the inner chest wall along the radius, mm; negative inside."""
        x, y, z = points
        levels = np.arange(-300.0, 161.0, 2.0)
        front, back, half = self.front(levels), self.back(levels), self.half_width(levels)
        where = np.clip((z + 300.0) / 2.0, 0, len(levels) - 1.001)
        low = where.astype(np.int16)
        part = where - low
        tables = ((front + back) / 2, (back - front) / 2, half)
        center, depth, width = (
            t.astype(np.float32)[low] + part * np.diff(t).astype(np.float32)[low] for t in tables
        )
        v = y - center
        q, w = (x / width) ** 2, (v / depth) ** 2
        shape = np.sqrt(np.sqrt(q * q + w * w + np.float32(1.25) * q * w)) + np.float32(1e-4)
        radius = np.sqrt(x * x + v * v)
        result: Array = radius * (1 - 1 / shape)
        return result

    def diaphragm(self, points: Sequence[Array], heart_bottom: Sequence[float]) -> Array:
        """Height above the diaphragm, mm; negative below it.

        Args:
            points: Coordinates x, y, z in mm.
            heart_bottom: Point where the heart rests on it, mm.
        """
        x, y, z = points
        u, v, w = (float(c) for c in heart_bottom)
        height = np.full_like(x, -400.0)
        for side, above in ((-1.0, 16.0), (1.0, 4.0)):
            q = ((x - np.float32(side * 60.0)) / 80) ** 2 + ((y + 18) / 112) ** 2
            top = np.float32(w + above + self.diaphragm_mm)
            dome: Array = (top - 62 * q * (0.35 + 0.65 * q)).astype(np.float32)
            height = -smooth_min(-height, -dome, 24.0)
        q = ((x - u) / 62) ** 2 + ((y - v) / 50) ** 2
        rest: Array = (np.float32(w + 5.0) - 20 * q).astype(np.float32)
        height = -smooth_min(-height, -rest, 20.0)
        result: Array = (z - height) * np.float32(0.8)
        return result

    def column(self, points: Sequence[Array]) -> Array:
        """Distance to the spine and the muscle behind it, which part the lungs, mm."""
        x, y, z = points
        levels = np.arange(-300.0, 161.0, 4.0)
        middle = np.interp(z, levels, self.spine(levels)).astype(np.float32)
        v = y - middle
        body: Array = (np.sqrt((x / 20.0) ** 2 + ((v - 4.0) / 22.0) ** 2) - 1) * np.float32(20)
        behind = (np.abs(x) - 17 - np.float32(0.75) * np.maximum(v, 0)) * np.float32(0.8)
        return smooth_min(body, np.maximum(behind, 4 - v), 8.0)

    def paraspinal(self, points: Sequence[Array]) -> Array:
        """Distance to the muscle beside and behind the spine, mm."""
        x, y, z = points
        levels = np.arange(-300.0, 161.0, 4.0)
        v = y - np.interp(z, levels, self.spine(levels)).astype(np.float32)
        side = (np.abs(x) - 14 - np.float32(0.75) * np.maximum(v, 0)) * np.float32(0.8)
        return np.maximum(side, 12 - v)


@dataclass(frozen=True, slots=True)
class Fields:
    """Distances to the large surfaces on a canvas, mm.

    Args:
        cavity: Inner chest wall, negative inside.
        muscle: Outer side of the muscle, negative inside.
        skin: Skin, negative inside.
        diaphragm: Negative below.
        column: Spine and the muscle behind it, negative inside.
        paraspinal: Muscle beside and behind the spine, negative inside.
    """

    cavity: Array
    muscle: Array
    skin: Array
    diaphragm: Array
    column: Array
    paraspinal: Array


def body_fields(canvas: Canvas, thorax: Thorax, heart_bottom: Sequence[float]) -> Fields:
    """Evaluate the large surfaces on a coarse lattice and refine them."""
    rough = canvas.coarse(COARSE_MM)
    x, y, z = rough.points
    cavity = thorax.cavity(rough.points)
    radius = np.sqrt(x * x + y * y) + np.float32(1.0)
    side, ahead = np.abs(x) / radius, -y / radius
    high = np.clip((z - 10) / 90, 0, 1)
    chest = np.clip((z + 75) / 55, 0, 1) * np.exp(-(((side - 0.52) / 0.24) ** 2)) * (ahead > 0)
    spinal = np.exp(-(((side - 0.28) / 0.24) ** 2)) * (ahead < 0)
    thick = 4 + 7 * side**2 + 13 * chest + 20 * spinal
    thick += high * (6 * (ahead < 0) + 62 * side**4)
    belly = np.clip((-z - 90) / 120, 0, 1)
    fat = thorax.fat_mm * (0.55 + 0.5 * side**2 + 0.35 * belly * (ahead > 0.3)) + 1.5
    muscle = cavity - (RIB_WALL_MM + thorax.muscle * thick)
    skin = muscle - fat
    if thorax.female:
        skin = _with_breasts(rough.points, thorax, skin)
    floor, column = thorax.diaphragm(rough.points, heart_bottom), thorax.column(rough.points)
    parts = (cavity, muscle, skin, floor, column, thorax.paraspinal(rough.points))
    return Fields(*(refine(part, canvas.grid.shape) for part in parts))


def _profile(z: ArrayLike, values: Points) -> Points:
    height = np.asarray(z, float)
    return np.asarray(np.interp(height, LEVELS_MM[::-1], values[::-1]))


def paint_walls(canvas: Canvas, fields: Fields) -> None:
    """Paint skin, fat, muscle, and the fat within the chest."""
    whole = canvas.whole
    canvas.paint(whole, fields.skin, 20.0, 1)
    canvas.paint(whole, fields.skin + np.float32(1.8), -103.0, 1)
    canvas.paint(whole, fields.muscle, 52.0, 2)
    plane = np.abs(fields.cavity - np.float32(RIB_WALL_MM + 4)) - np.float32(0.8)
    canvas.paint(whole, np.maximum(plane, fields.muscle + 5), -70.0, 2)
    canvas.paint(whole, fields.cavity - np.float32(1.5), -98.0, 3)
    rear = np.maximum(fields.paraspinal, fields.cavity - np.float32(3.0))
    canvas.paint(whole, rear, 50.0, 2)
    _paint_scapulae(canvas, fields.cavity)


def _paint_scapulae(canvas: Canvas, cavity: Array) -> None:
    """Shoulder blades: plates that follow the chest wall, turned outward by the raised arms."""
    for side in (-1.0, 1.0):
        low, high = np.sort([side * 60.0, side * 175.0])
        box = canvas.box((low, -30.0, -62.0), (high, 120.0, 95.0))
        if box is None:
            continue
        x, y, z = canvas.local(box)
        turn = np.arctan2(np.abs(x), y - 5)
        gap = 14 + 0.10 * np.maximum(z, 0) + 9 * (turn - 0.8)
        plate = np.abs(cavity[box] - gap) - (2.0 + 0.03 * np.maximum(z + 30, 0))
        reach = np.minimum((z + 60) * 0.009, 0.46)
        wide = (np.abs(turn - 1.0 - 0.002 * z) - reach) * 120
        shape = np.maximum(np.maximum(plate, wide), np.maximum(-z - 60, z - 92))
        canvas.paint(box, shape.astype(np.float32), 380.0, 28)
        canvas.paint(box, shape.astype(np.float32) + np.float32(1.7), 170.0, 28)


def _with_breasts(points: Sequence[Array], thorax: Thorax, skin: Array) -> Array:
    size = thorax.breast_mm
    for side in (-1.0, 1.0):
        front = float(thorax.front(-70.0)) - RIB_WALL_MM - 14
        middle = (side * 78.0, front + 18, -68.0)
        skin = smooth_min(skin, ellipsoid(points, middle, (54.0, 18 + size, 50.0)), 12.0)
    return skin


def paint_glands(canvas: Canvas, thorax: Thorax, rng: np.random.Generator) -> None:
    """Paint glandular tissue into the breasts."""
    front = float(thorax.front(-70.0)) - RIB_WALL_MM - 14
    for side in (-1.0, 1.0):
        for _ in range(5):
            spread = rng.normal(size=3) * (14, 0.18 * thorax.breast_mm, 12)
            middle = np.array([side * 78.0, front + 8 - 0.5 * thorax.breast_mm, -68.0]) + spread
            radii = rng.uniform(0.15, 0.4, 3) * (40, 10 + thorax.breast_mm, 36)
            canvas.paint_ellipsoid(middle, radii, rng.uniform(-20, 35), 1)


def paint_bones(canvas: Canvas, thorax: Thorax) -> None:
    """Paint ribs, costal cartilage, sternum, scapulae, clavicles and spine."""
    _paint_ribs(canvas, thorax)
    _paint_sternum(canvas, thorax)
    _paint_spine(canvas, thorax)


def _rib_path(thorax: Thorax, start_mm: float, drop_mm: float, side: float) -> Points:
    """A rib from the spine round to the front, sinking by `drop_mm`, shape `(n, 3)`."""
    angle = np.linspace(0.24, 2.78, 30)
    z = start_mm - drop_mm * ((angle - 0.24) / 2.54) ** 1.1
    front, back, half = thorax.front(z), thorax.back(z), thorax.half_width(z)
    sine, cosine = np.sin(angle), np.cos(angle)
    q, w = sine**2, cosine**2
    grow = 1 / np.sqrt(np.sqrt(q * q + w * w + 1.25 * q * w))
    x = side * (half * grow + 4.5) * sine
    y = (front + back) / 2 + ((back - front) / 2 * grow + 4.5) * cosine
    return np.stack([x, y, z], axis=1)


def _paint_ribs(canvas: Canvas, thorax: Thorax) -> None:
    bone, cartilage = TubeField(canvas), TubeField(canvas)
    for number in range(12):
        start, drop = 122.0 - 25.0 * number, min(34.0 + 13.0 * number, 108.0)
        for side in (-1.0, 1.0):
            path = _rib_path(thorax, start, drop, side)
            last = 25 - (number // 3) - (8 if number > 9 else 0)
            bone.add(path[: last + 1], 4.6, 3.0)
            if number < 7:
                end = np.array([side * 16.0, 0.0, 60.0 - 21.0 * number])
                end[1] = float(thorax.front(end[2])) - 4.5
                middle = (path[last] + end) / 2 + (0, -3, -4)
                cartilage.add(np.stack([path[last], middle, end]), 5.5, 3.0)
    cartilage.paint(85.0, 5)
    bone.paint(430.0, 6)
    bone.paint(max(thorax.marrow_hu, 90.0), 6, inset_mm=1.6)


def _paint_sternum(canvas: Canvas, thorax: Thorax) -> None:
    z = np.array([55.0, 30, 0, -30, -60, -90])
    path = np.stack([np.zeros(6), thorax.front(z) - 6.0, z], axis=1)
    for cut, hu in ((0.0, 330.0), (1.7, 110.0)):
        for a, b in pairwise(path):
            wide = 21.0 if a[2] > 30 else 15.0
            center, reach = (a + b) / 2, np.array([wide, 20.0, 24.0])
            box = canvas.box(center - reach, center + reach)
            if box is None:
                continue
            x, y, height = canvas.local(box)
            slope = (b[1] - a[1]) / (b[2] - a[2])
            off = y - (center[1] + slope * (height - center[2]))
            flat = np.sqrt((x / wide) ** 2 + (off / 5.5) ** 2) - 1
            tall = np.abs(height - center[2]) - abs(b[2] - a[2]) / 2
            canvas.paint(box, np.maximum(flat * 5.5, tall - 0.2) + np.float32(cut), hu, 7)


def _paint_spine(canvas: Canvas, thorax: Thorax) -> None:
    pitch = 25.0
    for number in range(-6, 18):
        z = 130.0 - pitch * (number + 0.5)
        y = float(thorax.spine(z))
        low, high = np.array([-45.0, y - 25, z - 16]), np.array([45.0, y + 80, z + 16])
        box = canvas.box(low, high, 0.0)
        if box is None:
            continue
        points = canvas.local(box)
        _paint_vertebra(canvas, box, points, y, z, thorax.marrow_hu)


def _paint_vertebra(
    canvas: Canvas, box: tuple[slice, slice, slice], points: tuple[Array, Array, Array],
    y: float, z: float, marrow_hu: float,
) -> None:  # fmt: skip
    px, py, pz = points
    u, v, h = px, py - np.float32(y), pz - np.float32(z)
    disc = np.maximum((np.sqrt((u / 16.5) ** 2 + (v / 14.0) ** 2) - 1) * 14.5, np.abs(h) - 12.6)
    canvas.paint(box, disc, 75.0, 8)
    body = np.maximum((np.sqrt((u / 16.5) ** 2 + (v / 14.0) ** 2) - 1) * 14.5, np.abs(h) - 10.0)
    canvas.paint(box, body, 360.0, 8)
    canvas.paint(box, body + 1.4, marrow_hu, 8)
    arch = np.abs(np.sqrt((u / 1.15) ** 2 + (v - 22.5) ** 2) - 11.5) - 3.2
    arch = np.maximum(arch, np.abs(h + 2) - 8.5)
    lamina = np.maximum(np.abs(u) - 3.0, np.abs(v - 46 - 0.25 * h) - 15)
    spinous = np.maximum(lamina, np.abs(h + 6 + 0.4 * (v - 40)) - 7)
    wing = np.maximum(np.abs(v - 24 - 0.28 * np.abs(u)) - 4.5, np.abs(h - 3) - 6)
    transverse = np.maximum(wing, np.maximum(np.abs(u) - 33, 12 - np.abs(u)))
    rear = np.minimum(np.minimum(arch, spinous), transverse)
    canvas.paint(box, rear, 340.0, 8)
    canvas.paint(box, rear + 1.8, marrow_hu + 60.0, 8)
    canal = np.maximum(np.sqrt((u / 1.2) ** 2 + (v - 22.0) ** 2) - 8.0, np.abs(h) - 13.0)
    canvas.paint(box, canal, 20.0, 9)
