"""Lungs with their vessel trees, disease and fluid; the upper abdomen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.phantoms.mediastinum import LABELS
from pipelines.phantoms.shapes import Array, Box, Canvas, TubeField, ellipsoid, refine
from pipelines.phantoms.thorax import Fields, Thorax

Points = NDArray[np.float64]

HILA = {-1.0: (-46.0, -6.0, -45.0), 1.0: (52.0, 0.0, -40.0)}
"""Where the vessels enter the right (-1) and left (+1) lung, mm."""

TREE_ROOTS, TREE_DEPTH = 17, 4
"""Vessels that start at each hilum, and how often each divides."""


def paint_lungs(
    canvas: Canvas, thorax: Thorax, fields: Fields, mediastinum: Array, rng: np.random.Generator
) -> None:
    """Paint lung tissue, vessels in it, and fluid behind it."""
    lung = np.maximum(fields.cavity, -mediastinum)
    np.maximum(lung, -fields.diaphragm, out=lung)
    np.maximum(lung, -fields.column, out=lung)
    tissue = _texture(canvas, thorax, rng) + np.float32(0.45) * (canvas.points[1] - 10)
    canvas.paint(canvas.whole, lung, tissue, LABELS["lung"])
    _paint_effusion(canvas, thorax, lung)
    _paint_tree(canvas, lung, rng)


def _texture(canvas: Canvas, thorax: Thorax, rng: np.random.Generator) -> Array:
    """Lung tissue with mottling and, if diseased, dark holes."""
    shape = tuple(max(int(n * canvas.grid.spacing[0] / 7.0), 2) for n in canvas.grid.shape)
    coarse = rng.normal(0, 1, shape).astype(np.float32)
    holes = np.where(coarse > 0.9, -60.0 * thorax.emphysema, 0.0)
    values = thorax.lung_hu - 25 * thorax.emphysema + 14 * coarse + holes
    return refine(values, canvas.grid.shape)


def _paint_effusion(canvas: Canvas, thorax: Thorax, lung: Array) -> None:
    if max(thorax.effusion_mm) <= 0:
        return
    x, y, z = canvas.points
    for side, depth in ((-1.0, thorax.effusion_mm[0]), (1.0, thorax.effusion_mm[1])):
        if depth > 0:
            level = np.float32(84.0 - depth) + np.float32(0.25) * (z + 90)
            fluid = np.maximum(np.maximum(lung, level - y), -np.float32(side) * x)
            canvas.paint(canvas.whole, fluid, 12.0, LABELS["effusion"])


def _paint_tree(canvas: Canvas, lung: Array, rng: np.random.Generator) -> None:
    """Branching vessels from the hila to the pleura, kept inside the lungs."""
    segments: list[tuple[Points, Points, float, float]] = []
    for side, hilum in HILA.items():
        for _ in range(TREE_ROOTS):
            heading = rng.normal(size=3) * (0.7, 0.9, 1.1) + (side * 0.8, 0.1, -0.1)
            _grow(segments, np.array(hilum), heading, rng.uniform(2.4, 4.4), TREE_DEPTH, rng)
    starts, stops, first, last = (np.array(part) for part in zip(*segments, strict=True))
    tubes = TubeField(canvas)
    tubes.add_segments(starts, stops, first, last, 2.0)
    tubes.distance = np.maximum(tubes.distance, lung + np.float32(1.0))
    tubes.paint(30.0)


def _grow(
    segments: list[tuple[Points, Points, float, float]],
    start: Points,
    heading: Points,
    radius_mm: float,
    depth: int,
    rng: np.random.Generator,
) -> None:
    """Append a vessel and its branches as (start, stop, radius at start, at stop), mm."""
    direction = heading / np.linalg.norm(heading)
    length = rng.uniform(14, 26) * (radius_mm / 3) ** 0.35
    stop = start + direction * length
    segments.append((start, stop, radius_mm, radius_mm * 0.8))
    if depth == 0:
        return
    for share in (0.8, 0.62):
        turn = direction + rng.normal(size=3) * 0.45
        _grow(segments, stop, turn, radius_mm * share, depth - 1, rng)


def paint_abdomen(
    canvas: Canvas, thorax: Thorax, fields: Fields, bottom_mm: float, rng: np.random.Generator
) -> None:
    """Paint liver, stomach with gas, spleen, bowel and fat below the diaphragm.

    Args:
        canvas: Where to paint.
        thorax: The chest.
        fields: Its surfaces.
        bottom_mm: Height (z) at which the heart rests on the diaphragm.
        rng: Draws attenuation and gas.
    """
    inside = np.maximum(fields.diaphragm, fields.cavity)
    liver_hu, left_mm = rng.uniform(46, 64), rng.uniform(35, 70)
    gas_mm, blobs = rng.uniform(10, 32), _bowel(bottom_mm, rng)
    slices = np.flatnonzero(inside.min(axis=(1, 2)) < canvas.grid.spacing[0])
    if len(slices) == 0:
        return
    box: Box = (slice(int(slices[0]), int(slices[-1]) + 1), slice(None), slice(None))
    canvas.paint(box, inside[box], 45.0, LABELS["abdomen"])
    inside += np.float32(3.0)
    canvas.paint(box, inside[box], -92.0, LABELS["abdomen"])
    height = bottom_mm + thorax.diaphragm_mm
    blobs += [
        ((88.0, 46.0, height - 48), (28, 36, 40), 48.0),
        ((66.0, -12.0, height - 46), (44, 56, 40), 35.0),
        ((70.0, -20.0, height - 122), (48, 40, 44), 20.0),
        ((48.0, 48.0, height - 110), (26, 28, 50), 32.0),
        ((64.0, -34.0, height - 38), (gas_mm, 20, 18), -960.0),
    ]
    for blob in blobs:
        _paint_within(canvas, inside, *blob)
    x, y, z = canvas.local(box)
    lobe = 5 + np.float32(left_mm) * np.exp(-(((y + 58) / 52) ** 2))
    edge = np.float32(0.8) * (x - lobe - np.float32(0.3) * (z - np.float32(bottom_mm)))
    canvas.paint(box, np.maximum(inside[box], edge), liver_hu, LABELS["liver"])


Blob = tuple[tuple[float, float, float], tuple[float, float, float], float]
"""Center and radii of an ellipsoid in mm, and its attenuation in HU."""


def _bowel(bottom_mm: float, rng: np.random.Generator) -> list[Blob]:
    """Loops of bowel, some with gas, left below the diaphragm."""
    loops: list[Blob] = []
    for _ in range(18):
        x, y, z = rng.uniform((-20, -75, bottom_mm - 130), (105, 60, bottom_mm - 25)).tolist()
        a, b, c = rng.uniform(8, 20, 3).tolist()
        hu = rng.uniform(5, 45) if rng.random() < 0.8 else -900.0
        loops.append(((x, y, z), (a, b, c), hu))
    return loops


def _paint_within(
    canvas: Canvas,
    within: Array,
    center: tuple[float, float, float],
    radii: tuple[float, float, float],
    hu: float,
) -> None:
    """Paint an ellipsoid where `within`, a distance over the whole canvas, is negative."""
    box = canvas.box(np.array(center) - radii, np.array(center) + radii)
    if box is not None:
        shape = ellipsoid(canvas.local(box), center, radii)
        canvas.paint(box, np.maximum(shape, within[box]), hu, LABELS["abdomen"])
