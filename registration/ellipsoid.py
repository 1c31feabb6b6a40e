"""The `Ellipsoid`: a region of interest in physical space, such as the heart of an atlas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


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
