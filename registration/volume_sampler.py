"""Smooth sampling of a prepared scan, with gradients."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from registration.alignment_volume import AlignmentVolume


class VolumeSampler:
    """Trilinear values, gradients and coverage of a smoothed volume at physical points.

    Args:
        volume: The scan.
        sigma_mm: Gaussian smoothing beforehand, mm.
    """

    def __init__(self, volume: AlignmentVolume, sigma_mm: float) -> None:
        spacing = volume.grid.spacing[0]
        if sigma_mm >= 2.0 * spacing:
            # Means of two voxels smooth by half a voxel already.
            volume = volume.halved()
            sigma_mm = float(np.sqrt(sigma_mm**2 - (spacing / 2.0) ** 2))
        self._hu = volume.smoothed(sigma_mm).ravel()
        self._valid = volume.valid.ravel()
        self._grid = volume.grid
        z, y, x = volume.grid.shape
        self._last = np.array([x, y, z]) - 1
        self._strides = np.array([1, x, x * y])

    def __call__(
        self, points: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Sample at LPS points.

        Args:
            points: Where, mm, shape `(n, 3)`.

        Returns:
            HU `(n,)`, its gradient per mm along L, P and S `(n, 3)`, and coverage 0 or 1
            `(n,)`; beyond the grid values are those of its border, with coverage 0.
        """
        index = self._grid.indices(points)
        inside = np.all((index >= 0.0) & (index <= self._last), axis=1)
        low = np.clip(np.floor(index), 0, np.maximum(self._last - 1, 0)).astype(np.int64)
        part = np.clip(index - low, 0.0, 1.0)
        first = low @ self._strides
        step = np.where(self._last > 0, self._strides, 0)
        corners = np.empty((2, 2, 2, len(points)))
        for k in range(8):
            bits = (k >> 2 & 1, k >> 1 & 1, k & 1)
            corners[bits] = self._hu[first + step @ np.array(bits[::-1])]
        valid = self._valid[np.rint(np.clip(index, 0, self._last)).astype(int) @ self._strides]
        along_x = corners[:, :, 0] + part[:, 0] * (corners[:, :, 1] - corners[:, :, 0])
        along_y = along_x[:, 0] + part[:, 1] * (along_x[:, 1] - along_x[:, 0])
        value = along_y[0] + part[:, 2] * (along_y[1] - along_y[0])
        d_x = _blend(corners[:, :, 1] - corners[:, :, 0], part[:, 1], part[:, 2])
        d_y = _blend2(along_x[:, 1] - along_x[:, 0], part[:, 2])
        d_z = along_y[1] - along_y[0]
        gradient = np.stack([d_x, d_y, d_z], axis=-1) / np.array(self._grid.spacing)
        gradient = gradient @ self._grid.direction_matrix.T
        return value, gradient, np.where(inside, valid, 0.0)


def _blend(
    corners: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64]
) -> NDArray[np.float64]:
    return _blend2(corners[:, 0] + y * (corners[:, 1] - corners[:, 0]), z)


def _blend2(ends: NDArray[np.float64], part: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(ends[0] + part * (ends[1] - ends[0]))
