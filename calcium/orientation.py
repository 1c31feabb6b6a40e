"""Axial scans stored mirrored or turned, seen with axes along (S, P, L) without copying."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registration.geometry import ImageGrid


@dataclass(frozen=True, slots=True)
class Orientation:
    """In-plane swap and flips that bring a native array to axes along (S, P, L).

    The slice axis stays the slice axis, because the Agatston score is defined per slice.

    Args:
        grid: Grid of the oriented array.
        swap: True if rows and columns change places (after the flips).
        flips: Native array axes (z, y, x) that are reversed.
    """

    grid: ImageGrid
    swap: bool
    flips: tuple[int, ...]

    @classmethod
    def of(cls, grid: ImageGrid) -> Orientation:
        """Orientation of a native grid.

        Raises:
            ValueError: If the slices are nearer to sagittal or coronal than to axial.

        Example:
            >>> turned = (-1, 0, 0, 0, 1, 0, 0, 0, -1)
            >>> Orientation.of(ImageGrid((4, 3, 2), (1, 1, 3), (5, 0, 0), turned)).flips
            (0, 2)
        """
        matrix = grid.direction_matrix
        if int(np.argmax(np.abs(matrix[:, 2]))) != 2:
            raise ValueError(
                "slices must be axial for an Agatston score. Received: a slice normal of "
                f"{np.round(matrix[:, 2], 2).tolist()} in (L, P, S)"
            )
        swap = abs(matrix[0, 0]) < abs(matrix[1, 0])
        order = (1, 0, 2) if swap else (0, 1, 2)
        signs = [matrix[axis, order[axis]] for axis in range(3)]
        flipped = tuple(order[axis] for axis in range(3) if signs[axis] < 0)
        corner = [grid.size[k] - 1 if k in flipped else 0 for k in range(3)]
        columns = [matrix[:, order[k]] * (-1.0 if signs[k] < 0 else 1.0) for k in range(3)]
        oriented = ImageGrid(
            tuple(grid.size[k] for k in order),
            tuple(grid.spacing[k] for k in order),
            tuple(grid.physical_points(corner).tolist()),
            tuple(np.stack(columns, axis=1).ravel().tolist()),
        )
        return cls(oriented, bool(swap), tuple(sorted(2 - k for k in flipped)))

    def apply(self, native: NDArray[Any]) -> NDArray[Any]:
        """The oriented view of a native array, shape `(z, y, x)`."""
        view = np.flip(native, self.flips)
        return view.swapaxes(1, 2) if self.swap else view

    def undo(self, oriented: NDArray[Any]) -> NDArray[Any]:
        """The native view of an oriented array."""
        view = oriented.swapaxes(1, 2) if self.swap else oriented
        return np.flip(view, self.flips)
