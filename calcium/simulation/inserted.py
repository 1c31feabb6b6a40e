"""Calcium to be inserted: a particle cloud and the brightness it shall show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calcium.simulation.physics import Particles, Response, render_particles
from registration.geometry import ImageGrid

MAX_DENSITY_HU = 2600.0
"""Attenuation of the densest plaque before blur [HU] (dense hydroxyapatite at 120 kVp)."""

METAL_DENSITY_HU = 12000.0
"""Attenuation of metal before blur [HU]; the scanner clips it."""


@dataclass(frozen=True, slots=True)
class Insert:
    """One plaque or distractor.

    Args:
        cloud: Shape with unit density.
        peak_hu: Attenuation its brightest voxel shall show, HU.
        is_metal: Metal may be denser than calcium.
    """

    cloud: Particles
    peak_hu: float
    is_metal: bool = False


def insert_clouds(
    volume_hu: NDArray[np.float32],
    grid: ImageGrid,
    inserts: list[Insert],
    response: Response,
) -> NDArray[np.float32]:
    """Attenuation that inserts add to a scan.

    Density is scaled until the brightest voxel shows `peak_hu`, up to what calcium (or
    metal) can have: a speck far below the voxel size stays faint, as in life.

    Args:
        volume_hu: Background, HU, shape of `grid`; not changed.
        grid: Native grid.
        inserts: What to add.
        response: Blur of the acquisition.

    Returns:
        Added attenuation, HU, shape of `grid`; zeros for no inserts.
    """
    total = np.zeros(grid.shape, np.float32)
    for insert in inserts:
        patch, part = render_particles(insert.cloud, grid, response)
        if patch.size == 0 or patch.max() <= 0:
            continue
        bright = patch > 0.6 * patch.max()
        base = float(np.median(volume_hu[part][bright]))
        limit = METAL_DENSITY_HU if insert.is_metal else MAX_DENSITY_HU
        density = min(max(insert.peak_hu - base, 0.0) / float(patch.max()), limit)
        total[part] += patch * density
    return total
