"""The map between a patient's own frame and the scanner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]
_INVERSE_STEPS = 12
"""Fixed-point steps that invert the deformation; its slope stays below 0.3, so 1e-6 mm."""


@dataclass(frozen=True, slots=True)
class Pose:
    """Places an anatomy in the scanner: scale, turn, shift and a smooth deformation.

    The anatomy frame is LPS mm with the carina near the origin of an average adult.

    Args:
        matrix: Linear part anatomy -> scanner, shape `(3, 3)`.
        offset: Scanner position of the anatomical origin, mm, shape `(3,)`.
        waves: Wave vectors of the deformation in rad/mm, shape `(n, 3)`.
        amplitudes: Displacement of every wave, mm, shape `(n, 3)`.
        phases: Phase of every wave, rad, shape `(n,)`.
    """

    matrix: Points
    offset: Points
    waves: Points
    amplitudes: Points
    phases: Points

    @classmethod
    def sample(
        cls,
        rng: np.random.Generator,
        *,
        scale: ArrayLike,
        roll_deg: float,
        warp_mm: float,
        offset: ArrayLike,
    ) -> Pose:
        """Draw the deformation and put the parts together."""
        angle = np.deg2rad(roll_deg)
        turn = np.array(
            [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
        )
        directions = rng.normal(size=(3, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        waves = directions * (2 * np.pi / rng.uniform(170, 320, (3, 1)))
        amplitudes = rng.normal(size=(3, 3)) * warp_mm / np.sqrt(3)
        bounded = np.clip(amplitudes, -2 * warp_mm, 2 * warp_mm)
        matrix = turn @ np.diag(np.asarray(scale, float))
        phases = rng.uniform(0, 2 * np.pi, 3)
        return cls(matrix, np.asarray(offset, float), waves, bounded, phases)

    def to_anatomy(self, points: ArrayLike) -> Points:
        """Anatomical points of scanner points, mm, shape `(n, 3)` in and out."""
        plain = (np.asarray(points, float) - self.offset) @ np.linalg.inv(self.matrix).T
        return plain + self._displacement(plain)

    def to_scanner(self, points: ArrayLike) -> Points:
        """Scanner points of anatomical points, mm, shape `(n, 3)` in and out."""
        target = np.asarray(points, float)
        plain = target
        for _ in range(_INVERSE_STEPS):
            plain = target - self._displacement(plain)
        return plain @ self.matrix.T + self.offset

    def _displacement(self, points: Points) -> Points:
        result: Points = np.sin(points @ self.waves.T + self.phases) @ self.amplitudes
        return result
