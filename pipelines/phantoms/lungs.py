"""Lungs with their vessel trees, disease and fluid; the upper abdomen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.phantoms.mediastinum import LABELS
from pipelines.phantoms.shapes import Array, Canvas, TubeField
from pipelines.phantoms.thorax import Thorax

Points = NDArray[np.float64]

HILA = {-1.0: (-46.0, -6.0, -45.0), 1.0: (52.0, 0.0, -40.0)}
"""Where the vessels enter the right (-1) and left (+1) lung, mm."""


def paint_lungs(
    canvas: Canvas, thorax: Thorax, cavity: Array, mediastinum: Array, rng: np.random.Generator
) -> Array:
    """Paint lung tissue; returns the distance to the lungs, mm."""
    x, y, z = canvas.points
    above = thorax.diaphragm(canvas.points)
    lung = np.maximum(cavity, -mediastinum)
    np.maximum(lung, -above, out=lung)
    levels = np.arange(-300.0, 161.0, 4.0)
    spine_y = np.interp(z[:, 0, 0], levels, thorax.spine(levels)).astype(np.float32)
    column = np.sqrt((x / 19.0) ** 2 + ((y - spine_y[:, None, None] - 4.0) / 22.0) ** 2)
    np.maximum(lung, (1 - column) * 20.0, out=lung)
    tissue = _texture(canvas, thorax, rng)
    tissue += np.float32(0.45) * (y - 10)
    canvas.paint(canvas.whole, lung, tissue, LABELS["lung"])
    _paint_effusion(canvas, thorax, lung)
    _paint_tree(canvas, lung, rng)
    return lung


def _texture(canvas: Canvas, thorax: Thorax, rng: np.random.Generator) -> Array:
    """Lung tissue with mottling and, if diseased, dark holes."""
    shape = tuple(max(int(n * canvas.grid.spacing[0] / 7.0), 2) for n in canvas.grid.shape)
    coarse = rng.normal(0, 1, shape).astype(np.float32)
    holes = np.where(coarse > 0.9, -60.0 * thorax.emphysema, 0.0).astype(np.float32)
    values = thorax.lung_hu - 25 * thorax.emphysema + 14 * coarse + holes
    return _enlarge(values.astype(np.float32), canvas.grid.shape)


def _enlarge(coarse: Array, shape: tuple[int, ...]) -> Array:
    """Trilinear enlargement by matrix products."""
    result = coarse
    for axis, count in enumerate(shape):
        knots = coarse.shape[axis]
        where = np.linspace(0, knots - 1, count)
        weights = np.maximum(1 - np.abs(where[:, None] - np.arange(knots)[None]), 0)
        moved = np.tensordot(weights.astype(np.float32), result, axes=(1, axis))
        result = np.moveaxis(moved, 0, axis)
    return np.ascontiguousarray(result)


def _paint_effusion(canvas: Canvas, thorax: Thorax, lung: Array) -> None:
    x, y, z = canvas.points
    for side, depth in ((-1.0, thorax.effusion_mm[0]), (1.0, thorax.effusion_mm[1])):
        if depth <= 0:
            continue
        level = np.float32(88.0 - depth) - 0.12 * (z + 100)
        fluid = np.maximum(np.maximum(lung, level - y), -side * x)
        canvas.paint(canvas.whole, fluid, 12.0, LABELS["effusion"])


def _paint_tree(canvas: Canvas, lung: Array, rng: np.random.Generator) -> None:
    """Branching vessels from the hila to the pleura, kept inside the lungs."""
    tubes = TubeField(canvas)
    for side, hilum in HILA.items():
        for _ in range(11):
            heading = rng.normal(size=3) * (0.7, 0.9, 1.1) + (side * 0.8, 0.1, -0.1)
            _grow(tubes, np.array(hilum), heading, rng.uniform(2.6, 4.6), 4, rng)
    tubes.distance = np.maximum(tubes.distance, lung + np.float32(1.5))
    tubes.paint(30.0)


def _grow(
    tubes: TubeField, start: Points, heading: Points, radius_mm: float, depth: int,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    direction = heading / np.linalg.norm(heading)
    length = rng.uniform(14, 26) * (radius_mm / 3) ** 0.35
    stop = start + direction * length
    tubes.add(np.stack([start, stop]), np.array([radius_mm, radius_mm * 0.8]), 2.5)
    if depth == 0:
        return
    for share in (0.8, 0.62):
        turn = direction + rng.normal(size=3) * 0.45
        _grow(tubes, stop, turn, radius_mm * share, depth - 1, rng)


def paint_abdomen(canvas: Canvas, thorax: Thorax, cavity: Array, rng: np.random.Generator) -> None:
    """Paint liver, stomach with gas, spleen and fat below the diaphragm."""
    x, y, z = canvas.points
    below = thorax.diaphragm(canvas.points)
    inside = np.maximum(below, cavity)
    if not np.any(inside < 0):
        return
    canvas.paint(canvas.whole, inside, 45.0, LABELS["abdomen"])
    canvas.paint(canvas.whole, inside + 3.0, -92.0, LABELS["abdomen"])
    liver_edge = x - 38 - 0.35 * (y + 60) + 0.25 * (z + 130)
    deep = np.maximum(inside + np.float32(3.0), liver_edge.astype(np.float32))
    canvas.paint(canvas.whole, deep, rng.uniform(48, 64), LABELS["liver"])
    height = thorax.diaphragm_mm
    spleen = (98.0, 42.0, -172.0 + height)
    canvas.paint_ellipsoid(spleen, (26, 40, 38), 48.0, LABELS["abdomen"])
    stomach = np.array([62.0, -12.0, -168.0 + height])
    canvas.paint_ellipsoid(stomach, (36, 44, 36), 35.0, LABELS["abdomen"])
    gas = stomach + np.array([2.0, -16.0, 4.0])
    canvas.paint_ellipsoid(gas, (24, 22, 22), -960.0, LABELS["abdomen"])
