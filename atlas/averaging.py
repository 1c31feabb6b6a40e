"""Averages of many moved images, read in slabs, so that memory does not grow with the cohort."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from atlas.atlas_mean import AtlasMean
from atlas.member import Member, Modality
from registration.atomic_files import placing
from registration.geometry import ImageGrid

AverageKind = Literal["mean", "trimmed", "median"]

UNCOVERED = np.int16(-32768)
"""Value of a moved image where the subject's field of view ends."""

SLAB_BYTES = 2**26
"""Memory for one slab of all moved images [bytes]."""

TRIMMED_SHARE = 0.1
"""Share of the values left out at either end by the trimmed mean."""


def move_member(member: Member, transform: sitk.Transform, grid: ImageGrid) -> NDArray[np.int16]:
    """A member on the lattice of the atlas, interpolated once.

    Args:
        member: The subject.
        transform: Pull-back from the atlas to the subject, LPS mm.
        grid: Lattice of the atlas.

    Returns:
        Rounded values, `UNCOVERED` outside the field of view; shape of the grid.
    """
    values, valid = resampled(member, transform, grid)
    return np.where(valid, np.rint(values), float(UNCOVERED)).astype(np.int16)


def resampled(
    member: Member, transform: sitk.Transform, grid: ImageGrid, *, counted: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Values of a member on a grid (linear), and where they lie wholly inside it.

    Args:
        member: The subject.
        transform: Pull-back from the grid to the subject, LPS mm.
        grid: Where to sample.
        counted: Take for inside where images are compared, not the whole field of view.
    """
    reference = grid.empty_image(sitk.sitkUInt8)
    inside = member.counts if counted else member.volume.valid
    # as one image of two channels, for which the transform is evaluated once
    both = sitk.Compose(member.grid.to_image(member.volume.hu), member.grid.to_image(inside))
    moved = sitk.GetArrayFromImage(sitk.Resample(both, reference, transform, sitk.sitkLinear, 0.0))
    values, weight = np.ascontiguousarray(moved[..., 0]), moved[..., 1]
    return values, weight > 0.999


def write_moved(moved: NDArray[np.int16], path: Path) -> None:
    """Write a moved image so that slabs of it can be read."""
    with placing(path) as part, part.open("wb") as stream:
        np.save(stream, moved)


def average(
    paths: Sequence[Path], grid: ImageGrid, *, kind: AverageKind, modality: Modality
) -> AtlasMean:
    """Average moved images voxel by voxel, each voxel over those that cover it.

    Args:
        paths: Files of `write_moved`; summed in this order.
        grid: Lattice of the atlas.
        kind: Mean, mean without the `TRIMMED_SHARE` of lowest and highest values, or median.
        modality: What the values are; decides what stands where nothing is covered.

    Returns:
        The average. Its deviation is the standard deviation of all values, trimmed or not.

    Raises:
        ValueError: If there is no image.
    """
    if not paths:
        raise ValueError("an average needs at least one image. Received: none")
    floor = -1000.0 if modality == "ct" else 0.0
    values = np.full(grid.shape, floor, dtype=np.float32)
    deviation = np.zeros(grid.shape, dtype=np.float32)
    coverage = np.zeros(grid.shape, dtype=np.float32)
    for part, slab in slabs(paths, grid.shape):
        found = _statistics(slab, kind, floor)
        values[part], deviation[part], coverage[part] = found
    return AtlasMean(values, deviation, coverage, grid, len(paths), modality)


def slabs(paths: Sequence[Path], shape: Sequence[int]) -> Iterator[tuple[slice, NDArray[np.int16]]]:
    """Layers of all moved images together, shape `(images, layers, y, x)`, bottom to top."""
    layer = 2 * len(paths) * int(np.prod(shape[1:]))
    # float64 copies of a slab are made, four times the size
    step = max(1, SLAB_BYTES // (4 * layer))
    for first in range(0, shape[0], step):
        part = slice(first, min(shape[0], first + step))
        slab = np.empty((len(paths), part.stop - first, *shape[1:]), dtype=np.int16)
        for number, path in enumerate(paths):
            # opened anew for every slab: a system lets a process have few files open at a time
            slab[number] = np.load(path, mmap_mode="r")[part]
        yield part, slab


def _statistics(
    slab: NDArray[np.int16], kind: AverageKind, floor: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Average, standard deviation and count per voxel of one slab."""
    covered = slab != UNCOVERED
    count = covered.sum(axis=0)
    safe = np.maximum(count, 1)
    values = np.where(covered, slab, 0).astype(np.float64)
    mean = values.sum(axis=0) / safe
    square = np.where(covered, values - mean, 0.0)
    deviation = np.sqrt((square * square).sum(axis=0) / safe)
    if kind != "mean":
        mean = _ranked_average(slab, covered, safe, kind)
    return np.where(count > 0, mean, floor), deviation, count


def _ranked_average(
    slab: NDArray[np.int16],
    covered: NDArray[np.bool_],
    count: NDArray[np.int64],
    kind: AverageKind,
) -> NDArray[np.float64]:
    """Mean of the middle ranks: all but the trimmed ones, or the one or two in the middle."""
    # uncovered values sort behind all others and get no weight
    ordered = np.sort(np.where(covered, slab, np.int16(32767)), axis=0).astype(np.float64)
    rank = np.arange(len(slab)).reshape(-1, *[1] * (slab.ndim - 1))
    cut = np.floor(TRIMMED_SHARE * count) if kind == "trimmed" else (count - 1) // 2
    kept = (rank >= cut) & (rank < count - cut)
    return np.asarray((ordered * kept).sum(axis=0) / np.maximum(kept.sum(axis=0), 1))
