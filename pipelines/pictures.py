"""Pictures of a report: slices with what counts in them, and the scan beside the atlas.

Gray values go into the page as WebP, outlines as vectors in millimeters, so that they
stay sharp on screen and paper. Slices are shown as radiologists hang them: the
patient's right on the left, front on top.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from registration.geometry import ImageGrid, affine_matrix, transform_points

WINDOW_HU = (-160.0, 440.0)
"""Black and white of a slice, HU: fat is dark, muscle gray, calcium white."""

ATLAS_WINDOW_HU = (-250.0, 350.0)
"""Black and white of the views beside the atlas, HU."""

HEART_MARGIN_MM = 12.0
"""Room left around the heart in a picture, mm."""

VIEW_SCALE = 1.7
"""Part of the atlas shown beside the scan, in units of the heart's radii."""

CONTRIBUTION_FLOOR = 0.05
"""Slices that add less to the Agatston score cannot move the printed whole number and get
no picture of their own; the report gives their sum."""

FULL_SIZE_SLICES = 24
"""Slices shown large, plain beside marked, most contribution first; others as thumbnails."""

THUMBNAIL_STEP = 2
"""Every so many pixels of a slice make a thumbnail."""

DRAWN_SHARE = 0.01
"""Voxels below this share of the scan's largest contribution per voxel are not drawn."""

LEVEL_EDGES = (0.1, 0.5)
"""Shares of the scan's largest contribution per voxel at which the overlay grows denser."""

AIR_HU = -1000.0
"""Shown where the atlas lies outside the scan, HU."""

_WEBP_QUALITY = 82


class Region(Protocol):
    """An axis-aligned ellipsoid, LPS mm."""

    @property
    def center_mm(self) -> tuple[float, ...]:
        """Center."""

    @property
    def radii_mm(self) -> tuple[float, ...]:
        """Half axes along x, y, z."""


@dataclass(frozen=True, slots=True)
class SlicePicture:
    """One slice that contributes, cut to the heart; lengths in mm from the upper left corner.

    Args:
        index: Slice, counted from 0 at the first slice of the grid.
        z_mm: Position of the middle of the picture along S, LPS mm.
        agatston: What the slice adds to the score.
        image_uri: The gray values, a data URI.
        width_mm: Width of the picture.
        height_mm: Height of the picture.
        fills: Area of the voxels that count as SVG paths, faintest first.
        outline: Border of all of them as an SVG path.
        is_thumbnail: True if the gray values are coarse.
    """

    index: int
    z_mm: float
    agatston: float
    image_uri: str
    width_mm: float
    height_mm: float
    fills: tuple[str, ...]
    outline: str
    is_thumbnail: bool = False


@dataclass(frozen=True, slots=True)
class AtlasView:
    """One plane through the heart of the atlas, atlas and scan; lengths in mm.

    Args:
        name: `"axial"`, `"coronal"` or `"sagittal"`.
        atlas_uri: The atlas, a data URI.
        scan_uri: The scan resampled to the atlas, a data URI.
        width_mm: Width of both.
        height_mm: Height of both.
        heart: Center and radii of the heart's outline: `(x, y, rx, ry)`.
        lesions: Centers of the lesions, projected onto the plane: `(x, y)` each.
        edges: Letters of the patient's sides: left edge, right edge.
    """

    name: str
    atlas_uri: str
    scan_uri: str
    width_mm: float
    height_mm: float
    heart: tuple[float, float, float, float]
    lesions: tuple[tuple[float, float], ...]
    edges: tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Display:
    """How a slice of the grid is turned and cut for display."""

    is_transposed: bool
    flips: tuple[bool, bool]
    rows: slice
    columns: slice
    row_mm: float
    column_mm: float

    def apply(self, plane: NDArray[Any]) -> NDArray[Any]:
        shown = plane.T if self.is_transposed else plane
        shown = shown[:: -1 if self.flips[0] else 1, :: -1 if self.flips[1] else 1]
        return shown[self.rows, self.columns]


@dataclass(frozen=True, slots=True)
class _Plane:
    """A plane of the atlas grid as it is hung: axes (x, y, z) across, down and through."""

    name: str
    across: int
    down: int
    normal: int
    edges: tuple[str, str]

    @property
    def is_upside_down(self) -> bool:
        """True if the axis that runs down points to the head, which belongs on top."""
        return self.down == 2


_PLANES = (
    _Plane("axial", 0, 1, 2, ("R", "L")),
    _Plane("coronal", 0, 2, 1, ("R", "L")),
    _Plane("sagittal", 1, 2, 0, ("A", "P")),
)


def slice_pictures(
    image: sitk.Image,
    feedback: NDArray[np.floating],
    *,
    atlas_to_scan: sitk.Transform | None = None,
    heart: Region | None = None,
) -> tuple[SlicePicture, ...]:
    """Every slice that adds at least `CONTRIBUTION_FLOOR` to the score, in slice order.

    Args:
        image: Scan in HU, LPS mm.
        feedback: Contribution of each voxel to the Agatston score, shape `(z, y, x)`.
        atlas_to_scan: Pull-back from atlas to scan; without it slices are shown whole.
        heart: The heart in atlas space.

    Returns:
        The pictures; empty if nothing contributes.
    """
    per_slice = feedback.sum(axis=(1, 2), dtype=float)
    shown = np.flatnonzero(per_slice >= CONTRIBUTION_FLOOR)
    if shown.size == 0:
        return ()
    ranked = sorted(shown.tolist(), key=lambda k: (-per_slice[k], k))
    large = set(ranked[:FULL_SIZE_SLICES])
    volume_hu = sitk.GetArrayViewFromImage(image)
    grid = ImageGrid.from_image(image)
    peak = float(feedback.max())
    footprint = np.argwhere((feedback >= DRAWN_SHARE * peak).any(axis=0))[:, ::-1]
    display = _display(grid, footprint, atlas_to_scan, heart)
    middle = [*((np.array(grid.size[:2]) - 1) / 2), 0.0]
    pictures = []
    for k in shown.tolist():
        gray = _gray(display.apply(volume_hu[k]), WINDOW_HU)
        share = display.apply(feedback[k]) / peak
        step = 1 if k in large else THUMBNAIL_STEP
        middle[2] = k
        pictures.append(
            SlicePicture(
                index=k,
                z_mm=float(grid.physical_points(middle)[2]),
                agatston=float(per_slice[k]),
                image_uri=image_uri(gray[::step, ::step]),
                width_mm=gray.shape[1] * display.column_mm,
                height_mm=gray.shape[0] * display.row_mm,
                fills=tuple(
                    fill_path(level, display.row_mm, display.column_mm) for level in _levels(share)
                ),
                outline=outline_path(share >= DRAWN_SHARE, display.row_mm, display.column_mm),
                is_thumbnail=k not in large,
            )
        )
    return tuple(pictures)


def atlas_views(
    image: sitk.Image,
    atlas: sitk.Image,
    atlas_to_scan: sitk.Transform,
    heart: Region,
    lesion_centers_mm: ArrayLike = (),
) -> tuple[AtlasView, ...]:
    """Axial, coronal and sagittal plane through the heart's center, atlas and aligned scan.

    Args:
        image: Scan in HU, LPS mm.
        atlas: Atlas in HU, its axes along L, P and S.
        atlas_to_scan: Pull-back from atlas to scan, LPS mm.
        heart: The heart in atlas space.
        lesion_centers_mm: Centers of the lesions in the scan, LPS mm, shape `(n, 3)`.
    """
    centers = np.asarray(lesion_centers_mm, dtype=float).reshape(-1, 3)
    scan_to_atlas = np.linalg.inv(affine_matrix(atlas_to_scan))
    lesions = transform_points(scan_to_atlas, centers)
    return tuple(
        _atlas_view(plane, atlas, image, atlas_to_scan, heart, lesions) for plane in _PLANES
    )


def fill_path(mask: NDArray[np.bool_], row_mm: float, column_mm: float) -> str:
    """SVG path over the area of a mask, one rectangle for each run of pixels in a row.

    Example:
        >>> fill_path(np.array([[False, True, True]]), 2.0, 0.5)
        'M0.5 0h1v2h-1z'
    """
    return "".join(
        f"M{_mm(start * column_mm)} {_mm(row * row_mm)}h{_mm((stop - start) * column_mm)}"
        f"v{_mm(row_mm)}h{_mm((start - stop) * column_mm)}z"
        for row, start, stop in _runs(mask)
    )


def outline_path(mask: NDArray[np.bool_], row_mm: float, column_mm: float) -> str:
    """SVG path along the pixel edges between a mask and the rest.

    Example:
        >>> outline_path(np.array([[True]]), 2.0, 0.5)
        'M0 0h0.5M0 2h0.5M0 0v2M0.5 0v2'
    """
    padded = np.pad(mask, 1)
    horizontal = padded[1:, :] != padded[:-1, :]
    vertical = padded[:, 1:] != padded[:, :-1]
    lines = [
        f"M{_mm((start - 1) * column_mm)} {_mm(row * row_mm)}h{_mm((stop - start) * column_mm)}"
        for row, start, stop in _runs(horizontal)
    ]
    lines += [
        f"M{_mm(column * column_mm)} {_mm((start - 1) * row_mm)}v{_mm((stop - start) * row_mm)}"
        for column, start, stop in _runs(vertical.T)
    ]
    return "".join(lines)


def _runs(mask: NDArray[np.bool_]) -> Iterator[tuple[int, int, int]]:
    """Row, first and past-the-last column of every run of True."""
    for row in np.flatnonzero(mask.any(axis=1)):
        edges = np.flatnonzero(np.diff(np.pad(mask[row].astype(np.int8), 1)))
        for start, stop in edges.reshape(-1, 2).tolist():
            yield int(row), start, stop


def _levels(share: NDArray[np.floating]) -> Iterable[NDArray[np.bool_]]:
    bounds = (DRAWN_SHARE, *LEVEL_EDGES, np.inf)
    for low, high in pairwise(bounds):
        yield (share >= low) & (share < high)


def _display(
    grid: ImageGrid,
    footprint: NDArray[np.int64],
    atlas_to_scan: sitk.Transform | None,
    heart: Region | None,
) -> _Display:
    direction = grid.direction_matrix
    is_transposed = bool(abs(direction[0, 0]) < abs(direction[1, 0]))
    across, down = (1, 0) if is_transposed else (0, 1)
    flips = (bool(direction[1, down] < 0), bool(direction[0, across] < 0))
    lower, upper = np.zeros(2), np.array(grid.size[:2], dtype=float)
    if atlas_to_scan is not None and heart is not None:
        lower, upper = _heart_box(grid, atlas_to_scan, heart)
        lower = np.minimum(lower, footprint.min(axis=0))
        upper = np.maximum(upper, footprint.max(axis=0) + 1)
    spans = []
    for axis, is_flipped in ((down, flips[0]), (across, flips[1])):
        size = grid.size[axis]
        start = int(np.clip(np.floor(lower[axis]), 0, size))
        stop = int(np.clip(np.ceil(upper[axis]), 0, size))
        spans.append(slice(size - stop, size - start) if is_flipped else slice(start, stop))
    return _Display(
        is_transposed, flips, spans[0], spans[1], grid.spacing[down], grid.spacing[across]
    )


def _heart_box(
    grid: ImageGrid, atlas_to_scan: sitk.Transform, heart: Region
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """In-plane index box (x, y) around the heart and its margin, not cut to the grid."""
    to_index = np.linalg.inv(grid.index_to_physical_matrix) @ affine_matrix(atlas_to_scan)
    center = transform_points(to_index, heart.center_mm)[:2]
    half = np.linalg.norm(to_index[:2, :3] * np.array(heart.radii_mm), axis=1)
    half = half + HEART_MARGIN_MM / np.array(grid.spacing[:2])
    lower, upper = center - half, center + half
    size = np.array(grid.size[:2])
    if np.any(upper <= 0) or np.any(lower >= size):
        return np.zeros(2), size.astype(float)
    return lower, upper


def _atlas_view(
    plane: _Plane,
    atlas: sitk.Image,
    image: sitk.Image,
    atlas_to_scan: sitk.Transform,
    heart: Region,
    lesions: NDArray[np.float64],
) -> AtlasView:
    grid = ImageGrid.from_image(atlas)
    atlas_plane = atlas[_cut(grid, heart, plane)]
    grid = ImageGrid.from_image(atlas_plane)
    scan_plane = sitk.Resample(
        image, atlas_plane, atlas_to_scan, sitk.sitkLinear, AIR_HU, sitk.sitkFloat32
    )
    sizes = [grid.extent_mm[axis] for axis in (plane.across, plane.down)]

    def place(point_mm: ArrayLike) -> tuple[float, float]:
        """Position of an atlas point in the picture, mm."""
        voxel = grid.indices(point_mm) + 0.5
        x, y = (float(voxel[axis] * grid.spacing[axis]) for axis in (plane.across, plane.down))
        return x, (sizes[1] - y if plane.is_upside_down else y)

    radii = [float(heart.radii_mm[axis]) for axis in (plane.across, plane.down)]
    return AtlasView(
        name=plane.name,
        atlas_uri=_plane_uri(atlas_plane, plane),
        scan_uri=_plane_uri(scan_plane, plane),
        width_mm=float(sizes[0]),
        height_mm=float(sizes[1]),
        heart=(*place(heart.center_mm), radii[0], radii[1]),
        lesions=tuple(place(point) for point in lesions),
        edges=plane.edges,
    )


def _cut(grid: ImageGrid, heart: Region, plane: _Plane) -> tuple[slice, slice, slice]:
    """The part of the atlas to show: one layer through the heart's center, with surroundings."""
    center = grid.indices(heart.center_mm)
    half = VIEW_SCALE * np.array(heart.radii_mm) / np.array(grid.spacing)
    half[plane.normal] = 0.0
    last = np.array(grid.size) - 1
    lower = np.clip(np.round(center - half), 0, last).astype(int).tolist()
    upper = np.clip(np.round(center + half), 0, last).astype(int).tolist()
    x, y, z = (slice(low, high + 1) for low, high in zip(lower, upper, strict=True))
    return x, y, z


def _plane_uri(image: sitk.Image, plane: _Plane) -> str:
    array = np.squeeze(sitk.GetArrayViewFromImage(image), axis=2 - plane.normal)
    return image_uri(_gray(array[::-1] if plane.is_upside_down else array, ATLAS_WINDOW_HU))


def _gray(plane_hu: NDArray[np.generic], window_hu: tuple[float, float]) -> NDArray[np.uint8]:
    low, high = window_hu
    scaled = (np.asarray(plane_hu, dtype=np.float32) - low) * (255.0 / (high - low))
    return np.clip(np.nan_to_num(scaled), 0, 255).astype(np.uint8)


def image_uri(pixels: NDArray[np.uint8]) -> str:
    """Data URI of a picture in WebP.

    Args:
        pixels: Gray, shape `(rows, columns)`, or red, green and blue, `(rows, columns, 3)`.
    """
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "WEBP", quality=_WEBP_QUALITY)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _mm(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") or "0"
