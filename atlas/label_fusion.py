"""Labels of the subjects in the atlas, where each is in view, and what most of them say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from registration.geometry import ImageGrid

NOT_SEEN = -1
"""Value of a moved label where the subject's field of view ends; its label there is not known."""

MAX_LABEL = 2**15
"""Labels below it are fused."""


def moved_label(
    label: sitk.Image, transform: sitk.Transform, grid: ImageGrid, seen: NDArray[np.bool_]
) -> NDArray[np.int32]:
    """A subject's label image on the lattice of the atlas, nearest neighbor.

    Args:
        label: Whole numbers, any grid; around it lies background, 0.
        transform: Pull-back from the atlas to the subject, LPS mm.
        grid: Lattice of the atlas.
        seen: Where the subject is in view, shape of the grid.

    Returns:
        Labels, `NOT_SEEN` out of view; shape of the grid.
    """
    reference = grid.empty_image(sitk.sitkUInt8)
    moved = sitk.Resample(label, reference, transform, sitk.sitkNearestNeighbor, 0)
    values = np.rint(sitk.GetArrayFromImage(moved))
    return np.where(seen, values, NOT_SEEN).astype(np.int32)


def fused(
    paths: Sequence[Path], grid: ImageGrid
) -> tuple[NDArray[np.int16], NDArray[np.float32], tuple[int, ...]]:
    """The label that most subjects have per voxel, of those that are in view there.

    Labels are counted one after the other, so that memory does not grow with subjects or
    labels. Of equally frequent ones the lower wins.

    Args:
        paths: Files of moved labels on the lattice of the atlas.
        grid: That lattice.

    Returns:
        Label; share of the subjects in view that have it; and the labels that occur, without 0.
        Label and share are 0 where nobody is in view.
    """
    found: set[int] = set()
    coverage = np.zeros(grid.shape, dtype=np.uint16)
    for path in paths:
        labels = _read(path)
        found |= set(np.unique(labels).tolist())
        coverage += labels >= 0
    best = np.zeros(grid.shape, dtype=np.int16)
    votes = np.zeros(grid.shape, dtype=np.uint16)
    names = tuple(sorted(int(v) for v in found if 0 <= v < MAX_LABEL))
    for value in names:
        count = np.zeros(grid.shape, dtype=np.uint16)
        for path in paths:
            count += _read(path) == value
        more = count > votes
        best[more], votes[more] = value, count[more]
    share = (votes / np.maximum(coverage, 1)).astype(np.float32)
    return best, share, tuple(value for value in names if value != 0)


def _read(path: Path) -> NDArray[np.int64]:
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path)))).astype(np.int64)
