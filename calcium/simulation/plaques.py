"""Shapes of calcium as particle clouds: specks, nodules, plates along a vessel, arcs."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calcium.simulation.physics import Particles

PARTICLE_VOLUME_MM3 = 0.12
"""Volume one particle stands for [mm³]: its spacing is far below any point spread."""

MAX_PARTICLES = 500
"""Clouds beyond this many particles are thinned, mass kept."""


def nodule(rng: np.random.Generator, center_mm: ArrayLike, radii_mm: ArrayLike) -> Particles:
    """Solid ellipsoid of unit density, so that the masses sum to its volume in mm³.

    Args:
        rng: Source of randomness.
        center_mm: Center, LPS mm.
        radii_mm: Half axes along LPS, mm.

    Returns:
        Particles with masses in mm³ (times 1 HU).
    """
    radii = np.asarray(radii_mm, dtype=float)
    volume = 4.0 / 3.0 * np.pi * float(np.prod(radii))
    count = int(np.clip(volume / PARTICLE_VOLUME_MM3, 1, MAX_PARTICLES))
    direction = rng.normal(size=(count, 3))
    direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-9)
    radius = rng.uniform(0.0, 1.0, (count, 1)) ** (1.0 / 3.0)
    points = np.asarray(center_mm, dtype=float) + direction * radius * radii
    return Particles(points, np.full(count, volume / count))


def tube(
    rng: np.random.Generator,
    path_mm: NDArray[np.float64],
    *,
    lumen_radius_mm: float,
    wall_mm: float,
    opening_deg: float,
) -> Particles:
    """Calcified part of a vessel wall along a path, unit density.

    Args:
        rng: Source of randomness.
        path_mm: Center line, LPS mm, shape `(n, 3)`, two points at least.
        lumen_radius_mm: Inner radius of the calcified wall, mm.
        wall_mm: Thickness of the calcified wall, mm.
        opening_deg: Arc of the circumference that is calcified, degrees, up to 360.

    Returns:
        Particles with masses in mm³ (times 1 HU).
    """
    length = float(np.linalg.norm(np.diff(path_mm, axis=0), axis=1).sum())
    arc = np.deg2rad(opening_deg)
    area = arc / 2 * ((lumen_radius_mm + wall_mm) ** 2 - lumen_radius_mm**2)
    count = int(np.clip(length * area / PARTICLE_VOLUME_MM3, 4, MAX_PARTICLES))
    along = rng.uniform(0.0, 1.0, count)
    center = interpolate_path(path_mm, along)
    tangent = interpolate_path(path_mm, np.clip(along + 0.02, 0, 1.02)) - interpolate_path(
        path_mm, np.clip(along - 0.02, -0.02, 1)
    )
    first, second = _normals(tangent)
    start = rng.uniform(0, 2 * np.pi) + rng.normal(0.0, 0.3) * along
    angle = start + arc * rng.uniform(-0.5, 0.5, count)
    radius = lumen_radius_mm + wall_mm * rng.uniform(0.0, 1.0, count)
    ring = first * np.cos(angle)[:, None] + second * np.sin(angle)[:, None]
    return Particles(center + ring * radius[:, None], np.full(count, length * area / count))


def smeared(
    particles: Particles, rng: np.random.Generator, extent_mm: float, *, copies: int = 7
) -> Particles:
    """Motion during the rotation: the cloud spread along a bent in-plane path, mass kept.

    Args:
        particles: The cloud at rest.
        rng: Source of randomness.
        extent_mm: Length of the path, mm.
        copies: Positions along the path.
    """
    heading = rng.uniform(0, 2 * np.pi)
    bend = rng.normal(0.0, 0.8)
    time = np.linspace(-0.5, 0.5, copies)
    angle = heading + bend * time
    track = np.stack([np.cos(angle), np.sin(angle), np.zeros(copies)], axis=1)
    track = track * (time * extent_mm)[:, None]
    dwell = rng.dirichlet(np.full(copies, 2.0))
    points = (particles.points_mm[None] + track[:, None]).reshape(-1, 3)
    return Particles(points, (dwell[:, None] * particles.masses).ravel())


def joined(clouds: list[Particles]) -> Particles:
    """All particles of several clouds; an empty list gives an empty cloud."""
    if not clouds:
        return Particles(np.zeros((0, 3)), np.zeros(0))
    return Particles(
        np.concatenate([c.points_mm for c in clouds]), np.concatenate([c.masses for c in clouds])
    )


def interpolate_path(path_mm: NDArray[np.float64], fraction: ArrayLike) -> NDArray[np.float64]:
    """Points at fractions of a path's length; beyond its ends, the end segments go on.

    Args:
        path_mm: Vertices, LPS mm, shape `(n, 3)`.
        fraction: Shares of the length, shape `(m,)`.

    Returns:
        Points, LPS mm, shape `(m, 3)`.
    """
    path = np.asarray(path_mm, dtype=float)
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    position = np.asarray(fraction, dtype=float) * length[-1]
    segment = np.clip(np.searchsorted(length, position, side="right") - 1, 0, len(path) - 2)
    step = np.maximum(length[segment + 1] - length[segment], 1e-9)
    share = ((position - length[segment]) / step)[:, None]
    return np.asarray(path[segment] * (1 - share) + path[segment + 1] * share)


def _normals(tangent: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two unit vectors across each tangent, turning smoothly along a path."""
    unit = tangent / np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    mean = unit.mean(0)
    helper = np.eye(3)[int(np.argmin(np.abs(mean)))]
    first = np.cross(unit, helper)
    first /= np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-9)
    return first, np.cross(unit, first)
