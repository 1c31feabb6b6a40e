"""The `AlignmentVolume`: a scan reduced to what finding the heart needs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

from registration.geometry import ImageGrid


@dataclass(frozen=True, slots=True)
class AlignmentVolume:
    """Clipped, anti-aliased, axis-aligned attenuation with its field of view.

    Args:
        hu: Attenuation in HU, clipped, float32, shape `grid.shape`; the lower clip value
            wherever `valid` is 0.
        valid: 1 inside the reconstructed field of view and 0 outside, float32, same shape.
        grid: The lattice, axes along L, P and S.
        start_mm: LPS point from which a search for the heart may start.
        wide: True if the start is the centroid of the lungs rather than the middle of
            a field of view too tight to hold them.
    """

    hu: NDArray[np.float32]
    valid: NDArray[np.float32]
    grid: ImageGrid
    start_mm: tuple[float, float, float]
    wide: bool
    _smoothed: dict[float, NDArray[np.float32]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def cropped(self, center_mm: ArrayLike, half_mm: float) -> AlignmentVolume:
        """The part within a cube about a point, or within reach of its nearest voxel.

        Args:
            center_mm: Middle of the cube, LPS mm.
            half_mm: Half the edge of the cube, mm.
        """
        center = np.asarray(center_mm, dtype=float)
        last = np.array(self.grid.size) - 1
        ends = self.grid.indices(np.stack([center - half_mm, center + half_mm]))
        low = np.clip(np.floor(ends[0]), 0, last).astype(int)
        high = np.clip(np.ceil(ends[1]), 0, last).astype(int)
        part = tuple(slice(a, b + 1) for a, b in zip(low[::-1], high[::-1], strict=True))
        origin = self.grid.physical_points(low)
        grid = ImageGrid(
            tuple(int(n) for n in high - low + 1), self.grid.spacing, tuple(origin.tolist())
        )
        return AlignmentVolume(
            np.ascontiguousarray(self.hu[part]),
            np.ascontiguousarray(self.valid[part]),
            grid,
            self.start_mm,
            self.wide,
        )

    def halved(self) -> AlignmentVolume:
        """Means of two voxels along every axis, an odd last one left out.

        Voxels outside the field of view do not count; a mean counts as covered if at least
        half of its voxels are.
        """
        z, y, x = (max(1, n // 2) for n in self.grid.shape)
        if min(self.grid.shape) < 2:
            return self
        blocks = (z, 2, y, 2, x, 2)
        part = np.s_[: 2 * z, : 2 * y, : 2 * x]
        weight = self.valid[part].reshape(blocks).sum(axis=(1, 3, 5))
        total = (self.hu * self.valid)[part].reshape(blocks).sum(axis=(1, 3, 5))
        hu = np.where(weight > 0, total / np.maximum(weight, 1.0), self.hu.min())
        grid = ImageGrid(
            (x, y, z),
            tuple(2.0 * spacing for spacing in self.grid.spacing),
            tuple(self.grid.physical_points([0.5, 0.5, 0.5]).tolist()),
        )
        valid = (weight >= 4.0).astype(np.float32)
        return AlignmentVolume(hu.astype(np.float32), valid, grid, self.start_mm, self.wide)

    def smoothed(self, sigma_mm: float) -> NDArray[np.float32]:
        """Gaussian-smoothed attenuation that ignores what lies outside the field of view.

        Args:
            sigma_mm: Standard deviation, mm; 0 returns `hu` itself.

        Returns:
            HU, shape `grid.shape`; the lower clip value far outside the field of view. The
            array is kept and given again: it must not be written to.
        """
        if sigma_mm <= 0:
            return self.hu
        if sigma_mm not in self._smoothed:
            floor = np.float32(self.hu.min())
            weighted = _smooth((self.hu - floor) * self.valid, self.grid, sigma_mm)
            if not self.valid.all():
                weighted /= np.maximum(_smooth(self.valid, self.grid, sigma_mm), 1e-3)
            self._smoothed[sigma_mm] = weighted + floor
        return self._smoothed[sigma_mm]


def _smooth(array: NDArray[np.float32], grid: ImageGrid, sigma_mm: float) -> NDArray[np.float32]:
    image = grid.to_image(np.asarray(array, dtype=np.float32))
    if min(grid.size) < 5 or sigma_mm < 1.2 * max(grid.spacing):
        return sitk.GetArrayFromImage(sitk.DiscreteGaussian(image, [sigma_mm**2] * 3, 33))
    return sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(image, sigma_mm))
