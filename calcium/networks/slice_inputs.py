"""What a scoring network is shown of one slice: ten channels on the heart lattice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CONTEXT_SLICES = 5
"""Slices shown of every scored one: itself in the middle of its neighbors."""

INPUT_CHANNELS = CONTEXT_SLICES + 5
"""Slices in a soft-tissue window, calcium window, candidates, three coordinates."""

SOFT_TISSUE_CENTER_HU = 40.0
"""Middle of the soft-tissue window [HU]: between epicardial fat and faint calcium."""

SOFT_TISSUE_HALF_WIDTH_HU = 220.0
"""Half width of the soft-tissue window [HU]."""

CALCIUM_WINDOW_HU = 1200.0
"""Upper end of the calcium window, which starts at 0 [HU]."""


def slice_inputs(
    context_hu: NDArray[np.floating],
    candidates: NDArray[np.floating],
    coordinates: NDArray[np.floating],
) -> NDArray[np.float32]:
    """Network input of slices.

    Args:
        context_hu: The slice among its neighbors, lowest first, shape `(n, 5, h, w)`; HU.
        candidates: Fraction of each lattice point that is candidate calcium, `(n, h, w)`, 0-1.
        coordinates: Heart-unit coordinates (L, P, S), shape `(n, h, w, 3)`.

    Returns:
        Input, shape `(n, h, w, 10)`, values mostly within -1…1.
    """
    out = np.empty((*candidates.shape, INPUT_CHANNELS), np.float32)
    for channel in range(CONTEXT_SLICES):
        window = (context_hu[:, channel] - SOFT_TISSUE_CENTER_HU) / SOFT_TISSUE_HALF_WIDTH_HU
        np.clip(window, -1.0, 1.0, out=out[..., channel])
    middle = context_hu[:, CONTEXT_SLICES // 2]
    np.clip(middle / CALCIUM_WINDOW_HU, 0.0, 1.0, out=out[..., CONTEXT_SLICES])
    np.clip(candidates, 0.0, 1.0, out=out[..., CONTEXT_SLICES + 1])
    out[..., CONTEXT_SLICES + 2 :] = coordinates
    return out
