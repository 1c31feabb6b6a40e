"""Calcium and metal as clouds of points, integrated exactly into the final pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.phantoms.acquisition import Sampling
from pipelines.phantoms.shapes import Array

Points = NDArray[np.float64]

HU_PER_HYDROXYAPATITE = {80: 1.95, 100: 1.56, 120: 1.30, 140: 1.14}
"""HU per mg/cm³ of hydroxyapatite, by tube voltage (kV).

At 120 kV a 200 mg/cm³ calibration insert reads near 260 HU, the reciprocal of the usual
mass calibration factor of about 0.77 mg/(cm³ HU) (McCollough et al., Radiology
2007;243:527-538); other voltages scaled as hydroxyapatite does over water, rounded.
"""

_CELL_MM = 18.0
"""Clouds are deposited in cells of this size, to keep the boxes small."""


@dataclass(frozen=True, slots=True)
class Cloud:
    """Points that stand for a piece of dense material.

    Args:
        points: Positions, scanner LPS mm, shape `(n, 3)`.
        contrast: HU above the surroundings times volume of each point, HU mm³, shape `(n,)`.
    """

    points: Points
    contrast: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Patch:
    """Added HU on a box of the final grid.

    Args:
        start: Index of the first voxel, z, y, x.
        hu: Added HU, shape `(z, y, x)`.
    """

    start: tuple[int, int, int]
    hu: Array

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """Slices of the final grid that the patch covers."""
        z, y, x = (slice(s, s + n) for s, n in zip(self.start, self.hu.shape, strict=True))
        return z, y, x


def deposit(cloud: Cloud, sampling: Sampling) -> list[Patch]:
    """Blur a cloud by point spread and slice profile, and sample it at pixel centers.

    No voxel grid lies between the points and the pixels, so a speck far smaller than a
    pixel keeps its mass.

    Returns:
        Patches to add; they may overlap. Empty if the cloud lies outside the grid.
    """
    patches = []
    cells = np.floor(cloud.points / _CELL_MM).astype(int)
    _, group = np.unique(cells, axis=0, return_inverse=True)
    group = group.reshape(-1)
    for number in range(int(group.max()) + 1 if len(group) else 0):
        chosen = group == number
        patch = _deposit_cell(cloud.points[chosen], cloud.contrast[chosen], sampling)
        if patch is not None:
            patches.append(patch)
    return patches


def _deposit_cell(
    points: Points, contrast: NDArray[np.float64], sampling: Sampling
) -> Patch | None:
    grid = sampling.grid
    reach, origin, spacing = sampling.reach_mm(), np.array(grid.origin), np.array(grid.spacing)
    first = np.ceil((points.min(axis=0) - reach - origin) / spacing).astype(int)
    last = np.floor((points.max(axis=0) + reach - origin) / spacing).astype(int)
    first, last = np.maximum(first, 0), np.minimum(last, np.array(grid.size) - 1)
    if np.any(first > last):
        return None
    axes = [origin[k] + spacing[k] * np.arange(first[k], last[k] + 1) for k in range(3)]
    wx = sampling.line_spread(axes[0][None] - points[:, :1])
    wy = sampling.line_spread(axes[1][None] - points[:, 1:2])
    wz = sampling.slice_profile(axes[2][None] - points[:, 2:]) * contrast[:, None]
    planes = (wz[:, :, None] * wy[:, None, :]).reshape(len(points), -1).astype(np.float32)
    hu = (planes.T @ wx.astype(np.float32)).reshape(wz.shape[1], wy.shape[1], wx.shape[1])
    return Patch((int(first[2]), int(first[1]), int(first[0])), hu)


def smear(
    cloud: Cloud, motion_mm: NDArray[np.float64], steps: int, rng: np.random.Generator
) -> Cloud:
    """Spread a cloud along the path it took during the exposure, its mass unchanged.

    Args:
        cloud: The cloud at rest.
        motion_mm: Displacement from start to end, shape `(3,)`.
        steps: Positions along the path.
        rng: Draws the bow of the path.
    """
    if np.linalg.norm(motion_mm) < 0.15:
        return cloud
    t = np.linspace(-0.5, 0.5, steps)
    bow = np.cross(motion_mm, [0, 0, 1.0]) * rng.uniform(-0.4, 0.4)
    path = t[:, None] * motion_mm + (0.25 - t[:, None] ** 2) * bow
    points = (cloud.points[None] + path[:, None]).reshape(-1, 3)
    return Cloud(points, np.tile(cloud.contrast / steps, steps))
