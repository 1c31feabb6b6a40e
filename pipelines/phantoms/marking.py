"""From the signals that made an image to the mask and scores of a perfect reader."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.phantoms.deposit import Patch
from pipelines.phantoms.heart import TERRITORY
from pipelines.phantoms.mediastinum import LABELS
from pipelines.phantoms.plaques import Plaque
from pipelines.phantoms.truth import NEIGHBORS, Truth, category, lesion_scores, reader_mask
from registration.geometry import ImageGrid

Points = NDArray[np.float64]
_MARGIN_MM = 12.0
_BONE_HU = 1e4
"""Signal given to bone, so that no bone pixel is ever taken for plaque."""


def mark_truth(
    image: NDArray[np.int16], grid: ImageGrid, coronary: list[Patch], other: list[Patch],
    labels: NDArray[np.uint8], plaques: list[Plaque], lines: dict[str, Points],
) -> tuple[NDArray[np.uint8], Truth]:  # fmt: skip
    """Mask of the coronary calcium on the final grid, and its scores."""
    mask = np.zeros(grid.shape, np.uint8)
    mass = float(sum(p.mass_mg for p in plaques))
    if not coronary:
        nothing = dict.fromkeys(NEIGHBORS, 0.0)
        return mask, Truth(nothing, 0.0, "0", mass, dict.fromkeys(("LM", "LAD", "LCX", "RCA"), 0.0))
    box = _bounds(coronary, grid)
    hu = image[box]
    ours, theirs = _collect(coronary, box), _collect(other, box)
    bone = (LABELS["rib"], LABELS["sternum"], LABELS["vertebra"], LABELS["cartilage"])
    theirs[np.isin(labels[box], bone)] = _BONE_HU
    scores, found = {}, []
    for preset in NEIGHBORS:
        marked = reader_mask(hu, ours, theirs, preset)
        lesions = lesion_scores(hu, marked, _spacing(grid), preset)
        scores[preset] = float(sum(score for _, score in lesions))
        if preset == "agatston-1990":
            mask[box], found = marked, lesions
    volume = float(np.count_nonzero(mask)) * grid.voxel_volume_mm3
    vessels = _by_vessel(found, box, grid, lines)
    return mask, Truth(scores, volume, category(scores["agatston-1990"]), mass, vessels)


def _spacing(grid: ImageGrid) -> tuple[float, float, float]:
    x, y, z = grid.spacing
    return x, y, z


def _bounds(patches: list[Patch], grid: ImageGrid) -> tuple[slice, slice, slice]:
    margin = np.ceil(_MARGIN_MM / np.array(grid.spacing[::-1])).astype(int)
    low = np.min([p.start for p in patches], axis=0) - margin
    high = np.max([np.add(p.start, p.hu.shape) for p in patches], axis=0) + margin
    low, high = np.maximum(low, 0), np.minimum(high, grid.shape)
    z, y, x = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return z, y, x


def _collect(patches: list[Patch], box: tuple[slice, slice, slice]) -> NDArray[np.float32]:
    """Sum of the patches on a box of the grid."""
    total = np.zeros([s.stop - s.start for s in box], np.float32)
    for patch in patches:
        target, source = [], []
        for side, start, count in zip(box, patch.start, patch.hu.shape, strict=True):
            low, high = max(side.start, start), min(side.stop, start + count)
            target.append(slice(low - side.start, max(high, low) - side.start))
            source.append(slice(low - start, max(high, low) - start))
        total[tuple(target)] += patch.hu[tuple(source)]
    return total


def _by_vessel(
    lesions: list[tuple[tuple[int, float, float], float]], box: tuple[slice, slice, slice],
    grid: ImageGrid, lines: dict[str, Points],
) -> dict[str, float]:  # fmt: skip
    """Scores by the nearest artery."""
    result = dict.fromkeys(("LM", "LAD", "LCX", "RCA"), 0.0)
    for (z, y, x), score in lesions:
        index = (x + box[2].start, y + box[1].start, z + box[0].start)
        point = grid.physical_points([index])[0]
        gaps = {name: np.linalg.norm(line - point, axis=1).min() for name, line in lines.items()}
        result[TERRITORY[min(gaps, key=lambda name: gaps[name])]] += float(score)
    return result
