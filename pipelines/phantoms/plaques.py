"""Coronary plaques: shapes along the vessel wall, drawn until a wanted score is reached."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.phantoms.acquisition import Sampling
from pipelines.phantoms.deposit import HU_PER_HYDROXYAPATITE, Cloud, Patch, deposit, smear
from pipelines.phantoms.heart import CORONARY_RADII_MM, TERRITORY
from pipelines.phantoms.settings import CalciumSettings
from pipelines.phantoms.shapes import Array
from pipelines.phantoms.truth import THRESHOLD_HU, lesion_scores

Points = NDArray[np.float64]

VESSEL_CHANCE = {
    "LM": 0.12, "LAD": 0.38, "D1": 0.05, "LCX": 0.15, "OM": 0.03, "RCA": 0.21, "PDA": 0.06
}  # fmt: skip
"""How often each artery carries a plaque."""

MOTION_FACTOR = {"LM": 0.6, "LAD": 0.7, "D1": 0.8, "LCX": 1.0, "OM": 1.0, "RCA": 1.4, "PDA": 1.0}
"""Motion of each artery relative to the heart's; the right one moves most."""


@dataclass(frozen=True, slots=True)
class Plaque:
    """One coronary plaque.

    Args:
        vessel: `LM`, `LAD`, `LCX` or `RCA`.
        branch: Artery it lies in, branches told apart.
        center_mm: Center of mass, scanner LPS mm.
        mass_mg: Hydroxyapatite.
        volume_mm3: Volume of the solid part.
        density_mg_cm3: Hydroxyapatite per volume.
        length_mm: Length along the vessel.
        peak_hu: Highest HU it adds to a pixel, noise-free.
    """

    vessel: str
    branch: str
    center_mm: tuple[float, float, float]
    mass_mg: float
    volume_mm3: float
    density_mg_cm3: float
    length_mm: float
    peak_hu: float


@dataclass(frozen=True, slots=True)
class Drawn:
    """A plaque with what it does to the image.

    Args:
        plaque: The plaque.
        cloud: Its points, motion included.
        patches: The signal it adds to the final grid.
    """

    plaque: Plaque
    cloud: Cloud
    patches: list[Patch]


@dataclass(frozen=True, slots=True)
class Arteries:
    """Where plaques can lie and how they move.

    Args:
        lines: Centerlines by artery, scanner LPS mm, one point per mm.
        motion_mm: Displacement of the heart during one exposure, shape `(3,)`.
        kvp: Tube voltage, kV.
    """

    lines: dict[str, Points]
    motion_mm: Points
    kvp: int


@dataclass(frozen=True, slots=True)
class Scene:
    """What plaques are drawn into.

    Args:
        arteries: Where they can lie.
        sampling: Final grid and blur.
        background: Noise-free image without calcium on that grid, HU.
    """

    arteries: Arteries
    sampling: Sampling
    background: Array


def target_score(rng: np.random.Generator, settings: CalciumSettings) -> float:
    """Draw the wanted Agatston score: zero, or log-uniform within a category."""
    if rng.random() < settings.zero_fraction:
        return 0.0
    bounds = ((2.5, 9.0), (14.0, 92.0), (115.0, 370.0), (450.0, settings.max_score))
    weights = np.array(settings.category_weights) / np.sum(settings.category_weights)
    low, high = bounds[int(rng.choice(4, p=weights))]
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def wall_cloud(
    line: Points, radius_mm: float, start: float, length_mm: float, arc_rad: float,
    thickness_mm: float, rng: np.random.Generator,
) -> tuple[Points, float]:  # fmt: skip
    """Points filling a piece of vessel wall.

    Args:
        line: Centerline, mm, one point per mm.
        radius_mm: Radius at which the middle of the plaque's wall lies.
        start: Position of the plaque's middle along the line, mm.
        length_mm: Length along the line.
        arc_rad: Part of the circumference.
        thickness_mm: Across the wall.
        rng: Draws place and points.

    Returns:
        Points `(n, 3)` in mm and the volume they stand for, mm³.
    """
    inner = max(radius_mm - thickness_mm / 2, 0.0)
    outer = inner + thickness_mm
    volume = 0.5 * arc_rad * (outer**2 - inner**2) * length_mm * np.pi / 4
    count = int(np.clip(volume / 0.02, 150, 1000))
    along, across = _disc(count, rng)
    s = np.clip(start + 0.5 * length_mm * along, 0, len(line) - 1.001)
    angle = rng.uniform(0, 2 * np.pi) + 0.5 * arc_rad * across + 0.15 * s * rng.normal()
    radius = np.sqrt(rng.uniform(inner**2, outer**2, count))
    index = s.astype(int)
    part = (s - index)[:, None]
    middle = line[index] * (1 - part) + line[index + 1] * part
    tangent = line[index + 1] - line[index]
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
    normal = np.cross(tangent, [0.31, -0.48, 0.82])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
    binormal = np.cross(tangent, normal)
    ring = np.cos(angle)[:, None] * normal + np.sin(angle)[:, None] * binormal
    return middle + radius[:, None] * ring, volume


def _disc(count: int, rng: np.random.Generator) -> tuple[Points, Points]:
    """Uniform points of the unit disc, so that a plaque unrolled is an ellipse."""
    radius = np.sqrt(rng.uniform(0, 1, count))
    angle = rng.uniform(0, 2 * np.pi, count)
    return radius * np.cos(angle), radius * np.sin(angle)


def sample_plaques(
    scene: Scene, settings: CalciumSettings, target: float, rng: np.random.Generator
) -> list[Drawn]:
    """Draw plaques until their foreseen scores add up to about `target`.

    Returns:
        The plaques; none for a target of zero.
    """
    chosen: list[Drawn] = []
    total, shrink = 0.0, 1.0
    for _ in range(150):
        left = target - total
        if left <= 0.12 * target or left < 0.8:
            break
        drawn = _draw(scene, settings, left, shrink, rng)
        score = foreseen_score(drawn.patches, scene.sampling, scene.background)
        if score > 1.2 * left or score < 0.3:
            shrink = float(np.clip(shrink * (0.75 if score > left else 1.35), 0.05, 1.5))
            continue
        chosen.append(drawn)
        total, shrink = total + score, min(1.0, shrink * 1.2)
    return chosen


def foreseen_score(patches: list[Patch], sampling: Sampling, background: Array) -> float:
    """Agatston score of one plaque alone in the noise-free image.

    Args:
        patches: The plaque's signal.
        sampling: Final grid.
        background: Image without calcium on that grid, HU.
    """
    if not patches:
        return 0.0
    low = np.min([p.start for p in patches], axis=0)
    high = np.max([np.add(p.start, p.hu.shape) for p in patches], axis=0)
    whole = background[tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))].copy()
    for patch in patches:
        first = np.subtract(patch.start, low)
        last = first + patch.hu.shape
        whole[tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))] += patch.hu
    hu = np.rint(whole).astype(np.int16)
    x, y, z = sampling.grid.spacing
    return sum(s for _, s in lesion_scores(hu, hu >= THRESHOLD_HU, (x, y, z), "agatston-1990"))


def _draw(
    scene: Scene, settings: CalciumSettings, left: float, shrink: float, rng: np.random.Generator
) -> Drawn:
    """One plaque, smaller the less score is `left` and the smaller `shrink`."""
    names = list(VESSEL_CHANCE)
    chance = np.array([VESSEL_CHANCE[n] for n in names])
    branch = str(rng.choice(names, p=chance / chance.sum()))
    line = scene.arteries.lines[branch]
    share = rng.beta(1.0, 1.0 if branch in ("LM", "D1", "OM", "PDA") else 1.8)
    place = share * (len(line) - 2)
    r0, r1 = CORONARY_RADII_MM[branch]
    radius = r0 + (r1 - r0) * place / len(line)
    low, high = settings.plaque_length_mm
    top = low + (high - low) * min(1.0, (left / 150.0) ** 0.6) * shrink
    length = float(np.exp(rng.uniform(np.log(low), np.log(max(top, low * 1.1)))))
    arc = float(np.clip(rng.uniform(0.6, 1.6) * length / (1.6 * radius), 0.5, rng.uniform(1, 5)))
    thickness = rng.uniform(0.5, min(1.0 + 0.12 * length, 2.2))
    points, volume = wall_cloud(line, radius, place, length, arc, thickness, rng)
    faint = rng.random() < settings.faint_fraction
    wanted = rng.uniform(138, 250) if faint else 250 * np.exp(rng.uniform(0, 1.6) * shrink**0.5)
    shape = Cloud(points, np.full(len(points), volume / len(points)))
    return _at_density(scene, settings, branch, shape, length, wanted, rng)


def _at_density(
    scene: Scene,
    settings: CalciumSettings,
    branch: str,
    shape: Cloud,
    length: float,
    wanted_hu: float,
    rng: np.random.Generator,
) -> Drawn:
    """Give a plaque the density at which its peak in the image comes nearest to `wanted_hu`."""
    factor = HU_PER_HYDROXYAPATITE[scene.arteries.kvp]
    motion = scene.arteries.motion_mm * MOTION_FACTOR[branch]
    moved = smear(Cloud(shape.points, shape.contrast * factor), motion, 5, rng)
    patches = deposit(moved, scene.sampling)
    peak, beneath = 1e-6, 0.0
    for patch in patches:
        at = int(np.argmax(patch.hu))
        if patch.hu.flat[at] > peak:
            peak, beneath = float(patch.hu.flat[at]), float(scene.background[patch.box].flat[at])
    density = float(np.clip((wanted_hu - beneath) / peak, *settings.density_mg_cm3))
    scaled = [Patch(p.start, p.hu * np.float32(density)) for p in patches]
    x, y, z = shape.points.mean(axis=0).tolist()
    volume = float(shape.contrast.sum())
    mass = density * volume / 1000.0
    plaque = Plaque(
        TERRITORY[branch], branch, (x, y, z), mass, volume, density, length, density * peak
    )
    return Drawn(plaque, Cloud(moved.points, moved.contrast * density), scaled)
