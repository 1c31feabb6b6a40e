"""What is known of a background's anatomy: coronary courses, aorta, valves, landmarks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calcium.anatomy_maps import AnatomyPoints

Points = NDArray[np.float64]
"""LPS points, mm, shape `(n, 3)`."""


@dataclass(frozen=True)
class Anatomy:
    """Positions read by eye, good to some 5 mm; what is absent is left empty.

    Args:
        courses: Vessel (`LM LAD LCX RCA PDA` …) to its center line, LPS mm, proximal first.
        aorta: `ascending`, `arch`, `descending` to its center line, LPS mm.
        aorta_radii_mm: Radius of each part of the aorta, mm.
        valve_mm: Center of the aortic valve, shape `(1, 3)` or `(0, 3)`.
        valve_radius_mm: Radius of the aortic annulus, mm.
        mitral_ring_mm: Points around the mitral annulus, LPS mm.
        landmarks: Name to LPS point, mm, shape `(3,)`.
        guessed: Vessels whose course could not be seen, only guessed from their neighbors.
    """

    courses: Mapping[str, Points] = field(default_factory=dict)
    aorta: Mapping[str, Points] = field(default_factory=dict)
    aorta_radii_mm: Mapping[str, float] = field(default_factory=dict)
    valve_mm: Points = field(default_factory=lambda: np.zeros((0, 3)))
    valve_radius_mm: float = 12.5
    mitral_ring_mm: Points = field(default_factory=lambda: np.zeros((0, 3)))
    landmarks: Mapping[str, Points] = field(default_factory=dict)
    guessed: frozenset[str] = frozenset()

    @property
    def seen_courses(self) -> dict[str, Points]:
        """The courses that the annotator saw."""
        return {name: line for name, line in self.courses.items() if name not in self.guessed}

    @classmethod
    def from_annotation(cls, annotation: Mapping[str, Any]) -> Anatomy:
        """Anatomy of one annotation file (see `calcium/models/training/README.md`)."""

        def points(values: Any) -> Points:
            return np.asarray(values, dtype=float).reshape(-1, 3)

        aorta = annotation.get("aorta") or {}
        valve = annotation.get("aortic_valve") or {}
        ring = annotation.get("mitral_annulus") or {}
        courses = annotation["coronaries"]
        return cls(
            {k: points(v["points"]) for k, v in courses.items()},
            {k: points(v["points"]) for k, v in aorta.items()},
            {k: float(v["radius_mm"]) for k, v in aorta.items()},
            points(valve.get("center") or []),
            float(valve.get("radius_mm", 12.5)),
            points(ring.get("points") or []),
            {k: np.asarray(v, dtype=float) for k, v in (annotation.get("landmarks") or {}).items()},
            frozenset(k for k, v in courses.items() if v.get("confidence") == "guess"),
        )

    def points(self) -> AnatomyPoints:
        """Where the structures lie, guessed courses among them; what is absent stays unknown."""
        aorta = {k: (line, self.aorta_radii_mm[k]) for k, line in self.aorta.items()}
        return AnatomyPoints.of(
            self.courses, aorta, (self.valve_mm, self.valve_radius_mm), self.mitral_ring_mm
        )

    def mapped(self, transform: Callable[[Points], Points]) -> Anatomy:
        """The anatomy with every point moved; radii are kept."""
        return Anatomy(
            {k: transform(v) for k, v in self.courses.items()},
            {k: transform(v) for k, v in self.aorta.items()},
            dict(self.aorta_radii_mm),
            transform(self.valve_mm),
            self.valve_radius_mm,
            transform(self.mitral_ring_mm),
            {k: transform(v) for k, v in self.landmarks.items()},
            self.guessed,
        )
