"""Which coronary artery a lesion belongs to, by its place in the heart.

Arteries run alike in different hearts, but not the same: a place is compared with the courses
of several people, aligned to the atlas, and the artery that lies near in most of them wins.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calcium.filled_line import filled_line

TERRITORIES = ("LM/LAD", "LCX", "RCA")
"""Left main and anterior descending, circumflex, right coronary artery."""

TERRITORY_OF_VESSEL = {
    "LM": "LM/LAD",
    "LAD": "LM/LAD",
    "D1": "LM/LAD",
    "LCX": "LCX",
    "OM": "LCX",
    "RCA": "RCA",
    "PDA": "RCA",
}
"""Branches go with the artery that feeds them; the posterior descending one with the right."""

REACH_UNITS = 0.10
"""Distance at which a course loses most of its weight, heart radii: about 7 mm, what affine
alignment leaves."""

COURSE_STEP_UNITS = 0.03
"""Distance between points along a course, heart radii."""

DIGITS = 3
"""Decimals of coordinates in files, heart radii."""

Course = NDArray[np.float64]
"""Points along an artery, heart units (L, P, S), shape `(n, 3)`."""


@dataclass(frozen=True)
class VesselAtlas:
    """Courses of the coronary arteries of several people, in heart units.

    Args:
        people: Vessel (`LM LAD LCX RCA PDA D1 OM`) to its course, for every person.

    Raises:
        ValueError: If there is nobody, or a vessel is unknown.
    """

    people: tuple[Mapping[str, Course], ...]

    def __post_init__(self) -> None:
        if not self.people:
            raise ValueError("people must hold at least one. Received: none")
        unknown = sorted({v for person in self.people for v in person} - set(TERRITORY_OF_VESSEL))
        if unknown:
            raise ValueError(
                f"vessels must be among {', '.join(TERRITORY_OF_VESSEL)}. Received: {unknown}"
            )

    def territories(self, points: ArrayLike) -> list[str]:
        """Territory of every place.

        Args:
            points: Heart units (L, P, S), shape `(n, 3)`.

        Returns:
            Names of `TERRITORIES`, one per point.
        """
        places = np.asarray(points, dtype=float).reshape(-1, 3)
        votes = np.zeros((len(places), len(TERRITORIES)))
        nearest = np.full_like(votes, np.inf)
        for person in self.people:
            distances = self._distances(person, places)
            votes += np.exp(-0.5 * (distances / REACH_UNITS) ** 2)
            nearest = np.minimum(nearest, distances)
        # far from every course the votes vanish together, and only the nearest is left
        best = np.where(votes.max(axis=1) > 1e-9, votes.argmax(axis=1), nearest.argmin(axis=1))
        return [TERRITORIES[k] for k in best]

    @staticmethod
    def _distances(person: Mapping[str, Course], places: NDArray[np.float64]) -> Course:
        """Distance of every place from a person's territories, shape `(n, 3)`."""
        found = np.full((len(places), len(TERRITORIES)), np.inf)
        for vessel, course in person.items():
            column = TERRITORIES.index(TERRITORY_OF_VESSEL[vessel])
            offsets = places[:, None] - filled_line(course, COURSE_STEP_UNITS)[None]
            distance = np.linalg.norm(offsets, axis=2).min(axis=1)
            found[:, column] = np.minimum(found[:, column], distance)
        return found

    def save(self, path: Path) -> None:
        """Write the courses as JSON."""
        people = [
            {vessel: np.round(course, DIGITS).tolist() for vessel, course in person.items()}
            for person in self.people
        ]
        path.write_text(json.dumps({"people": people}) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> VesselAtlas:
        """The courses that `save` wrote.

        Raises:
            ValueError: If the file is not such a file, or a course is without points or has
                one that is no place.
        """
        try:
            people = json.loads(path.read_text(encoding="utf-8"))["people"]
            read = [
                {v: np.asarray(c, dtype=float).reshape(-1, 3) for v, c in person.items()}
                for person in people
            ]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"no courses of arteries can be read. Received: {path}") from error
        for number, person in enumerate(read, start=1):
            for vessel, course in person.items():
                if not len(course) or not np.isfinite(course).all():
                    raise ValueError(
                        f"every course in {path.name} must have points of three finite numbers. "
                        f"Received: {vessel} of person {number} without"
                    )
        return cls(tuple(read))
