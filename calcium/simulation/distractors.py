"""What looks like coronary calcium and scores zero.

Aortic wall and root, valve, mitral annulus, lymph nodes, bronchial cartilage, muscle
calcium, leads. Places come from the anatomy where it is known, else from heart units.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from calcium.simulation.anatomy import Anatomy
from calcium.simulation.coronaries import draw_peak_hu
from calcium.simulation.inserted import Insert
from calcium.simulation.placement import TissueMap
from calcium.simulation.plaques import interpolate_path, nodule, smeared, tube
from registration.geometry import transform_points

OSTIUM_DISTANCE_MM = 5.0
"""Distractors of named structures keep this far from courses [mm]: nearer, nobody can tell."""

COURSE_DISTANCE_MM = 12.0
"""Calcium of no named structure keeps this far from annotated courses [mm].

What it looks like is coronary calcium, and arteries of other people run some 10 mm away: nearer,
it would teach that plaque does not count off the few courses that are annotated.
"""

AORTA_SHARES = {"ascending": 0.45, "arch": 0.15, "descending": 0.35}
"""Share of patients with wall calcium in a part of the aorta (own choice)."""


def draw_distractors(
    rng: np.random.Generator,
    anatomy: Anatomy,
    tissue: TissueMap,
    to_unit: NDArray[np.float64],
    *,
    motion_mm: float = 0.0,
) -> list[Insert]:
    """Distractors of one patient.

    Args:
        rng: Source of randomness.
        anatomy: Anatomy of the scan; its coronary courses are kept clear of.
        tissue: Tissue of the scan.
        to_unit: Homogeneous map from scan LPS mm to heart units.
        motion_mm: Largest smear by motion, mm.

    Returns:
        Distractors, often none.
    """
    named = _aortic(rng, anatomy) + _annular(rng, anatomy)
    named += _mediastinal(rng, anatomy, tissue, to_unit) + _bronchial(rng, tissue, to_unit)
    nameless = _anywhere(rng, tissue, to_unit) + _muscular(rng, tissue, to_unit)
    inserts = [(insert, OSTIUM_DISTANCE_MM) for insert in named]
    inserts += [(insert, COURSE_DISTANCE_MM) for insert in nameless]
    inserts += [(insert, 0.0) for insert in _leads(rng, to_unit)]
    kept = []
    for insert, distance_mm in inserts:
        if _distance_mm(insert, anatomy.courses) < distance_mm:
            continue
        if motion_mm > 0.3 and not insert.is_metal:
            cloud = smeared(insert.cloud, rng, rng.uniform(0.2, 1.0) * motion_mm)
            insert = Insert(cloud, insert.peak_hu)
        kept.append(insert)
    return kept


def _distance_mm(insert: Insert, courses: Mapping[str, NDArray[np.float64]]) -> float:
    """Least distance of any part to a course's vertices or edges, mm; infinite without courses."""
    points = insert.cloud.points_mm[::5]
    distances = [np.inf]
    for course in courses.values():
        start, step = course[:-1], np.diff(course, axis=0)
        length = np.maximum((step**2).sum(1), 1e-9)
        along = ((points[:, None] - start) * step).sum(-1) / length
        nearest = start + np.clip(along, 0, 1)[..., None] * step
        distances.append(np.linalg.norm(points[:, None] - nearest, axis=-1).min())
    return float(min(distances))


def _ring(
    rng: np.random.Generator,
    center_mm: NDArray[np.float64],
    radius_mm: float,
    normal: NDArray[np.float64],
    extent_deg: float,
) -> NDArray[np.float64]:
    """Arc around a center, LPS mm, shape `(12, 3)`."""
    normal = normal / np.linalg.norm(normal)
    first = np.cross(normal, rng.normal(size=3))
    first /= np.linalg.norm(first)
    angle = rng.uniform(0, 2 * np.pi) + np.deg2rad(extent_deg) * np.linspace(-0.5, 0.5, 12)
    ring = np.outer(np.cos(angle), first) + np.outer(np.sin(angle), np.cross(normal, first))
    return np.asarray(center_mm + radius_mm * ring)


def _plate(rng: np.random.Generator, path: NDArray[np.float64], thickness_mm: float) -> Insert:
    """A thin bar along a path."""
    cloud = tube(rng, path, lumen_radius_mm=0.1, wall_mm=thickness_mm, opening_deg=360.0)
    return Insert(cloud, draw_peak_hu(rng, 0.35))


def _aortic(rng: np.random.Generator, anatomy: Anatomy) -> list[Insert]:
    """Wall calcium of the root, ascending aorta, arch and descending aorta."""
    inserts = []
    for name, path in anatomy.aorta.items():
        if rng.random() > AORTA_SHARES.get(name, 0.0):
            continue
        for _ in range(int(rng.integers(1, 5))):
            place = float(rng.beta(0.8, 1.6))
            center, ahead = interpolate_path(path, [place, place + 0.05])
            radius = anatomy.aorta_radii_mm[name] * rng.uniform(0.8, 1.15)
            normal = (ahead - center) / max(float(np.linalg.norm(ahead - center)), 1e-6)
            normal = normal + rng.normal(0.0, 0.25, 3)
            arc = _ring(rng, center, radius, normal, rng.uniform(5.0, 80.0))
            inserts.append(_plate(rng, arc, rng.uniform(0.4, 1.3)))
    return inserts


def _annular(rng: np.random.Generator, anatomy: Anatomy) -> list[Insert]:
    """Leaflets and annulus of the aortic valve, mitral annulus."""
    inserts = []
    if len(anatomy.valve_mm) and rng.random() < 0.4:
        for _ in range(int(rng.integers(1, 6))):
            spread = 0.45 * anatomy.valve_radius_mm
            center = anatomy.valve_mm[0] + rng.normal(0.0, [spread, spread, 4.0])
            cloud = nodule(rng, center, rng.uniform(0.6, 2.8, 3))
            inserts.append(Insert(cloud, draw_peak_hu(rng, 0.3)))
    if len(anatomy.mitral_ring_mm) > 2 and rng.random() < 0.35:
        ring = np.concatenate([anatomy.mitral_ring_mm, anatomy.mitral_ring_mm[:2]])
        ring = ring + rng.normal(0.0, 2.5, 3)
        for _ in range(int(rng.integers(1, 4))):
            start, extent = rng.uniform(0.0, 0.8), rng.uniform(0.03, 0.35)
            arc = interpolate_path(ring, np.linspace(start, min(start + extent, 1.0), 10))
            inserts.append(_plate(rng, arc, rng.uniform(0.7, 2.5)))
    return inserts


def _mediastinal(
    rng: np.random.Generator,
    anatomy: Anatomy,
    tissue: TissueMap,
    to_unit: NDArray[np.float64],
) -> list[Insert]:
    """Calcified nodes beside the airways, bronchial cartilage, specks in lung and liver."""
    inserts = []
    from_unit = np.linalg.inv(to_unit)
    if rng.random() < 0.3:
        for _ in range(int(rng.integers(1, 4))):
            unit = np.array([rng.uniform(-0.9, 0.9), rng.uniform(0.35, 1.2), rng.uniform(0.1, 1.1)])
            center = transform_points(from_unit, unit)
            inserts.append(
                Insert(nodule(rng, center, rng.uniform(0.8, 4.0, 3)), draw_peak_hu(rng, 0.3))
            )
    for name, radius in (("left_main_bronchus", 6.5), ("carina", 8.0)):
        if name in anatomy.landmarks and rng.random() < 0.2:
            normal = rng.normal(size=3)
            arc = _ring(rng, anatomy.landmarks[name], radius, normal, rng.uniform(20.0, 150.0))
            inserts.append(_plate(rng, arc, rng.uniform(0.4, 0.8)))
    if rng.random() < 0.25:
        for _ in range(int(rng.integers(1, 5))):
            unit = rng.normal(size=3)
            unit *= rng.uniform(0.9, 1.25) / np.linalg.norm(unit)
            center = transform_points(from_unit, unit)
            if tissue.surface_weight(center[None])[0] < 0.2:
                cloud = nodule(rng, center, rng.uniform(0.4, 1.5, 3))
                inserts.append(Insert(cloud, draw_peak_hu(rng, 0.6)))
    return inserts


def _bronchial(
    rng: np.random.Generator, tissue: TissueMap, to_unit: NDArray[np.float64]
) -> list[Insert]:
    """Calcified cartilage and hilar nodes: plates and clumps on airway walls."""
    if rng.random() > 0.35:
        return []
    matrix = (to_unit @ tissue.grid.index_to_physical_matrix)[:3]
    z, y, x = np.ogrid[tuple(slice(0, n) for n in tissue.grid.shape)]
    unit = [row[0] * x + row[1] * y + row[2] * z + row[3] for row in matrix]
    hilum = (unit[1] > 0.1) & (unit[1] < 1.2) & (np.abs(unit[0]) < 0.8) & (unit[2] > 0.0)
    inserts = []
    for point in tissue.airway_walls(rng, hilum, int(rng.integers(2, 12))):
        radii = rng.uniform(0.5, 3.0, 3) * np.array([1.0, 1.0, 1.4])
        inserts.append(Insert(nodule(rng, point, radii), draw_peak_hu(rng, 0.3)))
    return inserts


def _anywhere(
    rng: np.random.Generator, tissue: TissueMap, to_unit: NDArray[np.float64]
) -> list[Insert]:
    """Calcium of any kind off the heart's free surface, where unnamed branches may run."""
    if rng.random() > 0.5:
        return []
    from_unit = np.linalg.inv(to_unit)
    inserts = []
    for _ in range(int(rng.integers(1, 8))):
        unit = rng.uniform(-1.25, 1.25, 3)
        center = transform_points(from_unit, unit)
        near_heart = 0.5 < np.linalg.norm(unit) < 1.15
        if near_heart and unit[2] < 0.35 and tissue.surface_weight(center[None])[0] > 0:
            continue
        cloud = nodule(rng, center, rng.uniform(0.5, 2.8) * np.exp(rng.normal(0.0, 0.3, 3)))
        inserts.append(Insert(cloud, draw_peak_hu(rng, 0.4)))
    return inserts


def _muscular(
    rng: np.random.Generator, tissue: TissueMap, to_unit: NDArray[np.float64]
) -> list[Insert]:
    """Calcium deep in the heart: papillary muscle, infarct scar, chambers. It is rare."""
    if rng.random() > 0.08:
        return []
    from_unit = np.linalg.inv(to_unit)
    inserts = []
    for _ in range(int(rng.integers(1, 4))):
        unit = rng.uniform(-0.6, 0.6, 3)
        center = transform_points(from_unit, unit)
        # without fat to tell them apart, what lies farther out may be an artery
        if np.linalg.norm(unit) < 0.6 and tissue.interior_weight(center[None])[0] > 0:
            cloud = nodule(rng, center, rng.uniform(0.5, 2.5, 3))
            inserts.append(Insert(cloud, draw_peak_hu(rng, 0.4)))
    return inserts


def _leads(rng: np.random.Generator, to_unit: NDArray[np.float64]) -> list[Insert]:
    """A pacing lead from the superior vena cava to the right ventricle, or its coil."""
    if rng.random() > 0.06:
        return []
    unit = np.array([[-0.5, -0.1, 1.2], [-0.55, 0.0, 0.4], [-0.45, -0.2, -0.3], [0.2, -0.6, -0.7]])
    path = transform_points(np.linalg.inv(to_unit), unit + rng.normal(0.0, 0.12, unit.shape))
    cloud = tube(rng, path, lumen_radius_mm=0.05, wall_mm=rng.uniform(0.5, 1.1), opening_deg=360.0)
    peak = float(rng.uniform(1200.0, 3000.0))
    return [Insert(cloud, peak, is_metal=True)]
