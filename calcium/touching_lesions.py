"""Lesions of two kinds that touch: told apart where the attention changes at a narrow neck.

Plaque in the left main begins where the wall of the aorta ends, and both calcify in the same
patients. Connected at or above the threshold they are one lesion, and a reader cuts it in two.
So it is done here, where two things come together: the network is sure of both parts, and little
holds them together. Otherwise a lesion stays whole: of a large one a network is sure in some
parts and not in others, and the part that it misses counts with the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calcium.counting_rule import logit_of
from calcium.density import label_voxels
from calcium.lesions import LESION_CONNECTIVITY

SURE_LOGIT = 2.0
"""Mean logit of the attention, on either side of zero, from which a part is sure: 0.88 and 0.12."""

LARGEST_NECK = 1.0
"""Face between two parts over the volume of the smaller one to the power 2/3, at most: a ball cut
in half has 1.9, a cube 1.6. On left-out patients 0.7 to 1.6 gave nearly the same."""

LEAST_SCORE = 10.0
"""Agatston score that both parts must have: a category."""


def decided_lesions(
    attention: NDArray[np.floating],
    density: NDArray[np.floating],
    flat_index: NDArray[np.int64],
    shape: tuple[int, ...],
    spacing_mm: Sequence[float],
) -> NDArray[np.int64]:
    """Lesion of each candidate voxel as it is decided on: connected, and not only touching.

    Args:
        attention: Attention at the candidates, 0-1, shape `(n,)`.
        density: Agatston density, shape `(n,)`.
        flat_index: Position in the flattened volume, ascending, shape `(n,)`.
        shape: Shape of the volume, `(z, y, x)`.
        spacing_mm: Voxel spacing, `(z, y, x)`, mm.

    Returns:
        Labels from 0, none left out, shape `(n,)`.
    """
    label = label_voxels(flat_index, shape, LESION_CONNECTIVITY)
    return divide_touching(label, attention, density, flat_index, shape, spacing_mm)


def divide_touching(
    label: NDArray[np.integer],
    attention: NDArray[np.floating],
    density: NDArray[np.floating],
    flat_index: NDArray[np.int64],
    shape: Sequence[int],
    spacing_mm: Sequence[float],
) -> NDArray[np.int64]:
    """Labels of lesions, in which those that are two by all appearance are two.

    Args:
        label: Lesion of each candidate voxel, from 0, shape `(n,)`.
        attention: Attention of each, 0-1, shape `(n,)`.
        density: Agatston density of each, shape `(n,)`.
        flat_index: Position in the flattened volume, ascending, shape `(n,)`.
        shape: Shape of the volume, `(z, y, x)`.
        spacing_mm: Voxel spacing, `(z, y, x)`, mm.

    Returns:
        Labels from 0, none left out, shape `(n,)`.

    Source:
        Own.
    """
    logit = logit_of(attention)
    part = 2 * np.asarray(label, np.int64) + (logit > 0)
    count = int(part.max()) + 2 if len(part) else 0  # room for the other part of the last one
    count += count % 2
    score = np.bincount(part, density, count)
    mean = np.bincount(part, density * logit, count) / np.maximum(score, 1e-12)
    volume = np.bincount(part, minlength=count) * float(np.prod(spacing_mm))
    face = _faces_mm2(part, flat_index, shape, spacing_mm, count // 2)
    scores, means, volumes = (values.reshape(-1, 2) for values in (score, mean, volume))
    apart = (
        (scores.min(axis=1) >= LEAST_SCORE)
        & (means[:, 0] <= -SURE_LOGIT)
        & (means[:, 1] >= SURE_LOGIT)
        & (face <= LARGEST_NECK * volumes.min(axis=1) ** (2 / 3))
    )
    divided = np.where(apart[np.asarray(label, np.int64)], part, 2 * label)
    return np.asarray(np.unique(divided, return_inverse=True)[1], dtype=np.int64)


def _faces_mm2(
    part: NDArray[np.int64],
    flat_index: NDArray[np.int64],
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    lesions: int,
) -> NDArray[np.float64]:
    """Area of the voxel faces between both parts of every lesion, mm², shape `(lesions,)`."""
    total = np.zeros(lesions)
    if not len(flat_index):
        return total
    place = np.unravel_index(flat_index, tuple(shape))
    steps = (shape[1] * shape[2], shape[2], 1)
    for axis, step in enumerate(steps):
        area = float(np.prod(spacing_mm)) / float(spacing_mm[axis])
        wanted = flat_index + step
        found = np.minimum(np.searchsorted(flat_index, wanted), len(flat_index) - 1)
        beside = (flat_index[found] == wanted) & (place[axis] + 1 < shape[axis])
        one, other = part[beside], part[found[beside]]
        between = (one // 2 == other // 2) & (one != other)
        total += area * np.bincount(one[between] // 2, minlength=lesions)
    return total
