"""Where a training scan has its arteries, aorta and valves, as maps that networks learn to draw.

A network that is to tell which calcium counts must know where in the heart it looks. Scores say
so at a few lesions; these maps say it everywhere, also where no calcium is. Places are known to
some 5 mm, so the maps are as soft.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calcium.filled_line import filled_line
from calcium.territories import TERRITORIES, TERRITORY_OF_VESSEL

STRUCTURES = (*TERRITORIES, "aorta", "aortic valve", "mitral annulus")
"""What the maps show, in their order."""

SOFTNESS_MM = 6.0
"""Standard deviation by which a map falls off beside a structure [mm]: courses are good to 5 mm."""

MAP_CELL = 4
"""Lattice points per side of a cell of a map: 2.8 mm."""

POINT_DISTANCE_MM = 3.0
"""Distance of the points that stand for a line [mm]."""


@dataclass(frozen=True)
class AnatomyPoints:
    """Structures of one scan as points with radii.

    Args:
        points_mm: LPS mm, float32, shape `(m, 3)`.
        radii_mm: Half width of the structure at each point, mm, float32, shape `(m,)`.
        structure: Number in `STRUCTURES` of each point, uint8, shape `(m,)`.
    """

    points_mm: NDArray[np.float32]
    radii_mm: NDArray[np.float32]
    structure: NDArray[np.uint8]

    @classmethod
    def of(
        cls,
        courses: Mapping[str, ArrayLike],
        aorta: Mapping[str, tuple[ArrayLike, float]] | None = None,
        valve: tuple[ArrayLike, float] | None = None,
        mitral_ring: ArrayLike = (),
    ) -> AnatomyPoints:
        """Points of an anatomy; whatever is not given stays unknown.

        Args:
            courses: Coronary artery (a key of `TERRITORY_OF_VESSEL`) to its center line, LPS mm,
                shape `(n, 3)`.
            aorta: Part of the aorta to its center line and radius, mm.
            valve: Middle of the aortic valve, LPS mm, and radius of its annulus, mm.
            mitral_ring: Points around the mitral annulus, LPS mm, shape `(n, 3)`.
        """
        vessels = [name for name in courses if name in TERRITORY_OF_VESSEL]
        parts = [(TERRITORY_OF_VESSEL[name], courses[name], 0.0) for name in vessels]
        parts += [("aorta", line, radius) for line, radius in (aorta or {}).values()]
        if valve is not None:
            parts.append(("aortic valve", *valve))
        ring = np.reshape(np.asarray(mitral_ring, float), (-1, 3))
        parts.append(("mitral annulus", np.vstack([ring, ring[:1]]), 0.0))
        lines = [
            (STRUCTURES.index(name), filled_line(line, POINT_DISTANCE_MM), radius)
            for name, line, radius in parts
        ]
        return cls(
            np.concatenate([line for _, line, _ in lines]).astype(np.float32),
            np.concatenate([np.full(len(p), r, np.float32) for _, p, r in lines]),
            np.concatenate([np.full(len(p), n, np.uint8) for n, p, _ in lines]),
        )

    def maps(
        self, places_mm: NDArray[np.floating]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """What the structures look like at some places.

        Args:
            places_mm: LPS mm, shape `(n, 3)`.

        Returns:
            1 inside a structure and falling off beside it, shape `(n, structures)`; and which of
            them are known in this scan, shape `(structures,)`.
        """
        out = np.zeros((len(places_mm), len(STRUCTURES)), np.float32)
        known = np.bincount(self.structure, minlength=len(STRUCTURES)) > 0
        # about their middle: squares of large numbers would cost digits
        middle = np.mean(places_mm, axis=0, dtype=np.float64)
        places = (places_mm - middle).astype(np.float32)
        points = (self.points_mm - middle).astype(np.float32)
        for number in np.flatnonzero(known):
            mine = self.structure == number
            own = points[mine]
            square = (places**2).sum(1)[:, None] + (own**2).sum(1) - 2.0 * places @ own.T
            outside = np.sqrt(np.maximum(square, 0.0)) - self.radii_mm[mine]
            beside = np.maximum(outside.min(axis=1), 0.0)
            out[:, number] = np.exp(-0.5 * (beside / SOFTNESS_MM) ** 2)
        return out, known


NO_ANATOMY = AnatomyPoints(
    np.zeros((0, 3), np.float32), np.zeros(0, np.float32), np.zeros(0, np.uint8)
)
"""Of a scan of whose anatomy nothing is known."""
