"""Labeled scans on the lattice, as scoring networks see them, and their files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from calcium.anatomy_maps import MAP_CELL, NO_ANATOMY, AnatomyPoints
from calcium.crop_augmentation import CropChange
from calcium.density import find_candidates
from calcium.heart_field import LATTICE_SIZE, HeartField
from calcium.labeled_scan import LabeledScan
from calcium.mapped_arrays import mapped_array
from calcium.networks.slice_inputs import slice_inputs
from calcium.presets import DEFAULT_PRESET, Preset
from registration.geometry import Ellipsoid, ImageGrid


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
        anatomy: What is known of where arteries, aorta and valves lie.
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
    anatomy: AnatomyPoints = NO_ANATOMY

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
        # slice by slice: all of them at once would be read whole
        context = np.stack([self.hu[z, rows, cols] for z in shown]).astype(np.float32)
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

    def anatomy_maps(
        self, number: int, corner: tuple[int, int], size: int
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Structures of a square of a slice, in cells of `MAP_CELL` lattice points.

        Returns:
            Maps `(size / MAP_CELL, size / MAP_CELL, structures)`, and which are known.
        """
        cells = size // MAP_CELL
        middles = np.arange(cells) * MAP_CELL + (MAP_CELL - 1) / 2
        rows, cols = np.meshgrid(corner[0] + middles, corner[1] + middles, indexing="ij")
        points = np.stack([np.full(rows.size, number), rows.ravel(), cols.ravel()], axis=1)
        maps, known = self.anatomy.maps(self.field.grid.physical_points(self._native(points)))
        return maps.reshape(cells, cells, -1), known

    def _native(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Native index (x, y, z) of lattice points (slice, row, column), shape `(n, 3)`."""
        field = self.field
        return np.stack(
            [
                field.start_vox[1] + points[:, 2] * field.step_vox[1],
                field.start_vox[0] + points[:, 1] * field.step_vox[0],
                field.slices[0] + points[:, 0],
            ],
            axis=1,
        )

    def unit_coordinates(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Heart-unit coordinates of lattice points (slice, row, column), shape `(n, 3)`."""
        matrix = (self.field.to_unit @ self.field.grid.index_to_physical_matrix)[:3]
        return self._native(points) @ matrix[:, :3].T + matrix[:, 3]

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
        scan.name,
        scan.group,
        scan.kind,
        field,
        hu,
        points,
        dense,
        coronary,
        area,
        component,
        scan.anatomy,
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
        anatomy_mm=scan.anatomy.points_mm,
        anatomy_radii_mm=scan.anatomy.radii_mm,
        anatomy_structure=scan.anatomy.structure,
    )
    partial.rename(path)


def load_lattice_scan(path: Path) -> LatticeScan:
    """Read what `save_lattice_scan` wrote; attenuation stays on disk until it is looked at.

    A thousand scans would not fit into the memory of a small machine, and processes that train
    on the same ones share what they have looked at.
    """
    with np.load(path, allow_pickle=False) as data:
        grid = ImageGrid(
            *(tuple(data[k].tolist()) for k in ("size", "spacing", "origin", "direction"))
        )
        name, group, kind = (str(t) for t in data["text"])
        pairs = (tuple(data[k].tolist()) for k in ("start", "step", "slices"))
        field = HeartField(grid, data["to_unit"], *pairs)
        arrays = [data[k] for k in ("points", "density", "coronary", "area", "component")]
        anatomy = AnatomyPoints(*(data[f"anatomy_{k}"] for k in ("mm", "radii_mm", "structure")))
    scan = LatticeScan(name, group, kind, field, mapped_array(path, "hu"), *arrays)
    return replace(scan, anatomy=anatomy)
