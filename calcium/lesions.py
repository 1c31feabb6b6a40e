"""Lesions: voxels that count, gathered into the pieces of calcium a reader would point at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calcium.density import Candidates, label_voxels
from registration.geometry import ImageGrid

LESION_CONNECTIVITY = 26
"""Voxels that touch in any way, across slices too, are one lesion (own choice)."""


@dataclass(frozen=True, slots=True)
class Lesion:
    """One connected piece of calcium.

    Args:
        center_mm: Mean position of its voxels, LPS mm.
        agatston: Its part of the Agatston score.
        volume_mm3: Voxels times voxel volume, mm³.
        peak_hu: Brightest voxel, HU.
        slice_indices: Slices it touches, ascending, from 0 at the first slice of the grid.
        territory: Coronary artery it belongs to, `"LM/LAD"`, `"LCX"` or `"RCA"`; `None` if the
            model does not know their courses.
    """

    center_mm: tuple[float, float, float]
    agatston: float
    volume_mm3: float
    peak_hu: float
    slice_indices: tuple[int, ...]
    territory: str | None = None


def group_lesions(
    candidates: Candidates,
    contribution: NDArray[np.floating],
    grid: ImageGrid,
    *,
    connectivity: int = LESION_CONNECTIVITY,
) -> tuple[Lesion, ...]:
    """Lesions of a scan, the largest contribution first.

    The components of a preset may live inside one slice; a lesion here crosses slices,
    because that is what a reader counts.

    Args:
        candidates: Voxels at or above 130 HU.
        contribution: What each adds to the score, shape `(n,)`; voxels that add nothing
            belong to no lesion.
        grid: Native grid of the scan.
        connectivity: 6, 18 or 26.

    Returns:
        The lesions; empty if nothing contributes. Their scores sum to the score.

    Raises:
        ValueError: If `connectivity` is unknown.

    Source:
        Own.
    """
    counts = np.flatnonzero(contribution > 0)
    if not counts.size:
        return ()
    label = label_voxels(candidates.flat_index[counts], candidates.shape, connectivity)
    index = candidates.index[counts]
    agatston = np.bincount(label, weights=contribution[counts])
    voxels = np.bincount(label)
    center_index = np.stack([np.bincount(label, weights=i) / voxels for i in index.T[::-1]], -1)
    center_mm = grid.physical_points(center_index)
    peak_hu = np.full(voxels.size, -np.inf)
    np.maximum.at(peak_hu, label, candidates.hu[counts])
    slices: list[list[int]] = [[] for _ in voxels]
    for lesion, z in np.unique(np.stack([label, index[:, 0]], axis=-1), axis=0).tolist():
        slices[lesion].append(z)
    lesions = [
        Lesion(
            center_mm=(float(x), float(y), float(z)),
            agatston=float(agatston[i]),
            volume_mm3=float(voxels[i] * grid.voxel_volume_mm3),
            peak_hu=float(peak_hu[i]),
            slice_indices=tuple(slices[i]),
        )
        for i, (x, y, z) in enumerate(center_mm)
    ]
    return tuple(sorted(lesions, key=lambda lesion: (-lesion.agatston, lesion.center_mm)))
