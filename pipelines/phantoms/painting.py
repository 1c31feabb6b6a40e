"""Paints one subject on a canvas, back to front."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.phantoms.acquisition import render_grid
from pipelines.phantoms.artifacts import blur_moving_heart
from pipelines.phantoms.heart import CORONARY_RADII_MM, HEART_BOTTOM
from pipelines.phantoms.lungs import paint_abdomen, paint_lungs
from pipelines.phantoms.mediastinum import (
    LABELS,
    label_root,
    mediastinum_distance,
    paint_airways,
    paint_coronaries,
    paint_heart,
    paint_vessels,
)
from pipelines.phantoms.settings import PhantomSettings
from pipelines.phantoms.shapes import Canvas
from pipelines.phantoms.subject import Subject
from pipelines.phantoms.thorax import body_fields, paint_bones, paint_glands, paint_walls

Points = NDArray[np.float64]
DEFAULT_SPACING_MM = {"cardiac": 1.2, "chest": 1.6}
"""Voxel size of the canvas."""


def paint_subject(
    subject: Subject, kind: str, settings: PhantomSettings, rng: np.random.Generator
) -> tuple[Canvas, dict[str, Points]]:
    """Paint a subject without calcium or noise.

    Returns:
        The canvas, and the coronary centerlines in scanner LPS mm.
    """
    spacing = settings.render_spacing_mm or DEFAULT_SPACING_MM[kind]
    pose, heart, thorax = subject.pose, subject.heart, subject.thorax
    canvas = Canvas(render_grid(subject.sampling, spacing), pose.to_anatomy, pose.to_scanner)
    _paint_table(canvas, subject)
    bottom = heart.place(HEART_BOTTOM).tolist()
    fields = body_fields(canvas, thorax, bottom)
    paint_walls(canvas, fields)
    if thorax.female:
        paint_glands(canvas, thorax, rng)
    mediastinum = mediastinum_distance(canvas, heart, thorax)
    paint_abdomen(canvas, thorax, fields, bottom[2], rng)
    paint_lungs(canvas, thorax, fields, mediastinum, rng)
    del fields, mediastinum
    paint_bones(canvas, thorax)
    lines = heart.coronaries()
    paint_heart(canvas, heart, subject.blood_hu, subject.muscle_hu)
    paint_vessels(canvas, heart, subject.blood_hu)
    label_root(canvas, heart)
    paint_coronaries(canvas, lines, CORONARY_RADII_MM, subject.blood_hu)
    paint_airways(canvas)
    if kind == "chest":
        blur_moving_heart(canvas, heart, subject.motion_mm)
    return canvas, {name: pose.to_scanner(line) for name, line in lines.items()}


def _paint_table(canvas: Canvas, subject: Subject) -> None:
    """The table top, curved, a little below the back; scanner axes."""
    grid = canvas.grid
    thick = 10.0 + subject.thorax.muscle * 14 + subject.thorax.fat_mm * 0.6
    back = np.array([[0.0, 90.0 + thick + 14.0, -60.0]])
    low = subject.pose.to_scanner(back)[0]
    x = (grid.origin[0] + grid.spacing[0] * np.arange(grid.size[0]) - low[0]).astype(np.float32)
    y = (grid.origin[1] + grid.spacing[1] * np.arange(grid.size[1]) - low[1]).astype(np.float32)
    depth = y[:, None] + x[None] ** 2 / 900.0
    shell = np.abs(depth) - 1.5
    sheet = np.maximum(shell, np.abs(x)[None] - 220.0)
    box = canvas.whole
    canvas.paint(box, np.broadcast_to(sheet, grid.shape), 60.0, LABELS["table"])
