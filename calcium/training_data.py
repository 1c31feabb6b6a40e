"""Labeled scans on the lattice, and the batches that training draws from them.

What a network learns from is the score of a crop: the density of the crop's coronary
calcium, summed. The sums are made here from the splatted density; the labels themselves
never reach the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from calcium.crop_augmentation import CropAugmentation, CropChange
from calcium.density import find_candidates
from calcium.heart_field import LATTICE_SIZE, HeartField
from calcium.labeled_scan import LabeledScan
from calcium.networks.slice_inputs import INPUT_CHANNELS, slice_inputs
from calcium.presets import DEFAULT_PRESET, Preset
from registration.geometry import Ellipsoid, ImageGrid

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
class LatticeScan:
    """One labeled scan as the networks see it.

    Args:
        name: Name of the scan.
        group: Patient or phantom.
        kind: `"cardiac"` or `"chest"`.
        field: Lattice geometry.
        hu: Lattice attenuation of the field's slices, int16, shape `(n, 256, 256)`.
        points: Lattice points with density: slice, row, column; int32, shape `(m, 3)`.
        density: Splatted Agatston density at the points, shape `(m,)`.
        coronary: The part of it that is coronary, shape `(m,)`.
        area: Share of each point that is candidate, shape `(m,)`.
        component: In-plane component of each point, from 0, shape `(m,)`.
    """

    name: str
    group: str
    kind: str
    field: HeartField
    hu: NDArray[np.int16]
    points: NDArray[np.int32]
    density: NDArray[np.float32]
    coronary: NDArray[np.float32]
    area: NDArray[np.float32]
    component: NDArray[np.int32]

    @property
    def agatston(self) -> float:
        """True score of the scan inside the field."""
        return float(self.coronary.sum())

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of lattice points, `(z, y, x)`, mm."""
        x, y, z = self.field.grid.spacing
        return z, y * self.field.step_vox[0], x * self.field.step_vox[1]

    def crop(
        self,
        number: int,
        corner: tuple[int, int],
        size: int,
        *,
        change: CropChange | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Input, density and coronary density of one square of one slice.

        Args:
            number: Slice, counted from the field's first.
            corner: First lattice row and column.
            size: Lattice points per side.
            change: What is changed about the input; nothing by default.

        Returns:
            Input `(size, size, 10)`, density and coronary density `(size, size)`.
        """
        rows = slice(corner[0], corner[0] + size)
        cols = slice(corner[1], corner[1] + size)
        shown = np.clip(number + self.field.context_offsets, 0, len(self.hu) - 1)
        coordinates = self.field.coordinates(self.field.slices[0] + number, rows, cols)
        maps = np.zeros((3, size, size), np.float32)
        here = self._points_in(number, corner, size)
        local = self.points[here, 1:] - np.array(corner)
        for image, values in zip(maps, (self.density, self.coronary, self.area), strict=True):
            image[local[:, 0], local[:, 1]] = values[here]
        context = self.hu[shown][:, rows, cols].astype(np.float32)
        inputs = slice_inputs(context[None], maps[None, 2], coordinates[None])[0]
        if change is not None:
            change.apply(inputs)
        return inputs, maps[0], maps[1]

    def mark_lesions(
        self, image: NDArray[np.int32], number: int, corner: tuple[int, int], *, first: int
    ) -> None:
        """Write the in-plane lesions of a square of a slice into an image, counted from `first`."""
        here = self._points_in(number, corner, len(image))
        rows, cols = (self.points[here, 1:] - np.array(corner)).T
        image[rows, cols] = first + np.unique(self.component[here], return_inverse=True)[1]

    def unit_coordinates(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Heart-unit coordinates of lattice points (slice, row, column), shape `(n, 3)`."""
        field = self.field
        index = np.stack(
            [
                field.start_vox[1] + points[:, 2] * field.step_vox[1],
                field.start_vox[0] + points[:, 1] * field.step_vox[0],
                field.slices[0] + points[:, 0],
            ],
            axis=1,
        )
        matrix = (field.to_unit @ field.grid.index_to_physical_matrix)[:3]
        return index @ matrix[:, :3].T + matrix[:, 3]

    def _points_in(self, number: int, corner: tuple[int, int], size: int) -> NDArray[np.intp]:
        first, last = np.searchsorted(self.points[:, 0], [number, number + 1])
        part = self.points[first:last, 1:] - np.array(corner)
        inside = np.all((part >= 0) & (part < size), axis=1)
        return np.asarray(first + np.flatnonzero(inside))


def lattice_scan(
    scan: LabeledScan, heart: Ellipsoid, preset: Preset = DEFAULT_PRESET
) -> LatticeScan:
    """Bring a labeled scan onto the lattice; the sum of its density stays exact.

    Args:
        scan: Scan with axes along (S, P, L).
        heart: Heart in the atlas.
        preset: Definition of the score.
    """
    field = HeartField.locate(scan.grid, heart.unit_matrix(scan.atlas_to_scan))
    first, last = field.slices
    hu = np.rint(field.sample(np.asarray(scan.volume_hu[first:last]))).astype(np.int16)
    candidates = find_candidates(scan.volume_hu, scan.grid, preset)
    z, y, x = candidates.index.T
    keep = (candidates.density > 0) & (z >= first) & (z < last) & field.inside_reach(z, y, x)
    if scan.ignored is not None:
        keep &= ~scan.ignored[z, y, x]
    z, y, x, density = z[keep], y[keep], x[keep], candidates.density[keep]
    wanted = density * scan.coronary[z, y, x]
    parts = []
    for number in range(first, last):
        at = slice(*np.searchsorted(z, [number, number + 1]))
        dense, coronary, count = (
            field.splat(values, y[at], x[at])
            for values in (density[at], wanted[at], np.ones(at.stop - at.start))
        )
        area = count / np.float32(field.step_vox[0] * field.step_vox[1])
        parts.append(_slice_points(number - first, dense, coronary, area))
    columns = [np.concatenate(c) for c in zip(*parts, strict=True)] if parts else None
    if columns is None:
        columns = [
            np.zeros((0, 3), np.int32),
            *[np.zeros(0, np.float32)] * 3,
            np.zeros(0, np.int32),
        ]
    points, dense, coronary, area, component = columns
    return LatticeScan(
        scan.name, scan.group, scan.kind, field, hu, points, dense, coronary, area, component
    )


def _slice_points(
    number: int,
    density: NDArray[np.float32],
    coronary: NDArray[np.float32],
    area: NDArray[np.float32],
) -> tuple[NDArray[Any], ...]:
    """Sparse form of one slice's maps; component labels are unique within a scan."""
    labels, _ = ndimage.label(density > 0, np.ones((3, 3), bool))
    rows, cols = np.nonzero(density)
    points = np.stack([np.full(len(rows), number), rows, cols], axis=1).astype(np.int32)
    component = (labels[rows, cols] - 1 + number * LATTICE_SIZE**2).astype(np.int32)
    return points, density[rows, cols], coronary[rows, cols], area[rows, cols], component


def save_lattice_scan(path: Path, scan: LatticeScan) -> None:
    """Write a lattice scan as `.npz`, by atomic rename."""
    grid, field = scan.field.grid, scan.field
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        text=np.array([scan.name, scan.group, scan.kind]),
        size=grid.size,
        spacing=grid.spacing,
        origin=grid.origin,
        direction=grid.direction,
        to_unit=field.to_unit,
        start=field.start_vox,
        step=field.step_vox,
        slices=field.slices,
        hu=scan.hu,
        points=scan.points,
        density=scan.density,
        coronary=scan.coronary,
        area=scan.area,
        component=scan.component,
    )
    partial.rename(path)


def load_lattice_scan(path: Path) -> LatticeScan:
    """Read what `save_lattice_scan` wrote."""
    with np.load(path, allow_pickle=False) as data:
        grid = ImageGrid(
            *(tuple(data[k].tolist()) for k in ("size", "spacing", "origin", "direction"))
        )
        name, group, kind = (str(t) for t in data["text"])
        pairs = (tuple(data[k].tolist()) for k in ("start", "step", "slices"))
        field = HeartField(grid, data["to_unit"], *pairs)
        arrays = [data[k] for k in ("hu", "points", "density", "coronary", "area", "component")]
    return LatticeScan(name, group, kind, field, *arrays)


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
    """

    inputs: NDArray[np.float32]
    density: NDArray[np.float32]
    scores: tuple[NDArray[np.float32], ...]
    lesions: NDArray[np.int32]
    lesion_scores: NDArray[np.float32]


class CropSampler:
    """Draws the batch of any training step, the same for the same seed and step.

    Args:
        scans: Training scans.
        seed: Seed of all batches.
        batch_size: Crops per batch.
        crop_size: Lattice points per side.
        block_sizes: Squares whose scores are given.
        augmentation: How crops are changed.
        coronary_share: Share of crops near coronary calcium, where a scan has any.
        anywhere_share: Share of crops placed anywhere; the rest is near other candidates.

    Raises:
        ValueError: If there are no scans.
    """

    def __init__(
        self,
        scans: Sequence[LatticeScan],
        *,
        seed: int = 0,
        batch_size: int = 16,
        crop_size: int = CROP_SIZE,
        block_sizes: tuple[int, ...] = BLOCK_SIZES,
        augmentation: CropAugmentation | None = None,
        coronary_share: float = CORONARY_SHARE,
        anywhere_share: float = ANYWHERE_SHARE,
    ) -> None:
        if not scans:
            raise ValueError("training needs at least one scan. Received: none")
        self.scans = scans
        self.seed = seed
        self.batch_size = batch_size
        self.crop_size = crop_size
        self.block_sizes = block_sizes
        self.augmentation = augmentation or CropAugmentation()
        self.coronary_share = coronary_share
        self.anywhere_share = anywhere_share
        self._tables = [ComponentTable.of(scan) for scan in scans]

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        rng = np.random.default_rng([self.seed, step])
        size = self.crop_size
        inputs = np.empty((self.batch_size, size, size, INPUT_CHANNELS), np.float32)
        density = np.empty((self.batch_size, size, size), np.float32)
        wanted = np.empty_like(density)
        lesions = np.zeros(density.shape, np.int32)
        for item in range(self.batch_size):
            which = int(rng.integers(len(self.scans)))
            number, corner = self._place(rng, which)
            scan = self.scans[which]
            inputs[item], density[item], wanted[item] = scan.crop(
                number, corner, size, change=self.augmentation.draw(rng)
            )
            scan.mark_lesions(lesions[item], number, corner, first=int(lesions.max()) + 1)
        lesion_scores = np.bincount(lesions.ravel(), wanted.ravel()).astype(np.float32)
        scores = tuple(block_sums(wanted, b) for b in self.block_sizes)
        return Batch(inputs, density, scores, lesions, lesion_scores)

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
