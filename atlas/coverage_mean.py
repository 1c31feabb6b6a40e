"""A running mean of images that each cover only part of the common space."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from registration.geometry import ImageGrid


class CoverageMean:
    """Mean over a cohort, held as two sums, so that no more than one image is in memory.

    Every voxel is divided by how many images covered it, not by how many there are.

    Args:
        grid: Lattice of the mean.
        fill_value: Value where nothing was added.

    Example:
        >>> grid = ImageGrid((2, 1), (1.0, 1.0), (0.0, 0.0))
        >>> mean = CoverageMean(grid, fill_value=-1000.0)
        >>> mean.add(np.array([[2.0, 8.0]]), np.array([[1.0, 0.0]]))
        >>> mean.add(np.array([[4.0, 8.0]]), np.array([[1.0, 0.0]]))
        >>> mean.mean().tolist()
        [[3.0, -1000.0]]
    """

    def __init__(self, grid: ImageGrid, *, fill_value: float = 0.0) -> None:
        self.grid = grid
        self.fill_value = float(fill_value)
        self._sum = np.zeros(grid.shape)
        self._square_sum = np.zeros(grid.shape)
        self._weight = np.zeros(grid.shape)

    def add(self, values: NDArray[np.floating], weights: NDArray[np.floating]) -> None:
        """Add one image.

        Args:
            values: Array of shape `grid.shape`.
            weights: Coverage in 0 to 1, same shape; values under weight 0 do not count.

        Raises:
            ValueError: If a shape is not `grid.shape`.
        """
        if values.shape != self.grid.shape or weights.shape != self.grid.shape:
            raise ValueError(
                f"values and weights must have shape {self.grid.shape}. "
                f"Received: {values.shape} and {weights.shape}"
            )
        counted = np.where(weights > 0, values, 0.0)
        self._sum += counted * weights
        self._square_sum += counted**2 * weights
        self._weight += weights

    def add_image(self, image: sitk.Image, valid: sitk.Image, transform: sitk.Transform) -> None:
        """Resample an image and its field of view onto the grid (linear) and add it.

        Args:
            image: Moving image in physical space.
            valid: 1 where `image` holds information and 0 elsewhere.
            transform: Pull-back from the space of the mean to the space of the image, LPS mm.
        """
        reference = self.grid.empty_image(sitk.sitkUInt8)
        values, weights = (
            sitk.GetArrayFromImage(
                sitk.Resample(item, reference, transform, sitk.sitkLinear, 0.0, sitk.sitkFloat64)
            )
            for item in (image, valid)
        )
        self.add(values, np.where(weights > 0.999, 1.0, 0.0))

    @property
    def coverage(self) -> NDArray[np.float64]:
        """Sum of the weights, shape `grid.shape`."""
        return self._weight.copy()

    def mean(self) -> NDArray[np.float64]:
        """Mean per voxel, `fill_value` where nothing was added, shape `grid.shape`."""
        covered = self._weight > 0
        return np.where(covered, self._sum / np.where(covered, self._weight, 1.0), self.fill_value)

    def standard_deviation(self) -> NDArray[np.float64]:
        """Spread between the images per voxel, 0 where nothing was added, `grid.shape`."""
        weight = np.where(self._weight > 0, self._weight, 1.0)
        variance = self._square_sum / weight - (self._sum / weight) ** 2
        return np.sqrt(np.maximum(variance, 0.0))
