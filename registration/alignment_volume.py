"""The `AlignmentVolume`: a scan reduced to what finding the heart needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

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

    def smoothed(self, sigma_mm: float) -> NDArray[np.float32]:
        """Gaussian-smoothed attenuation that ignores what lies outside the field of view.

        Args:
            sigma_mm: Standard deviation, mm; 0 returns `hu` itself.

        Returns:
            HU, shape `grid.shape`; the lower clip value far outside the field of view.
        """
        if sigma_mm <= 0:
            return self.hu
        floor = np.float32(self.hu.min())
        weighted = _smooth((self.hu - floor) * self.valid, self.grid, sigma_mm)
        weight = _smooth(self.valid, self.grid, sigma_mm)
        return np.asarray(weighted / np.maximum(weight, 1e-3) + floor, dtype=np.float32)


def _smooth(array: NDArray[np.float32], grid: ImageGrid, sigma_mm: float) -> NDArray[np.float32]:
    image = grid.to_image(np.asarray(array, dtype=np.float32))
    return sitk.GetArrayFromImage(
        sitk.DiscreteGaussian(image, variance=[sigma_mm**2] * 3, maximumKernelWidth=33)
    )
