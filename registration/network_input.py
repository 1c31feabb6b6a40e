"""What the alignment network is shown: a small cube of the scan, laid out as the atlas is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from registration.alignment_volume import AlignmentVolume
from registration.geometry import transform_points
from registration.preprocessing import HIGHEST_HU, LOWEST_HU

SMOOTHING_MM = 4.0
"""Gaussian smoothing before sampling every 10 mm, mm."""
SOFT_TISSUE_HU = (-180.0, 120.0)
"""Window that tells fat from muscle [HU]."""
CHANNELS = 3
"""Attenuation, soft tissue, field of view."""


class CubeSampler:
    """Linear sampling of one scan at many points, prepared once.

    Args:
        volume: The scan.
        smoothing_mm: Gaussian smoothing against aliasing, mm.
    """

    def __init__(self, volume: AlignmentVolume, smoothing_mm: float = SMOOTHING_MM) -> None:
        self.volume = volume
        self._hu = volume.smoothed(smoothing_mm).ravel()
        self._valid = volume.valid.ravel()
        x, y, z = volume.grid.size
        self._last = np.array([x, y, z], dtype=np.float32) - 1
        self._strides = np.array([1, x, x * y])
        matrix = np.linalg.inv(volume.grid.index_to_physical_matrix)
        self._to_index = matrix.astype(np.float64)

    def __call__(
        self, points: NDArray[np.floating]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Attenuation (HU, the lower clip value outside) and field of view, both `(n,)`.

        Args:
            points: LPS points, mm, shape `(n, 3)`.
        """
        index = transform_points(self._to_index, points).astype(np.float32)
        inside = np.all((index >= 0) & (index <= self._last), axis=1)
        index = index[inside]
        low = np.minimum(index.astype(np.int32), np.maximum(self._last - 1, 0).astype(np.int32))
        part = index - low
        first = low @ self._strides
        value = np.zeros(len(index), dtype=np.float32)
        for corner in range(8):
            bits = np.array([corner & 1, corner >> 1 & 1, corner >> 2 & 1])
            step = int(np.where(self._last > 0, bits * self._strides, 0).sum())
            weight = np.where(bits, part, 1 - part).prod(axis=1)
            value += weight * self._hu[first + step]
        hu = np.full(len(points), LOWEST_HU, dtype=np.float32)
        valid = np.zeros(len(points), dtype=np.float32)
        nearest = np.rint(index).astype(np.int64) @ self._strides
        covered = self._valid[nearest]
        hu[inside] = np.where(covered > 0, value, LOWEST_HU)
        valid[inside] = covered
        return hu, valid


def to_channels(hu: NDArray[np.floating], valid: NDArray[np.floating]) -> NDArray[np.float32]:
    """Network channels of sampled attenuation, in 0 to 1, a last axis of `CHANNELS` added."""
    low, high = SOFT_TISSUE_HU
    wide = np.clip((hu - LOWEST_HU) / (HIGHEST_HU - LOWEST_HU), 0.0, 1.0)
    soft = np.clip((hu - low) / (high - low), 0.0, 1.0)
    return np.stack([wide * valid, soft * valid, valid], axis=-1).astype(np.float32)
