"""Fixed-point iterations that undo a displacement field, shared by its dense inverses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

FieldFunction = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def swept_inverse(
    start: NDArray[np.float64],
    residual_of: FieldFunction,
    derivatives_of: FieldFunction,
    *,
    sweeps: int,
    tolerance: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Improve an inverse displacement at all points at once, each by its own best answer so far.

    Steps are preconditioned by the derivatives of the inverse itself, which needs no further look
    at what is inverted. Where a step led away, the next one is half as long, from the same place.

    Args:
        start: Inverse displacement to begin with, shape `(*shape, d)`.
        residual_of: What an inverse leaves at every point, same shape.
        derivatives_of: Derivatives of an inverse, `(*shape, d, d)`, component first.
        sweeps: Most looks at the residual.
        tolerance: Length of the residual at every point at which to stop.

    Returns:
        The inverse, and the length of its residual, shape `shape`.

    Source:
        Chen et al., Med Phys 2008;35(1):81-88 (fixed-point inversion); preconditioner, that of
        Newton's iteration, and damping own.
    """
    inverse = best = start
    rest = np.zeros_like(start)
    least, length = np.full(start.shape[:-1], np.inf), np.ones(start.shape[:-1])
    for sweep in range(sweeps):
        residual = residual_of(inverse)
        size = np.linalg.norm(residual, axis=-1)
        better = size < least
        least = np.where(better, size, least)
        best = np.where(better[..., None], inverse, best)
        rest = np.where(better[..., None], residual, rest)
        if sweep == sweeps - 1 or float(least.max()) <= tolerance:
            break
        length = np.where(better, np.minimum(1.0, 2.0 * length), 0.5 * length)
        step = rest + np.einsum("...ij,...j->...i", derivatives_of(best), rest)
        inverse = best - length[..., None] * step
    return best, least
