"""The batches that training draws from labeled scans on the lattice.

What a network learns from is the score of a crop: the density of the crop's coronary
calcium, summed. The sums are made here from the splatted density; the labels themselves
never reach the loss. Beside them stands where the anatomy lies that a network learns to draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calcium.anatomy_maps import MAP_CELL, STRUCTURES
from calcium.crop_augmentation import CropAugmentation
from calcium.heart_field import LATTICE_SIZE
from calcium.lattice_scan import LatticeScan
from calcium.networks.slice_inputs import INPUT_CHANNELS

CROP_SIZE = 128
"""Lattice points per side of a training crop: 90 mm."""

CORONARY_SHARE = 0.45
"""Share of crops centered near coronary calcium, where a scan has any, by default."""

ANYWHERE_SHARE = 0.06
"""Share of crops placed anywhere, by default."""

HEART_FADE_UNITS = 0.15
"""Outside the heart ellipsoid, other candidates are drawn less often by e per this many radii."""

BLOCK_SIZES = (128, 32)
"""Squares whose scores enter the loss, lattice points per side."""


@dataclass(frozen=True)
class Batch:
    """Crops and what they may be scored by.

    Args:
        inputs: Network input, shape `(n, s, s, 10)`.
        density: Agatston density on the lattice, shape `(n, s, s)`.
        scores: True scores of the squares of each size in `BLOCK_SIZES`, shapes
            `(n, s / b, s / b)`.
        lesions: In-plane lesion that each lattice point belongs to, counted through the batch
            from 1, 0 for none, shape `(n, s, s)`.
        lesion_scores: True scores of the lesions, 0 first, shape `(lesions + 1,)`.
        anatomy: Maps of the structures, shape `(n, s / c, s / c, structures)` with c `MAP_CELL`;
            `(n, 0, 0, structures)` without any.
        anatomy_known: 1 where a structure is known, 0 elsewhere, shape `(n, structures)`.
    """

    inputs: NDArray[np.float32]
    density: NDArray[np.float32]
    scores: tuple[NDArray[np.float32], ...]
    lesions: NDArray[np.int32]
    lesion_scores: NDArray[np.float32]
    anatomy: NDArray[np.float32]
    anatomy_known: NDArray[np.float32]


class CropSampler:
    """Draws the batch of any training step, the same for the same seed and step.

    Args:
        scans: Training scans.
        weights: How often each is drawn from, in relation to the others; all alike by default.
        seed: Seed of all batches.
        batch_size: Crops per batch.
        crop_size: Lattice points per side.
        block_sizes: Squares whose scores are given.
        augmentation: How crops are changed.
        coronary_share: Share of crops near coronary calcium, where a scan has any.
        anywhere_share: Share of crops placed anywhere; the rest is near other candidates.
        anatomy: Whether batches hold maps of the anatomy.

    Raises:
        ValueError: If there are no scans, or not one weight for each.
    """

    def __init__(
        self,
        scans: Sequence[LatticeScan],
        *,
        weights: Sequence[float] | None = None,
        seed: int = 0,
        batch_size: int = 16,
        crop_size: int = CROP_SIZE,
        block_sizes: tuple[int, ...] = BLOCK_SIZES,
        augmentation: CropAugmentation | None = None,
        coronary_share: float = CORONARY_SHARE,
        anywhere_share: float = ANYWHERE_SHARE,
        anatomy: bool = False,
    ) -> None:
        if not scans:
            raise ValueError("training needs at least one scan. Received: none")
        if weights is not None and len(weights) != len(scans):
            raise ValueError(
                f"there must be one weight per scan. Received: {len(weights)} for {len(scans)}"
            )
        self.scans = scans
        self.weights = None if weights is None else np.array(weights, float) / sum(weights)
        self.seed = seed
        self.batch_size = batch_size
        self.crop_size = crop_size
        self.block_sizes = block_sizes
        self.augmentation = augmentation or CropAugmentation()
        self.coronary_share = coronary_share
        self.anywhere_share = anywhere_share
        self.anatomy = anatomy
        self._tables = [ComponentTable.of(scan) for scan in scans]

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        rng = np.random.default_rng([self.seed, step])
        size = self.crop_size
        inputs = np.empty((self.batch_size, size, size, INPUT_CHANNELS), np.float32)
        density = np.empty((self.batch_size, size, size), np.float32)
        wanted = np.empty_like(density)
        lesions = np.zeros(density.shape, np.int32)
        cells = size // MAP_CELL if self.anatomy else 0
        maps = np.zeros((self.batch_size, cells, cells, len(STRUCTURES)), np.float32)
        known = np.zeros((self.batch_size, len(STRUCTURES)), np.float32)
        count = 0
        for item in range(self.batch_size):
            which = int(rng.choice(len(self.scans), p=self.weights))
            number, corner = self._place(rng, which)
            scan = self.scans[which]
            inputs[item], density[item], wanted[item] = scan.crop(
                number, corner, size, change=self.augmentation.draw(rng)
            )
            scan.mark_lesions(lesions[item], number, corner, first=count + 1)
            count = max(count, int(lesions[item].max()))
            if self.anatomy:
                maps[item], known[item] = scan.anatomy_maps(number, corner, size)
        lesion_scores = np.bincount(lesions.ravel(), wanted.ravel()).astype(np.float32)
        scores = tuple(block_sums(wanted, b) for b in self.block_sizes)
        return Batch(inputs, density, scores, lesions, lesion_scores, maps, known)

    def _place(self, rng: np.random.Generator, which: int) -> tuple[int, tuple[int, int]]:
        """Slice and corner of a crop: on coronary calcium, on other candidates, or anywhere."""
        scan, table = self.scans[which], self._tables[which]
        room = LATTICE_SIZE - self.crop_size
        mode = rng.random()
        chosen = table.draw(rng, coronary=True) if mode < self.coronary_share else None
        if chosen is None and mode < 1.0 - self.anywhere_share:
            chosen = table.draw(rng, coronary=False)
        if chosen is None:
            row, col = rng.integers(0, room + 1, 2)
            return int(rng.integers(len(scan.hu))), (int(row), int(col))
        number, row, col = scan.points[chosen]
        offset = rng.integers(8, self.crop_size - 8, 2)
        corner = np.clip(np.array([row, col]) - offset, 0, room)
        return int(number), (int(corner[0]), int(corner[1]))


def shared_weights(is_part: Sequence[bool], share: float | None) -> list[float] | None:
    """Weights by which a part of the scans has its share of the crops, whatever their number.

    Args:
        is_part: Whether each scan belongs to the part.
        share: Share of the part, 0-1; `None` draws all scans alike.

    Returns:
        One weight per scan; `None`, all alike, where there are scans of one kind alone.
    """
    count = sum(is_part)
    if share is None or count in (0, len(is_part)):
        return None
    inside, outside = share / count, (1.0 - share) / (len(is_part) - count)
    return [inside if it_is else outside for it_is in is_part]


@dataclass(frozen=True)
class ComponentTable:
    """In-plane components of a scan with the weights they are drawn by.

    Large components are drawn more often than specks, and what lies in the heart more
    often than the bones around it.

    Args:
        order: Point numbers sorted by component, shape `(m,)`.
        starts: First position in `order` of each component, and the end, shape `(c + 1,)`.
        coronary: Cumulative weights of components with coronary calcium, shape `(c,)`.
        other: Cumulative weights of the rest.
    """

    order: NDArray[np.intp]
    starts: NDArray[np.intp]
    coronary: NDArray[np.float64]
    other: NDArray[np.float64]

    @classmethod
    def of(cls, scan: LatticeScan) -> ComponentTable:
        """Table of a scan."""
        order = np.argsort(scan.component, kind="stable")
        change = np.flatnonzero(np.diff(scan.component[order])) + 1
        starts = np.concatenate([[0], change, [len(order)]]).astype(np.intp)
        if len(order) == 0:
            return cls(order, np.zeros(1, np.intp), np.zeros(0), np.zeros(0))
        score = np.add.reduceat(scan.density[order], starts[:-1]).astype(np.float64)
        wanted = np.add.reduceat(scan.coronary[order], starts[:-1])
        middle = scan.points[order[(starts[:-1] + starts[1:]) // 2]].astype(np.float64)
        radius = np.linalg.norm(scan.unit_coordinates(middle), axis=1)
        weight = np.log1p(score) + 0.3
        fade = np.exp(-np.maximum(radius - 1.0, 0.0) / HEART_FADE_UNITS)
        return cls(
            order,
            starts,
            np.cumsum(weight * (wanted > 0)),
            np.cumsum(weight * fade * (wanted <= 0)),
        )

    def draw(self, rng: np.random.Generator, *, coronary: bool) -> int | None:
        """Number of a point in a drawn component; `None` if there is no such component."""
        weights = self.coronary if coronary else self.other
        if len(weights) == 0 or weights[-1] <= 0:
            return None
        place = rng.random() * weights[-1]
        component = min(int(np.searchsorted(weights, place, side="right")), len(weights) - 1)
        return int(self.order[rng.integers(self.starts[component], self.starts[component + 1])])


def block_sums(values: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """Sums over squares, shape `(n, h, w)` to `(n, h / block, w / block)`."""
    n, h, w = values.shape
    split = values.reshape(n, h // block, block, w // block, block)
    return np.asarray(split.sum(axis=(2, 4)))
