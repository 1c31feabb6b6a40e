"""Slices that do not lie where the headers say, seen from the images alone.

Anatomy changes little by little from slice to slice, so that a slice resembles its neighbors more
than these resemble each other. Where positions were rewritten, that fails.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

SAMPLING_MM = 6.0
"""In-plane spacing of the compared images, mm: averages over noise and streaks."""

MISPLACED_RATIO = 0.8
"""Difference of two slices two apart, in differences of neighbors, below which the one between
them does not belong there. Ten chest CT of 2 to 8 mm, and the same with slices left out until 8 mm,
have 1.33 and more everywhere; a slice moved by ten places gives 0.2 to 0.55."""

_HU_RANGE = (-1000.0, 300.0)
_PADDING_HU = 0.5
"""Slices that differ less than this on average, HU, are padding and say nothing."""


def misplaced_slices(image: sitk.Image) -> NDArray[np.intp]:
    """Slices whose neighbors resemble each other more than either resembles them.

    The slices beside a misplaced one are often found with it; the first and the last are never.

    Args:
        image: Scan in HU, slices along the third axis.

    Returns:
        Their indices along that axis, ascending.

    Source:
        Own; the threshold is measured (see `MISPLACED_RATIO`).
    """
    slices = _coarse_slices(image)
    if len(slices) < 3:
        return np.zeros(0, np.intp)
    near = _differences(slices, 1)
    nearest = np.minimum(near[:-1], near[1:])
    far = _differences(slices, 2)
    misplaced = (nearest > _PADDING_HU) & (far < MISPLACED_RATIO * nearest)
    return np.flatnonzero(misplaced) + 1


def _coarse_slices(image: sitk.Image) -> NDArray[np.float32]:
    factors = [
        max(1, min(n, round(SAMPLING_MM / s)))
        for n, s in zip(image.GetSize()[:2], image.GetSpacing()[:2], strict=True)
    ]
    coarse = sitk.GetArrayFromImage(sitk.BinShrink(image, [*factors, 1]))
    return np.clip(coarse, *_HU_RANGE).astype(np.float32).reshape(len(coarse), -1)


def _differences(slices: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """Root mean square difference of slices `step` apart, HU."""
    return np.sqrt(np.mean((slices[step:] - slices[:-step]) ** 2, axis=1))
