"""Smooth random changes of anatomy: an affine map and a few cosine waves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from registration.geometry import transform_points

INVERSION_STEPS = 30
"""Fixed-point steps of the inverse; waves are gentle, so far fewer reach a micrometer."""


@dataclass(frozen=True, slots=True)
class Deformation:
    """Pull-back from a simulated scan to its background, LPS mm.

    A simulated point `p` shows what the background has at `affine(p + waves(p))`.

    Args:
        affine: Homogeneous matrix, simulated to background.
        amplitudes_mm: Displacement of each wave, shape `(m, 3)`.
        wave_numbers: Radians per mm of each wave along x, y, z, shape `(m, 3)`.
        phases: Radians of each wave along x, y, z, shape `(m, 3)`.
    """

    affine: NDArray[np.float64]
    amplitudes_mm: NDArray[np.float64]
    wave_numbers: NDArray[np.float64]
    phases: NDArray[np.float64]

    @classmethod
    def identity(cls) -> Deformation:
        """The deformation that changes nothing."""
        none = np.zeros((0, 3))
        return cls(np.eye(4), none, none, none)

    @classmethod
    def random(
        cls, rng: np.random.Generator, center_mm: ArrayLike, *, strength: float = 1.0
    ) -> Deformation:
        """Draw a plausible other patient.

        Args:
            rng: Source of randomness.
            center_mm: Point of rotation and scaling, kept in place by the affine part.
            strength: 1 for rotations of some 7 degrees, scalings of 9 %, waves of 3 mm.
        """
        angle = np.deg2rad(rng.normal(0.0, [5.0, 5.0, 8.0])) * strength
        linear = _rotation(angle) @ (np.eye(3) + _shear(rng.normal(0.0, 0.04 * strength, 3)))
        overall = rng.normal(0.0, 0.08 * strength)
        linear = linear * np.exp(overall + rng.normal(0.0, 0.05 * strength, 3))
        affine = np.eye(4)
        affine[:3, :3] = linear
        center = np.asarray(center_mm, dtype=float)
        affine[:3, 3] = center - linear @ center
        count = 8
        wave_numbers = 2 * np.pi / rng.uniform(80.0, 220.0, (count, 3))
        amplitudes = rng.normal(0.0, 2.6 * strength / np.sqrt(count / 2), (count, 3))
        return cls(affine, amplitudes, wave_numbers, rng.uniform(0, 2 * np.pi, (count, 3)))

    def waves_mm(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Displacement of the waves at points, mm, shape `(..., 3)` in and out."""
        out = np.zeros(np.shape(points_mm))
        for amplitude, number, phase in zip(
            self.amplitudes_mm, self.wave_numbers, self.phases, strict=True
        ):
            out += np.prod(np.cos(points_mm * number + phase), axis=-1)[..., None] * amplitude
        return out

    def waves_on_slice(
        self, x: NDArray[np.float64], y: NDArray[np.float64], z: float
    ) -> NDArray[np.float64]:
        """The same for a whole axis-aligned slice, shape `(3, len(y), len(x))`."""
        out = np.zeros((3, len(y), len(x)))
        for amplitude, number, phase in zip(
            self.amplitudes_mm, self.wave_numbers, self.phases, strict=True
        ):
            profile = np.outer(np.cos(y * number[1] + phase[1]), np.cos(x * number[0] + phase[0]))
            profile *= np.cos(z * number[2] + phase[2])
            out += amplitude[:, None, None] * profile
        return out

    def to_background(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Background points of simulated points, LPS mm, shape `(..., 3)` in and out."""
        points = np.asarray(points_mm, dtype=float)
        return transform_points(self.affine, points + self.waves_mm(points))

    def to_simulated(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Simulated points of background points, LPS mm, shape `(..., 3)` in and out."""
        target = transform_points(np.linalg.inv(self.affine), points_mm)
        points = target.copy()
        for _ in range(INVERSION_STEPS):
            points = target - self.waves_mm(points)
        return points


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation about x, then y, then z, radians."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        step = np.eye(3)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        step[i, i] = step[j, j] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        matrix = step @ matrix
    return matrix


def _shear(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Upper triangle of shears xy, xz, yz."""
    matrix = np.zeros((3, 3))
    matrix[0, 1], matrix[0, 2], matrix[1, 2] = values
    return matrix
