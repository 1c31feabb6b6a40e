"""Calcium and metal that is not in a coronary artery and must score zero."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.phantoms.deposit import HU_PER_HYDROXYAPATITE, Cloud
from pipelines.phantoms.heart import APEX, LV_AXIS, ROOT, Heart
from pipelines.phantoms.mediastinum import AIRWAY_KNOTS, AIRWAY_RADII_MM, vessel_paths
from pipelines.phantoms.settings import CalciumSettings
from pipelines.phantoms.shapes import smooth_curve
from pipelines.phantoms.thorax import Thorax

Points = NDArray[np.float64]
Placer = Callable[[Points], Points]

METAL = ("lead", "wires")
"""Kinds of distractors that are metal."""

METAL_HU = 9000.0
"""Attenuation of leads and wires before blur; scanners clip at 3071."""


@dataclass(frozen=True, slots=True)
class Distractor:
    """One finding that looks like calcium and does not count.

    Args:
        kind: Name, as in `CalciumSettings`.
        center_mm: Middle, scanner LPS mm.
        volume_mm3: Volume of the dense part.
        peak_hu: Attenuation of the dense part before blur, HU.
    """

    kind: str
    center_mm: tuple[float, float, float]
    volume_mm3: float
    peak_hu: float


def sample_distractors(
    heart: Heart, thorax: Thorax, settings: CalciumSettings, kvp: int, to_scanner: Placer,
    rng: np.random.Generator,
) -> list[tuple[Distractor, Cloud]]:  # fmt: skip
    """Draw the distractors of one subject, each as a cloud in scanner space."""
    recipes: list[tuple[str, float, Callable[[], list[tuple[Points, float]]]]] = [
        ("aortic_wall", settings.aortic_wall, lambda: _aortic_wall(heart, rng)),
        ("aortic_valve", settings.aortic_valve, lambda: _aortic_valve(heart, rng)),
        ("mitral_annulus", settings.mitral_annulus, lambda: _mitral_annulus(heart, rng)),
        ("nodes", settings.nodes, lambda: _nodes(rng)),
        ("airway", settings.airway, lambda: _airway(rng)),
        ("pericardium", settings.pericardium, lambda: _pericardium(heart, rng)),
        ("lead", settings.lead, lambda: _lead(heart)),
        ("wires", settings.wires, lambda: _wires(thorax)),
    ]
    found = []
    for kind, chance, recipe in recipes:
        present = rng.random() < chance
        for points, volume in recipe() if present else []:
            metal = kind in METAL
            top = 350.0 if kind == "airway" else 1100.0
            density = np.exp(rng.uniform(np.log(140.0), np.log(top)))
            hu = METAL_HU if metal else density * HU_PER_HYDROXYAPATITE[kvp]
            placed = to_scanner(points)
            x, y, z = placed.mean(axis=0).tolist()
            contrast = np.full(len(points), hu * volume / len(points))
            found.append((Distractor(kind, (x, y, z), volume, float(hu)), Cloud(placed, contrast)))
    return found


def _tube_patch(
    line: Points, radius: float, start: float, length: float, angle: float, arc: float,
    thickness: float, rng: np.random.Generator,
) -> tuple[Points, float]:  # fmt: skip
    """Points on a patch of a tube's wall and their volume, mm³; `line` has one point per mm."""
    volume = length * arc * radius * thickness * np.pi / 4
    count = int(np.clip(volume / 0.05, 150, 4000))
    ring, turn = np.sqrt(rng.uniform(0, 1, count)), rng.uniform(0, 2 * np.pi, count)
    s = np.clip(start + 0.5 * length * ring * np.cos(turn), 0, len(line) - 1.001)
    theta = angle + 0.5 * arc * ring * np.sin(turn)
    index = s.astype(int)
    tangent = line[index + 1] - line[index]
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    normal = np.cross(tangent, [0.36, 0.48, 0.80])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
    binormal = np.cross(tangent, normal)
    out = np.cos(theta)[:, None] * normal + np.sin(theta)[:, None] * binormal
    depth = radius + thickness * (rng.uniform(0, 1, count) - 0.5)
    return line[index] + (s - index)[:, None] * tangent + depth[:, None] * out, volume


def _blob(center: Points, radii: Points, rng: np.random.Generator) -> tuple[Points, float]:
    """Points filling an ellipsoid and its volume, mm³."""
    volume = 4 / 3 * np.pi * float(np.prod(radii))
    count = int(np.clip(volume / 0.05, 100, 4000))
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    depth = rng.uniform(0, 1, (count, 1)) ** (1 / 3)
    return center + direction * depth * radii, volume


def _aortic_wall(heart: Heart, rng: np.random.Generator) -> list[tuple[Points, float]]:
    line, radii = vessel_paths(heart)["aorta"]
    fine = smooth_curve(line, 1.0)
    sizes = np.interp(np.linspace(0, 1, len(fine)), np.linspace(0, 1, len(radii)), radii)
    found = []
    for _ in range(int(rng.integers(1, 9))):
        near_root = rng.random() < 0.4
        start = rng.uniform(3, 22) if near_root else rng.uniform(22, len(fine) - 5)
        length = np.exp(rng.uniform(np.log(1.5), np.log(14)))
        radius = float(sizes[int(start)])
        arc = np.clip(length * rng.uniform(0.5, 1.5) / radius, 0.05, 1.6)
        angle, thick = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.8)
        found.append(_tube_patch(fine, radius, start, length, angle, arc, thick, rng))
    return found


def _aortic_valve(heart: Heart, rng: np.random.Generator) -> list[tuple[Points, float]]:
    found = []
    for _ in range(int(rng.integers(1, 9))):
        angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(1, 11)
        offset = (radius * np.cos(angle), radius * np.sin(angle), rng.uniform(-7, 1))
        center = heart.place(ROOT + np.array(offset))
        found.append(_blob(center, np.exp(rng.uniform(np.log(0.5), np.log(3.0), 3)), rng))
    return found


def _mitral_annulus(heart: Heart, rng: np.random.Generator) -> list[tuple[Points, float]]:
    base = APEX - 88.0 * LV_AXIS
    first = np.cross(LV_AXIS, [0.0, 0.0, 1.0])
    first /= np.linalg.norm(first)
    second = np.cross(LV_AXIS, first)
    middle, extent = rng.uniform(-0.6, 1.6), rng.uniform(0.3, 2.4)
    angle = np.arange(middle - extent / 2, middle + extent / 2, 0.12)
    ring = base + 18 * (np.cos(angle)[:, None] * first + np.sin(angle)[:, None] * second)
    size = rng.uniform(0.8, 3.2)
    return [
        _blob(point, np.full(3, size * rng.uniform(0.5, 1.2)), rng) for point in heart.place(ring)
    ]


def _nodes(rng: np.random.Generator) -> list[tuple[Points, float]]:
    sites = np.array(
        [[-16, -14, -4], [2, -3, -16], [-42, -4, -36], [48, -6, -28], [14, -22, 2], [-50, 2, -60],
         [52, 10, -52], [-24, -24, 12]], float,
    )  # fmt: skip
    found = []
    for _ in range(int(rng.integers(1, 4))):
        center = sites[rng.integers(len(sites))] + rng.normal(0, 4, 3)
        found.append(_blob(center, np.exp(rng.uniform(np.log(1.0), np.log(5.0), 3)), rng))
    return found


def _airway(rng: np.random.Generator) -> list[tuple[Points, float]]:
    found = []
    for name in ("trachea", "left_main", "right_main", "right_intermediate", "left_lower"):
        line = smooth_curve(AIRWAY_KNOTS[name], 1.0)
        radius = float(np.mean(AIRWAY_RADII_MM[name])) + 1.0
        for start in np.arange(3.0, len(line) - 3.0, 5.0):
            if rng.random() < 0.5:
                angle, arc = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1.8)
                found.append(_tube_patch(line, radius, start, 2.5, angle, arc, 0.9, rng))
    return found


def _pericardium(heart: Heart, rng: np.random.Generator) -> list[tuple[Points, float]]:
    found = []
    for _ in range(int(rng.integers(1, 4))):
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        center = np.array([[25.0, -52.0, -85.0]])
        for _ in range(60):
            x, y, z = center.T.astype(np.float32)
            if float(heart.surface((x, y, z))[0]) >= heart.epicardial_fat_mm:
                break
            center = center + direction
        radii = np.exp(rng.uniform(np.log(0.8), np.log(6.0), 3))
        radii[int(np.argmax(np.abs(direction)))] = rng.uniform(0.5, 1.2)
        found.append(_blob(center[0], radii, rng))
    return found


def _lead(heart: Heart) -> list[tuple[Points, float]]:
    knots = [(-32, -40, 70), (-32, -38, 0), (-33, -40, -45), (-22, -52, -82), (8, -70, -95)]
    knots += [(40, -80, -108), (60, -82, -112)]
    line = smooth_curve(np.vstack([knots[:2], heart.place(knots[2:])]), 0.4)
    return [(line, np.pi * 0.7**2 * 0.4 * len(line))]


def _wires(thorax: Thorax) -> list[tuple[Points, float]]:
    found = []
    for z in (25.0, 0.0, -22.0, -44.0, -66.0):
        front = float(thorax.front(z))
        angle = np.linspace(0, 2 * np.pi, 220)
        x, y = 12.0 * np.cos(angle), front - 6.0 + 7.5 * np.sin(angle)
        loop = np.stack([x, y, z + 1.5 * np.sin(2 * angle)], axis=1)
        found.append((loop, np.pi * 0.4**2 * 65.0))
    return found
