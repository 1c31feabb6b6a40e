"""The heart-centered in-plane lattice on which the scoring networks see a scan.

Calcium is never interpolated: densities stay on native voxels. What moves between the
two grids is the picture (native to lattice, anti-aliased) and the attention (lattice to
native, bilinear). `HeartField.splat` is the exact adjoint of `HeartField.gather`, so
`sum(density * gather(attention)) == sum(splat(density) * attention)`: training may work
on the lattice alone and still learn the native score.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from registration.geometry import ImageGrid

LATTICE_SPACING_MM = 0.7
"""In-plane distance of lattice points [mm] (own choice: a coronary artery is 2-4 mm wide)."""

LATTICE_SIZE = 256
"""Lattice points per in-plane axis; 256 x 0.7 mm = 179 mm covers the adult heart."""

HEART_REACH = 1.3
"""Candidates further out than this many heart-ellipsoid radii never count."""

CONTEXT_DISTANCE_MM = 3.0
"""Aimed-at distance of the neighbor slices shown beside the scored slice [mm]."""

PADDING_HU = -1000.0
"""Attenuation taken outside the field of view and for padding values [HU]."""


@dataclass(frozen=True, slots=True)
class HeartField:
    """Lattice geometry of one scan: slices `slices` of the native grid, 256 x 256 points each.

    Array axes must run along the patient's (S, P, L) as closely as the scan allows;
    `orient_to_lps` brings any array there by flips and swaps alone.

    Args:
        grid: Native grid of the oriented scan.
        to_unit: Homogeneous map from scan LPS mm to heart units.
        start_vox: Continuous native index (y, x) of the first lattice point.
        step_vox: Native voxels per lattice step, (y, x).
        slices: First and one-past-last native slice that reaches the heart.
    """

    grid: ImageGrid
    to_unit: NDArray[np.float64]
    start_vox: tuple[float, float]
    step_vox: tuple[float, float]
    slices: tuple[int, int]

    @classmethod
    def locate(cls, grid: ImageGrid, to_unit: ArrayLike) -> HeartField:
        """Place the lattice so that the heart center falls in its middle.

        Args:
            grid: Native grid, axes along (S, P, L).
            to_unit: Homogeneous map from scan LPS mm to heart units.

        Returns:
            The field; `slices` is an empty range if no slice reaches the heart.
        """
        matrix = np.asarray(to_unit, dtype=float)
        unit_to_index = np.linalg.inv(matrix @ grid.index_to_physical_matrix)
        center = unit_to_index[:3, 3]
        half = HEART_REACH * np.linalg.norm(unit_to_index[:3, :3], axis=1)
        step = LATTICE_SPACING_MM / np.asarray(grid.spacing[:2])
        start = center[:2] - (LATTICE_SIZE - 1) / 2 * step
        low = int(np.clip(np.ceil(center[2] - half[2]), 0, grid.size[2]))
        high = int(np.clip(np.floor(center[2] + half[2]) + 1, low, grid.size[2]))
        return cls(
            grid,
            matrix,
            (float(start[1]), float(start[0])),
            (float(step[1]), float(step[0])),
            (low, high),
        )

    @property
    def context_offsets(self) -> NDArray[np.intp]:
        """Native slices shown around a scored one, relative to it: two below to two above.

        They lie about `CONTEXT_DISTANCE_MM` apart, and one slice at least.
        """
        step = max(1, round(CONTEXT_DISTANCE_MM / self.grid.spacing[2]))
        return step * np.arange(-2, 3)

    @property
    def window(self) -> tuple[slice, slice]:
        """Native rows and columns that lattice points can see."""
        bounds = []
        for axis, size in ((0, self.grid.shape[1]), (1, self.grid.shape[2])):
            last = self.start_vox[axis] + (LATTICE_SIZE - 1) * self.step_vox[axis]
            low = int(np.clip(np.floor(self.start_vox[axis]), 0, size))
            high = int(np.clip(np.ceil(last) + 1, low, size))
            bounds.append(slice(low, high))
        return bounds[0], bounds[1]

    def sample(self, slice_hu: NDArray[np.floating]) -> NDArray[np.float32]:
        """Attenuation of native slices on the lattice.

        Args:
            slice_hu: Native slices in HU, shape `(n, rows, columns)`.

        Returns:
            HU on the lattice, shape `(n, 256, 256)`; `PADDING_HU` outside the scan.
        """
        rows = _interpolator(self.start_vox[0], self.step_vox[0], self.grid.shape[1], smooth=True)
        cols = _interpolator(self.start_vox[1], self.step_vox[1], self.grid.shape[2], smooth=True)
        missing = 1.0 - np.outer(rows.sum(1), cols.sum(1))
        out = np.empty((len(slice_hu), LATTICE_SIZE, LATTICE_SIZE), np.float32)
        window = self.window
        rows, cols = rows[:, window[0]], cols[:, window[1]].T.tocsr()
        for number, image in enumerate(slice_hu):
            clipped = np.maximum(image[window], PADDING_HU)
            out[number] = (rows @ clipped) @ cols + PADDING_HU * missing
        return out

    def gather(
        self,
        lattice_slice: NDArray[np.floating],
        rows: NDArray[np.integer],
        columns: NDArray[np.integer],
    ) -> NDArray[np.float64]:
        """Bilinear value of a lattice image at native pixels, zero outside the lattice.

        Args:
            lattice_slice: Values on the lattice, shape `(256, 256)`.
            rows: Native row of each pixel, shape `(n,)`.
            columns: Native column of each pixel, shape `(n,)`.

        Returns:
            Values, shape `(n,)`.
        """
        total = np.zeros(len(rows))
        for y, x, weight in self._corners(rows, columns):
            total += weight * lattice_slice[y, x]
        return total

    def splat(
        self,
        values: NDArray[np.floating],
        rows: NDArray[np.integer],
        columns: NDArray[np.integer],
    ) -> NDArray[np.float32]:
        """Distribute native pixel values on the lattice: the exact adjoint of `gather`.

        Args:
            values: One value per pixel, shape `(n,)`.
            rows: Native row of each pixel, shape `(n,)`.
            columns: Native column of each pixel, shape `(n,)`.

        Returns:
            Lattice image, shape `(256, 256)`; its sum is that of `values` wherever the
            pixels lie inside the lattice.
        """
        flat = np.zeros(LATTICE_SIZE**2)
        for y, x, weight in self._corners(rows, columns):
            flat += np.bincount(y * LATTICE_SIZE + x, weight * values, LATTICE_SIZE**2)
        return flat.reshape(LATTICE_SIZE, LATTICE_SIZE).astype(np.float32)

    def coordinates(
        self, number: int, rows: slice = slice(None), columns: slice = slice(None)
    ) -> NDArray[np.float32]:
        """Heart-unit coordinates of lattice points of native slice `number`.

        Args:
            number: Native slice index.
            rows: Lattice rows wanted.
            columns: Lattice columns wanted.

        Returns:
            Coordinates along (L, P, S), shape `(n_rows, n_columns, 3)`.
        """
        matrix = (self.to_unit @ self.grid.index_to_physical_matrix)[:3]
        points = np.arange(LATTICE_SIZE)
        y = (self.start_vox[0] + points * self.step_vox[0])[rows, None, None]
        x = (self.start_vox[1] + points * self.step_vox[1])[None, columns, None]
        down = (matrix[:, 1] * y + (matrix[:, 2] * number + matrix[:, 3])).astype(np.float32)
        return (matrix[:, 0] * x).astype(np.float32) + down

    def inside_reach(
        self,
        numbers: NDArray[np.integer],
        rows: NDArray[np.integer],
        columns: NDArray[np.integer],
    ) -> NDArray[np.bool_]:
        """True for native voxels that coronary calcium can lie in, shape `(n,)`.

        Wide enough for an alignment that is a centimeter off.
        """
        unit = self._unit_points(numbers, rows, columns)
        return np.asarray(np.sum(unit**2, axis=-1) <= HEART_REACH**2)

    def _unit_points(
        self,
        numbers: NDArray[np.integer],
        rows: NDArray[np.integer],
        columns: NDArray[np.integer],
    ) -> NDArray[np.float64]:
        """Heart-unit coordinates of native voxels, shape `(n, 3)`."""
        matrix = (self.to_unit @ self.grid.index_to_physical_matrix)[:3]
        index = np.stack([columns, rows, numbers], axis=-1)
        return np.asarray(index @ matrix[:, :3].T + matrix[:, 3])

    def _corners(
        self, rows: NDArray[np.integer], columns: NDArray[np.integer]
    ) -> list[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]]:
        """Lattice indices and bilinear weights of the four points around native pixels."""
        y = (np.asarray(rows) - self.start_vox[0]) / self.step_vox[0]
        x = (np.asarray(columns) - self.start_vox[1]) / self.step_vox[1]
        y0, x0 = np.floor(y).astype(np.intp), np.floor(x).astype(np.intp)
        corners = []
        for dy in (0, 1):
            for dx in (0, 1):
                weight = (1 - np.abs(y - y0 - dy)) * (1 - np.abs(x - x0 - dx))
                yy, xx = y0 + dy, x0 + dx
                inside = (yy >= 0) & (yy < LATTICE_SIZE) & (xx >= 0) & (xx < LATTICE_SIZE)
                corners.append(
                    (
                        np.clip(yy, 0, LATTICE_SIZE - 1),
                        np.clip(xx, 0, LATTICE_SIZE - 1),
                        np.where(inside, weight, 0.0),
                    )
                )
        return corners


def _interpolator(start: float, step: float, size: int, *, smooth: bool) -> sparse.csr_matrix:
    """Rows interpolate `size` samples at `start + k * step`; a tent as wide as the coarser grid."""
    width = max(1.0, step) if smooth else 1.0
    position = start + np.arange(LATTICE_SIZE) * step
    reach = int(np.ceil(width))
    index = np.floor(position)[:, None] + np.arange(-reach + 1, reach + 1)[None]
    weight = np.maximum(0.0, 1.0 - np.abs(index - position[:, None]) / width)
    weight /= weight.sum(1, keepdims=True)
    valid = (index >= 0) & (index < size)
    row = np.broadcast_to(np.arange(LATTICE_SIZE)[:, None], index.shape)[valid]
    return sparse.csr_matrix(
        (weight[valid].astype(np.float32), (row, index[valid].astype(int))),
        shape=(LATTICE_SIZE, size),
    )
