"""How much coronary calcium a simulated patient has, where, and of what shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from calcium.simulation.inserted import Insert
from calcium.simulation.physics import Particles
from calcium.simulation.placement import TissueMap, snap_to_surface
from calcium.simulation.plaques import interpolate_path, joined, nodule, smeared, tube

VESSEL_SHARES = {
    "LM": 0.16,
    "LAD": 0.32,
    "LCX": 0.20,
    "RCA": 0.20,
    "PDA": 0.05,
    "D1": 0.04,
    "OM": 0.03,
}
"""Share of plaques per vessel; vessels without a course are left out (own choice)."""

BURDEN_COUNTS = ((1, 3), (1, 4), (3, 7), (7, 16), (14, 30))
"""Plaques per patient from a speck or two to every vessel full (first, one past last)."""

BURDEN_SHARES = (0.27, 0.23, 0.25, 0.16, 0.09)
"""Share of patients with plaque per burden (own choice)."""

PROXIMAL_SHAPE = (1.0, 1.9)
"""Beta distribution of the place along a vessel: plaque prefers the proximal half."""


def draw_coronary_plaques(
    rng: np.random.Generator,
    courses: Mapping[str, NDArray[np.float64]],
    tissue: TissueMap,
    *,
    faint_share: float = 0.5,
    motion_mm: float = 0.0,
    burden_shares: Sequence[float] = BURDEN_SHARES,
) -> list[Insert]:
    """Plaques of one patient, at least one tried.

    Args:
        rng: Source of randomness.
        courses: Vessel name to center line, LPS mm.
        tissue: Tissue of the scan.
        faint_share: Share of plaques with a peak of 130-250 HU.
        motion_mm: Largest smear by motion, mm.
        burden_shares: Share of patients per entry of `BURDEN_COUNTS`.

    Returns:
        Plaques; fewer than drawn where a course leaves the heart's surface or the scan.
    """
    names = [name for name in courses if name in VESSEL_SHARES and len(courses[name]) > 1]
    if not names:
        return []
    share = np.array([VESSEL_SHARES[name] for name in names])
    level = int(rng.choice(len(BURDEN_COUNTS), p=burden_shares))
    count = int(rng.integers(*BURDEN_COUNTS[level]))
    plaques = []
    for _ in range(count):
        name = names[int(rng.choice(len(names), p=share / share.sum()))]
        size = 0.3 if level == 0 else float(rng.uniform(0.0 if level < 4 else 0.3, 1.0))
        cloud = _draw_cloud(rng, courses[name], tissue, size)
        if cloud is None:
            continue
        if motion_mm > 0.3:
            cloud = smeared(cloud, rng, rng.uniform(0.2, 1.0) * motion_mm)
        share_faint = 0.8 if level == 0 else faint_share
        plaques.append(Insert(cloud, draw_peak_hu(rng, share_faint)))
    return plaques


def draw_peak_hu(rng: np.random.Generator, faint_share: float) -> float:
    """Brightness of the brightest voxel of a plaque, HU."""
    if rng.random() < faint_share:
        return float(rng.uniform(135.0, 250.0))
    return float(np.exp(rng.uniform(np.log(230.0), np.log(1300.0))))


def _draw_cloud(
    rng: np.random.Generator,
    course: NDArray[np.float64],
    tissue: TissueMap,
    size: float,
) -> Particles | None:
    """One plaque of relative size 0 to 1: a speck, nodule, row of specks or plate."""
    length = float(np.linalg.norm(np.diff(course, axis=0), axis=1).sum())
    where = float(rng.beta(*PROXIMAL_SHAPE))
    form = rng.random()
    if size < 0.35 or form < 0.35:
        center = snap_to_surface(rng, tissue, interpolate_path(course, [where])[0])
        if center is None:
            return None
        radius = rng.uniform(0.5, 1.2) if size < 0.35 else rng.uniform(0.8, 2.3)
        return nodule(rng, center, radius * np.exp(rng.normal(0.0, 0.3, 3)))
    extent = rng.uniform(4.0, 8.0 + 18.0 * size)
    path = _snapped_path(rng, course, tissue, where, extent / max(length, 1.0))
    if path is None:
        return None
    if form < 0.55:
        spots = interpolate_path(path, rng.uniform(0.0, 1.0, int(rng.integers(2, 6))))
        return joined([nodule(rng, spot, rng.uniform(0.5, 1.5, 3)) for spot in spots])
    return tube(
        rng,
        path,
        lumen_radius_mm=rng.uniform(0.3, 1.4),
        wall_mm=rng.uniform(0.5, 1.6),
        opening_deg=rng.uniform(60.0, 300.0),
    )


def _snapped_path(
    rng: np.random.Generator,
    course: NDArray[np.float64],
    tissue: TissueMap,
    where: float,
    extent: float,
) -> NDArray[np.float64] | None:
    """Three snapped points along a course, the outer ones drawn near the middle's offset."""
    fractions = np.clip(where + extent * np.array([-0.5, 0.0, 0.5]), 0.0, 1.0)
    annotated = interpolate_path(course, fractions)
    middle = snap_to_surface(rng, tissue, annotated[1])
    if middle is None:
        return None
    offset = middle - annotated[1]
    points = [middle]
    for index in (0, 2):
        end = snap_to_surface(rng, tissue, annotated[index] + offset, sigma_mm=1.0)
        points.insert(
            0 if index == 0 else len(points), annotated[index] + offset if end is None else end
        )
    return np.stack(points)
