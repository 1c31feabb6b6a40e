"""Great vessels, airways, gullet and the heart itself on the canvas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.phantoms.heart import HEART_CENTER, ROOT, TERRITORY, Heart
from pipelines.phantoms.shapes import (
    FAR_MM,
    Array,
    Canvas,
    TubeField,
    ellipsoid,
    refine,
    smooth_curve,
    smooth_min,
)
from pipelines.phantoms.thorax import COARSE_MM, Thorax

Points = NDArray[np.float64]

HEART_COARSE_MM = 2.5
"""Lattice on which the chambers are evaluated."""

_CLOSING_MM = 14.0
"""Gaps between mediastinal structures narrower than twice this are filled with fat."""

AORTA_KNOTS = [
    (3, -47, -53), (-5, -51, -38), (-13, -52, -20), (-14, -46, 0), (-8, -34, 18), (4, -16, 27),
    (16, 2, 24), (23, 14, 8), (25, 18, -15), (25, 18, -50), (24, 15, -95), (18, 17, -140),
    (8, 18, -190), (3, 10, -260),
]  # fmt: skip
"""Middle of the aorta from the root over the arch to the abdomen, mm."""

VESSEL_KNOTS: dict[str, list[tuple[float, float, float]]] = {
    "pulmonary_trunk": [(20, -75, -48), (23, -66, -33), (23, -50, -22), (22, -34, -17)],
    "pulmonary_left": [(22, -36, -18), (36, -18, -12), (48, -2, -20), (54, 6, -38), (58, 10, -60)],
    "pulmonary_right": [(20, -36, -19), (4, -26, -22), (-18, -22, -25), (-38, -17, -32)],
    "pulmonary_right_low": [(-38, -17, -32), (-48, -9, -48), (-53, 0, -70)],
    "cava_upper": [(-24, -40, 75), (-31, -40, 30), (-32, -38, -10), (-32, -38, -50)],
    "cava_lower": [(-26, -32, -105), (-27, -24, -135), (-24, -14, -190)],
    "vein_left": [(14, -14, -62), (38, -2, -62), (58, 6, -72)],
    "vein_left_upper": [(18, -18, -50), (40, -16, -44), (58, -18, -34)],
    "vein_right": [(0, -12, -64), (-26, -4, -66), (-48, 4, -78)],
    "vein_right_upper": [(-2, -20, -54), (-26, -20, -48), (-48, -24, -42)],
    "brachiocephalic": [(-14, -38, 22), (-16, -34, 45), (-20, -26, 80)],
    "carotid": [(2, -20, 26), (10, -14, 55), (18, -10, 95)],
    "subclavian": [(12, -4, 26), (22, 2, 55), (32, 2, 88)],
    "azygos": [(-6, 18, -150), (-7, 20, -60), (-9, 18, -5), (-18, 2, 10), (-30, -28, 8)],
}  # fmt: skip
"""Middle lines of the other great vessels, mm."""

VESSEL_RADII_MM = {
    "pulmonary_trunk": (14.5, 13.5), "pulmonary_left": (11.5, 6.0),
    "pulmonary_right": (11.0, 9.0), "pulmonary_right_low": (8.0, 5.5), "cava_upper": (9.0, 10.5),
    "cava_lower": (13.0, 12.0), "vein_left": (7.5, 5.5), "vein_left_upper": (7.0, 5.5),
    "vein_right": (7.5, 5.5), "vein_right_upper": (7.0, 5.5), "brachiocephalic": (7.0, 6.0),
    "carotid": (4.5, 4.0), "subclavian": (5.0, 4.5), "azygos": (3.6, 4.0),
}  # fmt: skip
"""Radius at either end of each vessel."""

AIRWAY_KNOTS: dict[str, list[tuple[float, float, float]]] = {
    "trachea": [(-1, -10, 120), (-1, -8, 70), (0, -3, 25), (0, 0, 0)],
    "left_main": [(0, 0, 0), (15, 2, -13), (32, 4, -24), (45, 6, -33)],
    "left_lower": [(45, 6, -33), (52, 12, -50), (58, 18, -78)],
    "left_upper": [(44, 5, -32), (54, -6, -32), (64, -18, -24)],
    "right_main": [(0, 0, 0), (-12, 2, -13), (-23, 4, -24)],
    "right_upper": [(-20, 3, -20), (-36, 2, -16), (-52, -2, -4)],
    "right_intermediate": [(-23, 4, -24), (-33, 5, -45), (-43, 12, -70)],
}  # fmt: skip
"""Middle lines of trachea and bronchi, mm; the carina is the origin."""

AIRWAY_RADII_MM = {
    "trachea": (8.6, 8.6), "left_main": (7.0, 5.6), "left_lower": (4.6, 3.2),
    "left_upper": (4.4, 2.8), "right_main": (7.6, 6.6), "right_upper": (4.6, 3.0),
    "right_intermediate": (5.6, 3.6),
}  # fmt: skip
"""Inner radius at either end of each airway."""

ESOPHAGUS_KNOTS = [
    (2, 7, 120), (3, 10, 60), (6, 13, 20), (8, 14, -10), (8, 13, -50), (10, 6, -90),
    (16, -4, -125), (24, -18, -150),
]  # fmt: skip
"""Middle of the gullet, mm."""

LABELS = {
    "outside": 0, "skin_and_fat": 1, "muscle": 2, "inner_fat": 3, "lung": 4, "cartilage": 5,
    "rib": 6, "sternum": 7, "vertebra": 8, "spinal_canal": 9, "liver": 10, "abdomen": 11,
    "effusion": 12, "pericardial_fat": 13, "left_ventricle": 14, "right_ventricle": 15,
    "right_atrium": 16, "left_atrium": 17, "aorta": 18, "aortic_root": 19,
    "pulmonary_artery": 20, "vein": 21, "airway": 22, "esophagus": 23, "coronary": 24,
    "myocardium": 25, "table": 26, "metal": 27, "scapula": 28, "node": 29,
}  # fmt: skip
"""Value of each organ in the label image."""


def follow(heart: Heart, points: Points) -> Points:
    """Move points with the heart: wholly within it, not at all far from it."""
    path = np.asarray(points, float)
    distance = np.linalg.norm((path - HEART_CENTER) / (1.0, 1.0, 1.0), axis=-1)
    weight = np.clip((115.0 - distance) / 60.0, 0, 1)
    weight = weight * weight * (3 - 2 * weight)
    aside = np.clip((path[..., 1] + 8) / 20, 0, 1)
    weight = weight * (1 - aside)
    result: Points = path + weight[..., None] * (heart.place(path) - path)
    return result


def vessel_paths(heart: Heart) -> dict[str, tuple[Points, Points]]:
    """Middle line (mm) and radius of every great vessel, the aorta among them."""
    ratio = heart.aorta_radius_mm / 16.0
    paths = {}
    for name, knots in VESSEL_KNOTS.items():
        line = smooth_curve(follow(heart, np.array(knots, float)), 7.0)
        radii = np.linspace(*VESSEL_RADII_MM[name], len(line))
        paths[name] = (line, radii)
    line = smooth_curve(follow(heart, np.array(AORTA_KNOTS, float)), 7.0)
    where = np.linspace(0, 1, len(line))
    radii = np.interp(where, [0, 0.05, 0.25, 0.4, 0.6, 1], [15.5, 16, 15.5, 13, 12.3, 10.5])
    grow = np.interp(
        where, [0, 0.1, 0.3, 0.5, 1], [ratio**0.6, ratio, ratio, ratio**0.6, ratio**0.4]
    )
    paths["aorta"] = (line, radii * grow)
    return paths


def mediastinum_distance(canvas: Canvas, heart: Heart, thorax: Thorax) -> Array:
    """Distance to all that lies between the lungs, the gaps closed with fat, mm."""
    rough = canvas.coarse(COARSE_MM)
    tubes = TubeField(rough)
    for name, (line, radii) in vessel_paths(heart).items():
        if not name.startswith("vein") and name != "pulmonary_right_low":
            tubes.add(line, radii + 2.0, 22.0)
    for name in ("trachea", "left_main", "right_main"):
        line = smooth_curve(AIRWAY_KNOTS[name], 10.0)
        tubes.add(line, np.linspace(*AIRWAY_RADII_MM[name], len(line)) + 4.0, 22.0)
    tubes.add(smooth_curve(ESOPHAGUS_KNOTS, 12.0), 9.5, 22.0)
    heart_sac = sac_distance(heart, rough.points) - np.float32(1.0)
    union = smooth_min(tubes.distance, heart_sac, 8.0)
    union = np.minimum(union, _anterior_fat(rough, heart, thorax))
    closed = _closed(union, np.minimum(union, thorax.column(rough.points)), rough.grid.spacing)
    return refine(closed, canvas.grid.shape)


def _anterior_fat(canvas: Canvas, heart: Heart, thorax: Thorax) -> Array:
    """Fat behind the sternum and in the angles between heart and diaphragm."""
    thick = 3.0 + 1.2 * heart.epicardial_fat_mm
    front = float(thorax.front(-30.0))
    behind = ellipsoid(canvas.points, (2, front + 10, -35), (10 + thick, 24, 62))
    left = heart.place(np.array([62.0, -88.0, -122.0]))
    right = heart.place(np.array([-38.0, -74.0, -116.0]))
    pads = [ellipsoid(canvas.points, p, (8 + 1.5 * thick, 8 + thick, 12)) for p in (left, right)]
    result: Array = np.minimum(behind, np.minimum(*pads))
    return result


def _closed(shape: Array, walls: Array, spacing: tuple[float, ...]) -> Array:
    """Distance to a shape whose gaps narrower than `_CLOSING_MM` are filled, mm."""
    near = np.pad(walls < _CLOSING_MM, 1, mode="edge")
    inward = ndimage.distance_transform_edt(near, sampling=spacing[::-1])[1:-1, 1:-1, 1:-1]
    filled = ndimage.gaussian_filter(_CLOSING_MM - inward.astype(np.float32), 0.7)
    return np.minimum(shape, np.where(walls < _CLOSING_MM, filled, FAR_MM)).astype(np.float32)


def paint_vessels(canvas: Canvas, heart: Heart, blood_hu: float) -> None:
    """Paint great vessels, gullet and airways."""
    veins, arteries = TubeField(canvas), TubeField(canvas)
    for name, (line, radii) in vessel_paths(heart).items():
        if name.startswith(("cava", "vein", "azygos")):
            veins.add(line, radii)
        elif name.startswith("pulmonary"):
            arteries.add(line, radii)
    veins.paint(blood_hu, LABELS["vein"])
    arteries.paint(blood_hu, LABELS["pulmonary_artery"])
    aorta = TubeField(canvas)
    paths = vessel_paths(heart)
    for name in ("aorta", "brachiocephalic", "carotid", "subclavian"):
        aorta.add(*paths[name])
    aorta.paint(blood_hu + 6, LABELS["aorta"])
    aorta.paint(blood_hu, LABELS["aorta"], inset_mm=1.6)
    gullet = TubeField(canvas)
    gullet.add(smooth_curve(ESOPHAGUS_KNOTS, 9.0), 6.5)
    gullet.paint(38.0, LABELS["esophagus"])


def paint_airways(canvas: Canvas) -> None:
    """Paint trachea and bronchi: wall, then air."""
    tubes = TubeField(canvas)
    for name, knots in AIRWAY_KNOTS.items():
        line = smooth_curve(knots, 7.0)
        tubes.add(line, np.linspace(*AIRWAY_RADII_MM[name], len(line)) + 1.6)
    tubes.paint(35.0, LABELS["airway"])
    tubes.paint(-1000.0, LABELS["airway"], inset_mm=1.6)


def sac_distance(heart: Heart, points: Sequence[Array]) -> Array:
    """Distance to the pericardial sac at anatomical points x, y, z, mm."""
    parts = list(heart.chambers(points).values())
    sac = parts[0]
    for part in parts[1:]:
        sac = smooth_min(sac, part, 26.0)
    return sac - np.float32(heart.epicardial_fat_mm)


def paint_heart(canvas: Canvas, heart: Heart, blood_hu: float, muscle_hu: float) -> None:
    """Paint pericardium, epicardial fat, muscle, and the blood in root and chambers."""
    box = canvas.box(*heart.bounds(22.0))
    if box is None:
        return
    rough = canvas.coarse(HEART_COARSE_MM, box)
    shape = canvas.hu[box].shape
    sac = refine(sac_distance(heart, rough.points), shape)
    canvas.paint(box, sac, 25.0, LABELS["pericardial_fat"])
    canvas.paint(box, sac + np.float32(1.2), -95.0, LABELS["pericardial_fat"])
    walls = {
        "ra": ("right_atrium", 2.0), "la": ("left_atrium", 2.0), "rv": ("right_ventricle", 3.5),
        "rvot": ("right_ventricle", 3.0), "lv": ("left_ventricle", 10.0),
        "septum": ("right_atrium", 4.0), "root": ("aortic_root", 1.6),
    }  # fmt: skip
    union = refine(heart.surface(rough.points), shape)
    canvas.paint(box, union, muscle_hu, LABELS["myocardium"])
    parts = heart.chambers(rough.points)
    for name, (label, wall) in walls.items():
        inner = refine(parts[name] + np.float32(wall), shape)
        canvas.paint(box, inner, blood_hu, LABELS[label])


def label_root(canvas: Canvas, heart: Heart) -> None:
    """Give the aortic sinuses their label back, which the aorta's lower end took."""
    center = heart.place(ROOT)
    box = canvas.box(center - 26.0, center + 26.0)
    if box is not None:
        root = heart.chambers(canvas.local(box))["root"]
        canvas.labels[box][root < 0] = LABELS["aortic_root"]


def paint_coronaries(
    canvas: Canvas, lines: Mapping[str, Points], radii_mm: Mapping[str, tuple[float, float]],
    blood_hu: float,
) -> None:  # fmt: skip
    """Paint the coronary arteries; thin ones fade by partial volume."""
    tubes = TubeField(canvas)
    for name in TERRITORY:
        line = lines[name]
        tubes.add(line, np.linspace(*radii_mm[name], len(line)))
    tubes.paint(blood_hu, LABELS["coronary"])
