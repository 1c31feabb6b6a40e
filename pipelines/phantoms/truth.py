"""Reference scores of a phantom: plain and slow, on the final noisy image.

Written apart from the scoring code, which is tested against it. A reader marks every lesion
that holds coronary plaque; here the noise-free plaque signal says which those are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

THRESHOLD_HU = 130
"""Lower bound of calcium, inclusive (Agatston 1990)."""

MIN_AREA_MM2 = 1.0
"""Smallest lesion that counts in a slice, inclusive."""

VISIBLE_HU = 40.0
"""Noise-free plaque signal above which a reader would take a lesion for plaque, HU. About
half of what lifts blood to the threshold."""

NEIGHBORS: dict[str, NDArray[np.int_]] = {
    "agatston-1990": np.ones((3, 3), int),
    "agatston-4conn": np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]]),
}
"""Pixels that belong to one lesion, by preset."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What a perfect reader would report.

    Args:
        agatston: Score by preset.
        volume_mm3: Volume of the marked voxels.
        category: Risk category of the `agatston-1990` score.
        mass_mg: True hydroxyapatite in all coronary plaques, seen or unseen.
        by_vessel: `agatston-1990` score of LM, LAD, LCX and RCA.
    """

    agatston: dict[str, float]
    volume_mm3: float
    category: str
    mass_mg: float
    by_vessel: dict[str, float]


def category(score: float) -> str:
    """Risk category of a score, rounded half up to a whole number; below 0.5 is zero.

    Example:
        >>> [category(s) for s in (0, 0.4, 0.5, 10.4, 10.6, 100, 400.4, 401)]
        ['0', '0', '1-10', '1-10', '11-100', '11-100', '101-400', '>400']
    """
    whole = int(np.floor(score + 0.5))
    for name, top in (("0", 0), ("1-10", 10), ("11-100", 100), ("101-400", 400)):
        if whole <= top:
            return name
    return ">400"


def weight(peak_hu: float) -> int:
    """Agatston weight of a lesion's peak in one slice, 0 below the threshold."""
    return sum(peak_hu >= bound for bound in (130, 200, 300, 400))


def reader_mask(
    hu: NDArray[np.int16],
    coronary_hu: NDArray[np.float32],
    other_hu: NDArray[np.float32],
    preset: str,
) -> NDArray[np.bool_]:
    """Pixels that a reader marks as coronary calcium.

    All pixels of an in-plane lesion of 130 HU or more, if plaque is visible in it; where it
    touches something else that is dense, only the pixels to which plaque adds more.

    Args:
        hu: Final image, shape `(z, y, x)`.
        coronary_hu: Noise-free signal of the coronary plaques, same shape.
        other_hu: Noise-free signal of other calcium, metal and bone, same shape.
        preset: Name in `NEIGHBORS`.

    Returns:
        Mask of the same shape.
    """
    mask = np.zeros(hu.shape, bool)
    for k in range(hu.shape[0]):
        if not (coronary_hu[k] >= VISIBLE_HU).any():
            continue
        lesions, _ = ndimage.label(hu[k] >= THRESHOLD_HU, NEIGHBORS[preset])
        visible = (coronary_hu[k] >= VISIBLE_HU) & (coronary_hu[k] >= other_hu[k])
        for number in np.unique(lesions[visible]):
            if number > 0:
                mask[k] |= (lesions == number) & (coronary_hu[k] >= other_hu[k])
    return mask


def lesion_scores(
    hu: NDArray[np.int16], mask: NDArray[np.bool_], spacing: tuple[float, float, float], preset: str
) -> list[tuple[tuple[int, float, float], float]]:
    """Score of every in-plane lesion that counts.

    Args:
        hu: Image, shape `(z, y, x)`.
        mask: Marked pixels, same shape.
        spacing: Pixel spacing x, y and distance between slices z, mm.
        preset: Name in `NEIGHBORS`.

    Returns:
        Pairs of the lesion's middle (z, y, x index) and its Agatston score, already
        scaled by the slice distance over 3 mm. Empty if nothing counts.
    """
    found = []
    for k in range(hu.shape[0]):
        lesions, count = ndimage.label(mask[k] & (hu[k] >= THRESHOLD_HU), NEIGHBORS[preset])
        for number in range(1, count + 1):
            rows, columns = np.nonzero(lesions == number)
            area = len(rows) * spacing[0] * spacing[1]
            if area < MIN_AREA_MM2 - 1e-9:
                continue
            score = area * weight(hu[k][rows, columns].max()) * spacing[2] / 3.0
            found.append(((k, float(rows.mean()), float(columns.mean())), score))
    return found
