"""Image grids and affine maps in physical space (ITK conventions, LPS millimetres).

This module alone knows that ITK orders axes (x, y, z) while arrays are indexed
(z, y, x): everywhere else, say `size`, `spacing`, `origin`, `direction` for ITK
order and `shape` for array order, and let `ImageGrid` translate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

DIRECTION_ATOL = 1e-4
"""Largest tolerated deviation of a direction matrix from orthonormality."""


@dataclass(frozen=True, slots=True)
class ImageGrid:
    """The lattice of an image in physical space; the pixels themselves are not held.

    An index (0, 0, 0) is the *centre* of the first voxel, and `origin` is its
    position. `size`, `spacing` and `origin` are in ITK order (x, y, z).

    Args:
        size: Number of voxels along each index axis, ITK order.
        spacing: Distance between voxel centres along each index axis, mm.
        origin: LPS position of the centre of the first voxel, mm.
        direction: Row-major direction matrix, `d * d` values; column `k` is the
            unit vector of index axis `k` in LPS.

    Raises:
        ValueError: If lengths disagree, a size or spacing is not positive, or the
            direction is not orthonormal.

    Source:
        ITK Software Guide, book 1, section 4.1 (image geometry).

    Example:
        >>> grid = ImageGrid((4, 3, 2), (1.0, 2.0, 5.0), (10.0, 0.0, -7.0))
        >>> grid.shape
        (2, 3, 4)
        >>> grid.physical_points([[1, 1, 1]]).tolist()
        [[11.0, 2.0, -2.0]]
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        dimension = len(self.size)
        direction = self.direction or tuple(np.eye(dimension).ravel().tolist())
        object.__setattr__(self, "size", tuple(int(n) for n in self.size))
        object.__setattr__(self, "spacing", tuple(float(s) for s in self.spacing))
        object.__setattr__(self, "origin", tuple(float(o) for o in self.origin))
        object.__setattr__(self, "direction", tuple(float(v) for v in direction))
        if not len(self.spacing) == len(self.origin) == dimension:
            raise ValueError(
                "size, spacing and origin must have one value per axis. "
                f"Received: size={self.size}, spacing={self.spacing}, origin={self.origin}"
            )
        if len(self.direction) != dimension**2:
            raise ValueError(
                f"direction must have {dimension**2} values. Received: {len(self.direction)}"
            )
        if min(self.size) < 1 or not all(np.isfinite(s) and s > 0 for s in self.spacing):
            raise ValueError(
                "size and spacing must be positive. "
                f"Received: size={self.size}, spacing={self.spacing}"
            )
        matrix = self.direction_matrix
        deviation = np.abs(matrix @ matrix.T - np.eye(dimension)).max()
        if not deviation <= DIRECTION_ATOL:  # so that NaN is refused as well
            raise ValueError(f"direction must be orthonormal. Received: {self.direction}")

    @classmethod
    def from_image(cls, image: sitk.Image) -> ImageGrid:
        """Grid of a SimpleITK image."""
        # a registration asks for the grids of its two images again and again
        return _known_grid(
            image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()
        )

    @classmethod
    def centered(cls, size: ArrayLike, spacing: ArrayLike, center: ArrayLike) -> ImageGrid:
        """Axis-aligned grid whose middle lies at the physical point `center` (mm)."""
        n, s, c = (np.asarray(a, dtype=float) for a in (size, spacing, center))
        origin = c - (n - 1) / 2 * s
        return cls(tuple(int(v) for v in n), tuple(s.tolist()), tuple(origin.tolist()))

    @property
    def dimension(self) -> int:
        """Number of axes, 2 or 3."""
        return len(self.size)

    @property
    def shape(self) -> tuple[int, ...]:
        """Array shape of an image on this grid: `size` reversed."""
        return tuple(reversed(self.size))

    @property
    def direction_matrix(self) -> NDArray[np.float64]:
        """Direction as a matrix, column `k` for index axis `k`, shape `(d, d)`."""
        return np.array(self.direction, dtype=float).reshape(self.dimension, self.dimension)

    @property
    def index_to_physical_matrix(self) -> NDArray[np.float64]:
        """Homogeneous map from continuous index (x, y, z) to LPS mm, shape `(d + 1, d + 1)`."""
        matrix = np.eye(self.dimension + 1)
        matrix[:-1, :-1] = self.direction_matrix * np.array(self.spacing)
        matrix[:-1, -1] = self.origin
        return matrix

    @property
    def center(self) -> NDArray[np.float64]:
        """Physical point midway between the first and last voxel centres, mm, shape `(d,)`."""
        return self.physical_points((np.array(self.size)[None] - 1) / 2)[0]

    @property
    def extent_mm(self) -> NDArray[np.float64]:
        """Edge lengths of the field of view, whole voxels counted, ITK order, mm."""
        return np.array(self.size) * np.array(self.spacing)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel (area in 2-D), mm³."""
        return float(np.prod(self.spacing))

    def physical_points(self, indices: ArrayLike) -> NDArray[np.float64]:
        """LPS points (mm) of continuous indices (x, y, z), shape `(..., d)` in and out."""
        matrix = self.index_to_physical_matrix
        return np.asarray(indices, dtype=float) @ matrix[:-1, :-1].T + matrix[:-1, -1]

    def indices(self, physical_points: ArrayLike) -> NDArray[np.float64]:
        """Continuous indices (x, y, z) of LPS points (mm), shape `(..., d)` in and out."""
        matrix = np.linalg.inv(self.index_to_physical_matrix)
        return np.asarray(physical_points, dtype=float) @ matrix[:-1, :-1].T + matrix[:-1, -1]

    def contains(self, physical_points: ArrayLike) -> NDArray[np.bool_]:
        """True for LPS points (mm) inside the field of view, half a voxel past the centres."""
        index = self.indices(physical_points)
        return np.all((index >= -0.5) & (index <= np.array(self.size) - 0.5), axis=-1)

    def voxel_points(self) -> NDArray[np.float64]:
        """LPS position of every voxel centre, mm, shape `(*shape, d)`."""
        axes = [np.arange(n) for n in self.shape]
        index = np.stack(np.meshgrid(*axes, indexing="ij")[::-1], axis=-1)
        return self.physical_points(index)

    def empty_image(self, pixel_id: int = sitk.sitkFloat32) -> sitk.Image:
        """Zero image on this grid."""
        image = sitk.Image(list(self.size), pixel_id)
        self._stamp(image)
        return image

    def to_image(self, array: NDArray[np.generic]) -> sitk.Image:
        """SimpleITK image of an array in (z, y, x) order.

        Raises:
            ValueError: If the shape of `array` is not `self.shape`.
        """
        if array.shape != self.shape:
            raise ValueError(f"array must have shape {self.shape}. Received: {array.shape}")
        image = sitk.GetImageFromArray(array)
        self._stamp(image)
        return image

    def _stamp(self, image: sitk.Image) -> None:
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)


@lru_cache(maxsize=32)
def _known_grid(
    size: tuple[int, ...],
    spacing: tuple[float, ...],
    origin: tuple[float, ...],
    direction: tuple[float, ...],
) -> ImageGrid:
    return ImageGrid(size, spacing, origin, direction)


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """Axis-aligned ellipsoid in physical space.

    Args:
        center_mm: LPS position of the middle, mm.
        radii_mm: Half axes along L, P and S, mm.

    Raises:
        ValueError: If the lengths differ or a radius is not positive.

    Example:
        >>> heart = Ellipsoid((0.0, 0.0, 0.0), (70.0, 60.0, 80.0))
        >>> heart.contains([[69.0, 0.0, 0.0], [0.0, 61.0, 0.0]]).tolist()
        [True, False]
    """

    center_mm: tuple[float, ...]
    radii_mm: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "center_mm", tuple(float(v) for v in self.center_mm))
        object.__setattr__(self, "radii_mm", tuple(float(v) for v in self.radii_mm))
        if len(self.center_mm) != len(self.radii_mm):
            raise ValueError(
                "center_mm and radii_mm must have one value per axis. "
                f"Received: {self.center_mm} and {self.radii_mm}"
            )
        if not all(np.isfinite(r) and r > 0 for r in self.radii_mm):
            raise ValueError(f"radii_mm must be positive. Received: {self.radii_mm}")

    @classmethod
    def from_dict(cls, fragment: Mapping[str, Any]) -> Ellipsoid:
        """Ellipsoid of a JSON fragment with the keys `center_mm` and `radii_mm`."""
        return cls(tuple(fragment["center_mm"]), tuple(fragment["radii_mm"]))

    def to_dict(self) -> dict[str, list[float]]:
        """JSON fragment that `from_dict` reads."""
        return {"center_mm": list(self.center_mm), "radii_mm": list(self.radii_mm)}

    def unit_matrix(self, reference_to_image: ArrayLike) -> NDArray[np.float64]:
        """Homogeneous map from image LPS mm to units in which the ellipsoid is the unit ball.

        Args:
            reference_to_image: Homogeneous matrix taking points of the ellipsoid's space to
                points of the image, LPS mm.
        """
        to_unit = np.diag([*(1.0 / np.asarray(self.radii_mm)), 1.0])
        to_unit[:-1, -1] = -np.asarray(self.center_mm) / np.asarray(self.radii_mm)
        return np.asarray(to_unit @ np.linalg.inv(np.asarray(reference_to_image, dtype=float)))

    def relative_radius(self, points: ArrayLike) -> NDArray[np.float64]:
        """Distance from the middle in units of the surface: 1 on it, `(..., d)` to `(...)`."""
        scaled = (np.asarray(points, dtype=float) - self.center_mm) / np.asarray(self.radii_mm)
        return np.asarray(np.linalg.norm(scaled, axis=-1))

    def contains(self, points: ArrayLike) -> NDArray[np.bool_]:
        """True for LPS points (mm) inside or on the surface, `(..., d)` to `(...)`."""
        return np.asarray(self.relative_radius(points) <= 1.0)

    def scaled(self, factor: float) -> Ellipsoid:
        """The same middle with every radius multiplied by `factor`."""
        return Ellipsoid(self.center_mm, tuple(r * factor for r in self.radii_mm))

    def sample_points(self, spacing_mm: float) -> NDArray[np.float64]:
        """Points of a cubic lattice inside, symmetric about the middle, mm, shape `(n, d)`."""
        axes = [np.arange(-int(r / spacing_mm), int(r / spacing_mm) + 1) for r in self.radii_mm]
        lattice = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
        points = lattice * spacing_mm + np.asarray(self.center_mm)
        return np.asarray(points[self.contains(points)])


def affine_matrix(transform: sitk.Transform) -> NDArray[np.float64]:
    """Homogeneous matrix of a linear SimpleITK transform, LPS mm, shape `(d + 1, d + 1)`.

    The centre of rotation is folded into the translation column.

    Raises:
        ValueError: If the transform is not linear.
    """
    if not transform.IsLinear():
        raise ValueError(f"transform must be linear. Received: {transform.GetName()}")
    dimension = transform.GetDimension()
    matrix = np.eye(dimension + 1)
    offset = np.array(transform.TransformPoint([0.0] * dimension))
    for axis in range(dimension):
        unit = [0.0] * dimension
        unit[axis] = 1.0
        matrix[:-1, axis] = np.array(transform.TransformPoint(unit)) - offset
    matrix[:-1, -1] = offset
    return matrix


def affine_transform(matrix: ArrayLike) -> sitk.AffineTransform:
    """SimpleITK affine transform of a homogeneous matrix (LPS mm), centre at the origin.

    Raises:
        ValueError: If the matrix is not square, or its last row is not `0 … 0 1`.
    """
    array = np.asarray(matrix, dtype=float)
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise ValueError(f"matrix must be square. Received: shape {array.shape}")
    dimension = array.shape[0] - 1
    if not np.allclose(array[-1], [0.0] * dimension + [1.0]):
        raise ValueError(f"the last row must be 0 … 0 1. Received: {array[-1].tolist()}")
    transform = sitk.AffineTransform(dimension)
    transform.SetMatrix(array[:-1, :-1].ravel().tolist())
    transform.SetTranslation(array[:-1, -1].tolist())
    return transform


def transform_points(matrix: ArrayLike, points: ArrayLike) -> NDArray[np.float64]:
    """Apply a homogeneous matrix to LPS points (mm), shape `(..., d)` in and out."""
    array = np.asarray(matrix, dtype=float)
    return np.asarray(points, dtype=float) @ array[:-1, :-1].T + array[:-1, -1]
