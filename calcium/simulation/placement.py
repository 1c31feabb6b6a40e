"""Where plaque may sit: on the heart's surface along a course known to some millimeters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from registration.geometry import ImageGrid

SEARCH_RADIUS_MM = 6.0
"""How far a plaque may be drawn from the annotated course [mm]: courses are good to some 5 mm."""

FAT_BELOW_HU = -25.0
"""Smoothed attenuation under which a voxel is epicardial fat [HU]."""

LUNG_BELOW_HU = -250.0
"""Smoothed attenuation under which a voxel is lung or air [HU]."""

AIR_BELOW_HU = -600.0
"""Smoothed attenuation under which a voxel is an airway's lumen or lung [HU]."""

BRIGHT_ABOVE_HU = 110.0
"""Smoothed attenuation above which a voxel is bone, calcium or metal already [HU]."""


class TissueMap:
    """Smoothed tissue classes of a volume, looked up around points.

    Args:
        volume_hu: Attenuation, HU, shape of `grid`.
        grid: Axis-aligned grid.
    """

    def __init__(self, volume_hu: NDArray[np.float32], grid: ImageGrid) -> None:
        sigma = [0.0, 1.0 / grid.spacing[1], 1.0 / grid.spacing[0]]
        smooth = ndimage.gaussian_filter(volume_hu, sigma, truncate=2.5)
        self.grid = grid
        self.fat = (smooth < FAT_BELOW_HU) & (smooth > LUNG_BELOW_HU)
        self.soft = (smooth >= FAT_BELOW_HU) & (smooth < BRIGHT_ABOVE_HU)
        self.bright = smooth >= BRIGHT_ABOVE_HU
        self.air = smooth < AIR_BELOW_HU
        reach = [0, round(2.5 / grid.spacing[1]), round(2.5 / grid.spacing[0])]
        size = [2 * r + 1 for r in reach]
        self.near_fat = ndimage.maximum_filter(self.fat.view(np.uint8), size).view(bool)

    def surface_weight(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """How likely a coronary artery runs through points, from 0 to 1, shape `(n,)`."""
        index = np.round(self.grid.indices(points_mm)).astype(int)
        inside = np.all((index >= 0) & (index < np.array(self.grid.size)), axis=-1)
        x, y, z = np.where(inside[:, None], index, 0).T
        soft, fat, near = self.soft[z, y, x], self.fat[z, y, x], self.near_fat[z, y, x]
        weight = np.where(soft & near, 1.0, np.where(fat, 0.45, np.where(soft, 0.08, 0.0)))
        return np.asarray(np.where(inside & ~self.bright[z, y, x], weight, 0.0))

    def interior_weight(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """1 for points in soft tissue away from fat (wall, valve, muscle), else 0."""
        index = np.round(self.grid.indices(points_mm)).astype(int)
        inside = np.all((index >= 0) & (index < np.array(self.grid.size)), axis=-1)
        x, y, z = np.where(inside[:, None], index, 0).T
        return np.asarray((self.soft[z, y, x] & ~self.near_fat[z, y, x] & inside).astype(float))

    def airway_walls(
        self, rng: np.random.Generator, inside: NDArray[np.bool_], count: int
    ) -> NDArray[np.float64]:
        """Random points where soft tissue borders air, LPS mm, shape `(up to count, 3)`.

        Args:
            rng: Source of randomness.
            inside: Where to look, shape of the grid.
            count: Points wanted.
        """
        reach = [0, round(2.0 / self.grid.spacing[1]), round(2.0 / self.grid.spacing[0])]
        size = [2 * r + 1 for r in reach]
        near = ndimage.maximum_filter(self.air.view(np.uint8), size).view(bool)
        found = np.flatnonzero(near & (self.soft | self.fat) & inside)
        if len(found) == 0:
            return np.zeros((0, 3))
        z, y, x = np.unravel_index(rng.choice(found, count), near.shape)
        return self.grid.physical_points(np.stack([x, y, z], axis=1))


def snap_to_surface(
    rng: np.random.Generator,
    tissue: TissueMap,
    point_mm: NDArray[np.float64],
    *,
    sigma_mm: float = 2.8,
    trials: int = 60,
) -> NDArray[np.float64] | None:
    """Draw a likely vessel position near a point of an annotated course.

    Args:
        rng: Source of randomness.
        tissue: Tissue around.
        point_mm: Annotated point, LPS mm, shape `(3,)`.
        sigma_mm: Standard deviation of the annotation per axis, mm.
        trials: Positions drawn, one of which is chosen by its weight.

    Returns:
        LPS point, or `None` if nothing near is heart surface (lung, bone, outside).
    """
    offset = rng.normal(0.0, sigma_mm, (trials, 3))
    offset = offset[np.linalg.norm(offset, axis=1) <= SEARCH_RADIUS_MM]
    points = point_mm + offset
    weight = tissue.surface_weight(points)
    if weight.sum() <= 0:
        return None
    return np.asarray(points[rng.choice(len(points), p=weight / weight.sum())])
