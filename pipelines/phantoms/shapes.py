"""Implicit shapes and the canvas they are painted on.

A shape is a function that is negative inside, positive outside and close to a distance
in mm near its surface; painting turns that into occupancy with a soft edge of one voxel,
so that organ borders carry partial volume instead of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from registration.geometry import ImageGrid

Array = NDArray[np.float32]
Box = tuple[slice, slice, slice]
FAR_MM = 99.0
"""Distance given to voxels that no shape reaches, mm."""


def ellipsoid(
    points: Sequence[Array], center: ArrayLike, radii: ArrayLike, axes: ArrayLike | None = None
) -> Array:
    """Approximate signed distance to an ellipsoid, mm.

    Exact on the surface and to first order near it; far away it underestimates.

    Args:
        points: Coordinates x, y, z in mm, three arrays of one shape.
        center: Middle, mm.
        radii: Semi-axes along `axes`, mm.
        axes: Rows are the unit vectors of the semi-axes; the coordinate axes if absent.
    """
    offset = [p - np.float32(c) for p, c in zip(points, np.asarray(center, float), strict=True)]
    if axes is not None:
        rows = np.asarray(axes, np.float32)
        offset = [sum(r[k] * offset[k] for k in range(3)) for r in rows]
    scaled = [o / np.float32(r) for o, r in zip(offset, np.asarray(radii, float), strict=True)]
    norm = np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2)
    steep = [s / np.float32(r) for s, r in zip(scaled, np.asarray(radii, float), strict=True)]
    gradient = np.sqrt(steep[0] ** 2 + steep[1] ** 2 + steep[2] ** 2)
    result: Array = norm * (norm - 1) / np.maximum(gradient, np.float32(1e-6))
    return np.where(norm < 1e-3, np.float32(-np.min(radii)), result)


def capsule(
    points: Sequence[Array], start: ArrayLike, stop: ArrayLike, radii: tuple[float, float]
) -> Array:
    """Signed distance to a segment thickened to a radius that tapers linearly, mm.

    Args:
        points: Coordinates x, y, z in mm, three arrays of one shape.
        start: First end of the segment, mm.
        stop: Second end, mm; may equal `start` (a ball).
        radii: Radius at either end, mm.
    """
    a, b = np.asarray(start, np.float32), np.asarray(stop, np.float32)
    direction = b - a
    length2 = max(float(direction @ direction), 1e-6)
    x, y, z = (p - c for p, c in zip(points, a, strict=True))
    along = (x * direction[0] + y * direction[1] + z * direction[2]) / np.float32(length2)
    along = np.clip(along, 0, 1)
    dx, dy, dz = (q - along * d for q, d in zip((x, y, z), direction, strict=True))
    radius = np.float32(radii[0]) + along * np.float32(radii[1] - radii[0])
    result: Array = np.sqrt(dx * dx + dy * dy + dz * dz) - radius
    return result


def smooth_min(a: Array, b: Array, blend_mm: float) -> Array:
    """Union of two shapes whose crease is filled over `blend_mm`."""
    h = np.maximum(np.float32(blend_mm) - np.abs(a - b), 0)
    result: Array = np.minimum(a, b) - h * h * np.float32(0.25 / blend_mm)
    return result


def smooth_curve(points: ArrayLike, step_mm: float = 1.0) -> NDArray[np.float64]:
    """Catmull-Rom curve through `points`, resampled at about `step_mm`; shape `(n, 3)`.

    Example:
        >>> smooth_curve([[0, 0, 0], [10, 0, 0]], step_mm=5.0).tolist()
        [[0.0, 0.0, 0.0], [5.0, 0.0, 0.0], [10.0, 0.0, 0.0]]
    """
    knots = np.asarray(points, float)
    padded = np.vstack([2 * knots[0] - knots[1], knots, 2 * knots[-1] - knots[-2]])
    pieces = []
    for p0, p1, p2, p3 in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        t = np.linspace(0, 1, 16, endpoint=False)[:, None]
        pieces.append(
            p1
            + 0.5 * t * (p2 - p0)
            + t**2 * (p0 - 2.5 * p1 + 2 * p2 - 0.5 * p3)
            + 0.5 * t**3 * (3 * p1 - 3 * p2 + p3 - p0)
        )
    dense = np.vstack([*pieces, knots[-1:]])
    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(dense, axis=0), axis=1))])
    count = max(round(float(arc[-1]) / step_mm), 1) + 1
    where = np.linspace(0, arc[-1], count)
    return np.stack([np.interp(where, arc, dense[:, k]) for k in range(3)], axis=1)


class Canvas:
    """A voxel volume that shapes are painted on, in order, each over what was there.

    Args:
        grid: Axis-aligned grid of the volume, scanner LPS mm.
        to_anatomy: Maps scanner points `(n, 3)` to the anatomy's own frame, mm; evaluated
            on a coarse lattice and interpolated, so it must be smooth.
        to_scanner: The inverse map, used to find the voxels near a shape.
        background_hu: Initial value.
    """

    def __init__(
        self,
        grid: ImageGrid,
        to_anatomy: Callable[[NDArray[np.float64]], NDArray[np.float64]],
        to_scanner: Callable[[NDArray[np.float64]], NDArray[np.float64]],
        background_hu: float = -1000.0,
    ) -> None:
        self.grid = grid
        self.hu = np.full(grid.shape, background_hu, np.float32)
        self.labels = np.zeros(grid.shape, np.uint8)
        self.points = _coordinates(grid, to_anatomy)
        self._to_anatomy, self._to_scanner = to_anatomy, to_scanner
        self.whole: Box = (slice(None), slice(None), slice(None))

    def boxes(self, low: ArrayLike, high: ArrayLike) -> list[Box | None]:
        """Index boxes of all voxels within anatomical bounds.

        Args:
            low: Lower corners in mm, shape `(n, 3)`.
            high: Upper corners in mm, shape `(n, 3)`.

        Returns:
            One box per pair of corners; `None` where it lies outside the volume.
        """
        ends = np.stack([np.asarray(low, float), np.asarray(high, float)], axis=1)
        corners = np.stack(
            [
                np.stack([ends[:, i, 0], ends[:, j, 1], ends[:, k, 2]], axis=-1)
                for i, j, k in np.ndindex(2, 2, 2)
            ],
            axis=1,
        )
        placed = self._to_scanner(corners.reshape(-1, 3))
        index = self.grid.indices(placed).reshape(len(ends), 8, 3)
        first = np.maximum(np.floor(index.min(axis=1)).astype(int), 0)
        last = np.minimum(np.ceil(index.max(axis=1)).astype(int) + 1, np.array(self.grid.size))
        return [
            (slice(a[2], b[2]), slice(a[1], b[1]), slice(a[0], b[0])) if there else None
            for a, b, there in zip(
                first.tolist(), last.tolist(), np.all(first < last, axis=1), strict=True
            )
        ]

    def box(self, low: ArrayLike, high: ArrayLike, margin_mm: float = 4.0) -> Box | None:
        """Index box of all voxels within anatomical bounds; `None` if outside the volume."""
        wide = [np.asarray(low, float)[None] - margin_mm, np.asarray(high, float)[None] + margin_mm]
        return self.boxes(*wide)[0]

    def coarse(self, spacing_mm: float, box: Box | None = None) -> Canvas:
        """A canvas of larger voxels with the same first and last voxel centers.

        Distances to large smooth shapes are evaluated there and brought back with `refine`.

        Args:
            spacing_mm: About the size of its voxels.
            box: Part of this canvas to cover; all of it if absent.
        """
        sides = [range(n)[s] for n, s in zip(self.grid.shape, box or self.whole, strict=True)]
        first = [side[0] for side in sides[::-1]]
        count = np.array([len(side) for side in sides[::-1]])
        extent = (count - 1) * np.array(self.grid.spacing)
        knots = np.maximum(np.ceil(extent / spacing_mm).astype(int) + 1, 2)
        step = np.maximum(extent, 1e-3) / (knots - 1)
        origin = self.grid.physical_points([first])[0]
        grid = ImageGrid(tuple(knots.tolist()), tuple(step.tolist()), tuple(origin.tolist()))
        return Canvas(grid, self._to_anatomy, self._to_scanner)

    def local(self, box: Box) -> tuple[Array, Array, Array]:
        """Anatomical coordinates x, y, z (mm) of the voxels of a box."""
        x, y, z = self.points
        return x[box], y[box], z[box]

    def paint(self, box: Box, distance: Array, hu: float | Array, label: int | None = None) -> None:
        """Replace what is inside a shape by `hu`, with an edge one voxel wide."""
        step = np.float32(max(self.grid.spacing))
        target, labels = self.hu[box], self.labels[box]
        for k, plane in enumerate(distance):  # slice by slice, so that it stays in the cache
            if plane.min() >= step / 2:
                continue
            occupancy = plane * (-1 / step)
            occupancy += np.float32(0.5)
            np.clip(occupancy, 0, 1, out=occupancy)
            change = (hu[k] if isinstance(hu, np.ndarray) else np.float32(hu)) - target[k]
            change *= occupancy
            target[k] += change
            if label is not None:
                labels[k][plane < 0] = label

    def paint_ellipsoid(
        self,
        center: ArrayLike,
        radii: ArrayLike,
        hu: float,
        label: int | None = None,
        axes: ArrayLike | None = None,
    ) -> None:
        """Paint one ellipsoid; see `ellipsoid`."""
        reach = np.full(3, np.max(radii)) if axes is not None else np.asarray(radii, float)
        box = self.box(np.asarray(center) - reach, np.asarray(center) + reach)
        if box is not None:
            self.paint(box, ellipsoid(self.local(box), center, radii, axes), hu, label)


class TubeField:
    """Distance to a set of tubes over a whole canvas, filled segment by segment."""

    def __init__(self, canvas: Canvas) -> None:
        self.canvas = canvas
        self.distance = np.full(canvas.grid.shape, FAR_MM, np.float32)

    def add(self, points: ArrayLike, radii: ArrayLike | float, margin_mm: float = 4.0) -> None:
        """Add a tube along a polyline (mm, shape `(n, 3)`), one radius or one per point."""
        path = np.asarray(points, float)
        sizes = np.broadcast_to(np.asarray(radii, float), (len(path),))
        self.add_segments(path[:-1], path[1:], sizes[:-1], sizes[1:], margin_mm)

    def add_segments(
        self,
        starts: ArrayLike,
        stops: ArrayLike,
        start_radii: ArrayLike,
        stop_radii: ArrayLike,
        margin_mm: float = 4.0,
    ) -> None:
        """Add many tapered segments: ends in mm, shape `(n, 3)`, radii in mm, shape `(n,)`."""
        a, b = np.asarray(starts, float), np.asarray(stops, float)
        ra, rb = np.asarray(start_radii, float), np.asarray(stop_radii, float)
        reach = (np.maximum(ra, rb) + margin_mm)[:, None]
        boxes = self.canvas.boxes(np.minimum(a, b) - reach, np.maximum(a, b) + reach)
        for k, box in enumerate(boxes):
            if box is not None:
                view = self.distance[box]
                part = capsule(self.canvas.local(box), a[k], b[k], (float(ra[k]), float(rb[k])))
                np.minimum(view, part, out=view)

    def paint(self, hu: float, label: int | None = None, inset_mm: float = 0.0) -> None:
        """Paint all tubes, shrunk by `inset_mm`, on the canvas."""
        canvas = self.canvas
        near = np.flatnonzero(self.distance < max(canvas.grid.spacing) - inset_mm)
        distance = self.distance.ravel()[near] + np.float32(inset_mm)
        occupancy = np.clip(0.5 - distance / np.float32(max(canvas.grid.spacing)), 0, 1)
        values = canvas.hu.reshape(-1)
        values[near] += occupancy * (np.float32(hu) - values[near])
        if label is not None:
            canvas.labels.reshape(-1)[near[distance < 0]] = label


def refine(coarse: NDArray[np.floating], shape: tuple[int, ...]) -> Array:
    """Trilinear enlargement to `shape`; first and last samples stay in place.

    Example:
        >>> refine(np.array([[[0.0, 2.0]]]), (1, 1, 3)).tolist()
        [[[0.0, 1.0, 2.0]]]
    """
    small = np.asarray(coarse, np.float32)
    low, high, part = _neighbors(shape[2], small.shape[2])
    small = small[..., low] * (1 - part) + small[..., high] * part
    low, high, part = _neighbors(shape[1], small.shape[1])
    small = small[:, low] * (1 - part[:, None]) + small[:, high] * part[:, None]
    low, high, part = _neighbors(shape[0], small.shape[0])
    result = np.empty(shape, np.float32)
    for k, (i, j, share) in enumerate(zip(low, high, part, strict=True)):
        np.multiply(small[j] - small[i], share, out=result[k])
        result[k] += small[i]
    return result


def _coordinates(
    grid: ImageGrid, to_anatomy: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> tuple[Array, Array, Array]:
    """Anatomical coordinates of every voxel, from a lattice about 10 mm wide."""
    counts = [max(int(np.ceil(e / 10.0)) + 1, 2) for e in grid.extent_mm]
    axes = [np.linspace(0, n - 1, c) for n, c in zip(grid.size, counts, strict=True)]
    index = np.stack(np.meshgrid(*axes[::-1], indexing="ij")[::-1], axis=-1)
    coarse = to_anatomy(grid.physical_points(index).reshape(-1, 3)).reshape(index.shape)
    x, y, z = (refine(coarse[..., k], grid.shape) for k in range(3))
    return x, y, z


def _neighbors(count: int, knots: int) -> tuple[NDArray[np.int_], NDArray[np.int_], Array]:
    """Lower and upper knot, and the share of the upper, of `count` evenly spaced places."""
    where = np.linspace(0, knots - 1, count)
    low = np.minimum(where.astype(int), max(knots - 2, 0))
    return low, np.minimum(low + 1, knots - 1), (where - low).astype(np.float32)
