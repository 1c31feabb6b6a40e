"""A line that was drawn by a few points, filled with more: places are compared with these."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def filled_line(points: ArrayLike, distance: float) -> NDArray[np.float64]:
    """Points along a line, evenly spaced, its ends included.

    Args:
        points: Corners of the line in order, shape `(n, 3)`; one alone and none are returned.
        distance: Largest distance of two points, in the unit of the corners.

    Returns:
        Shape `(m, 3)`.
    """
    line = np.reshape(np.asarray(points, dtype=float), (-1, 3))
    if len(line) < 2:
        return line
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    wanted = np.linspace(0.0, along[-1], max(2, int(np.ceil(along[-1] / distance)) + 1))
    return np.stack([np.interp(wanted, along, column) for column in line.T], axis=1)
