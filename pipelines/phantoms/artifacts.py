"""What motion and metal do to an image, beyond blur."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.phantoms.acquisition import Sampling
from pipelines.phantoms.deposit import Cloud
from pipelines.phantoms.heart import Heart
from pipelines.phantoms.mediastinum import sac_distance
from pipelines.phantoms.shapes import Array, Canvas, refine

Points = NDArray[np.float64]

_STREAK_REACH_MM = 70.0
"""Streaks are drawn this far from their source."""


def blur_moving_heart(canvas: Canvas, heart: Heart, motion_mm: Points) -> None:
    """Average the heart over the positions it took during a non-gated exposure.

    The weight falls to zero within a few millimeters outside the pericardium, so that ribs
    and sternum stay sharp.
    """
    if np.linalg.norm(motion_mm) < 0.5:
        return
    box = canvas.box(*heart.bounds(20.0))
    if box is None:
        return
    rough = canvas.coarse(5.0, box)
    view = canvas.hu[box]
    sac = refine(sac_distance(heart, rough.points), view.shape)
    weight = np.clip(np.float32(0.6) - sac / np.float32(12.0), 0, 1)
    step = motion_mm[::-1] / canvas.grid.spacing[0]
    moved = [
        ndimage.shift(view, part * step, order=1, mode="nearest")
        for part in (-0.5, -0.17, 0.17, 0.5)
    ]
    view += weight * (np.mean(moved, axis=0, dtype=np.float32) - view)


def add_streaks(
    hu: Array, cloud: Cloud, sampling: Sampling, strength_hu: float, rng: np.random.Generator
) -> None:
    """Add dark and bright rays around a dense cloud, slice by slice, in place.

    Args:
        hu: Image on the final grid, shape `(z, y, x)`.
        cloud: The metal or moving calcium that causes them.
        sampling: The final grid and its slice profile.
        strength_hu: Amplitude beside the source.
        rng: Draws direction and number of the rays.
    """
    grid = sampling.grid
    rays, phase = int(rng.integers(3, 8)), rng.uniform(0, 2 * np.pi)
    heights = grid.origin[2] + grid.spacing[2] * np.arange(grid.size[2])
    share = sampling.slice_profile(heights[:, None] - cloud.points[None, :, 2]) * cloud.contrast
    amount = share.sum(axis=1)
    if amount.max() <= 0:
        return
    for k in np.flatnonzero(amount > 0.02 * amount.max()):
        x, y = share[k] @ cloud.points[:, :2] / amount[k]
        turn = phase + 0.9 * k
        _add_rays(hu[k], grid.indices([[x, y, heights[k]]])[0], grid.spacing[0], rays, turn,
                  strength_hu * float(amount[k] / amount.max()))  # fmt: skip


def _add_rays(
    plane: Array, index: Points, pixel_mm: float, rays: int, turn: float, strength_hu: float
) -> None:
    reach = int(_STREAK_REACH_MM / pixel_mm)
    columns, rows = round(float(index[0])), round(float(index[1]))
    y0, y1 = max(rows - reach, 0), min(rows + reach + 1, plane.shape[0])
    x0, x1 = max(columns - reach, 0), min(columns + reach + 1, plane.shape[1])
    if y0 >= y1 or x0 >= x1:
        return
    dy = (np.arange(y0, y1, dtype=np.float32) - np.float32(index[1]))[:, None] * pixel_mm
    dx = (np.arange(x0, x1, dtype=np.float32) - np.float32(index[0]))[None] * pixel_mm
    radius = np.hypot(dx, dy)
    wave = np.cos(rays * np.arctan2(dy, dx) + np.float32(turn))
    fade = np.exp(-radius / np.float32(0.35 * _STREAK_REACH_MM)) * np.minimum(radius / 4, 1)
    plane[y0:y1, x0:x1] += (strength_hu * wave**3 * fade).astype(np.float32)
