"""How training crops are changed: anatomy, coordinates, attenuation and fat of people not seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calcium.networks.slice_inputs import (
    CONTEXT_SLICES,
    SOFT_TISSUE_CENTER_HU,
    SOFT_TISSUE_HALF_WIDTH_HU,
)

LEAN_HU = -5.0
"""What is darker than this is fat, or partly air, to a lean patient's augmentation [HU]."""

AIR_EDGE_HU = -145.0
"""From here down to the end of the window, less and less is changed: it borders lung [HU]."""


@dataclass(frozen=True, slots=True)
class CropWarp:
    """Where the points of a crop lie in its slice: a turned, stretched and bent heart.

    The coordinates stay: hearts are turned in the chest, and stretched, by more than the alignment
    to an atlas takes out.

    Args:
        matrix: From the crop's points, measured from its middle, to those of the slice, `(2, 2)`.
        bend: Lattice points that the quadratic terms (rows², rows columns, columns²) move the
            edges of a crop by, shape `(3, 2)`.
    """

    matrix: NDArray[np.float64]
    bend: NDArray[np.float64]

    def places(self, corner: tuple[int, int], size: int) -> NDArray[np.float64]:
        """Lattice row and column that every point of a crop shows, shape `(2, size, size)`.

        Args:
            corner: First lattice row and column of the crop.
            size: Lattice points per side.
        """
        half = (size - 1) / 2.0
        offset = np.arange(size) - half
        rows, cols = offset[:, None] / half, offset[None, :] / half
        terms = (rows * rows + 0.0 * cols, rows * cols, cols * cols + 0.0 * rows)
        found = np.empty((2, size, size))
        for axis in range(2):
            linear = self.matrix[axis, 0] * offset[:, None] + self.matrix[axis, 1] * offset[None, :]
            bent = sum(
                amount * term for amount, term in zip(self.bend[:, axis], terms, strict=True)
            )
            found[axis] = corner[axis] + half + linear + bent
        return found


@dataclass(frozen=True, slots=True)
class CropAugmentation:
    """What is drawn anew for every training crop.

    Args:
        shift_units: Standard deviation of the coordinate jitter, heart units.
        scale_sd: Standard deviation of the coordinate scale jitter.
        hu_shift_sd: Standard deviation of a shift of the shown attenuation, HU.
        lean_share: Share of crops whose fat is brought towards muscle, by any part: the
            groove that an artery runs in shows only where there is fat.
        warped_share: Share of crops whose anatomy is changed in the plane.
        turn_sd_deg: Standard deviation of their angle.
        stretch_sd: Standard deviation of the logarithm of their scale, and half that of the ratio
            of their axes.
        bend_sd: Standard deviation of their quadratic terms, lattice points at the edge.
    """

    shift_units: float = 0.13
    scale_sd: float = 0.1
    hu_shift_sd: float = 8.0
    lean_share: float = 0.35
    warped_share: float = 0.75
    turn_sd_deg: float = 9.0
    stretch_sd: float = 0.1
    bend_sd: float = 2.5

    def draw(self, rng: np.random.Generator) -> CropChange:
        """Changes of one crop."""
        lean = float(rng.uniform(0.0, 1.0)) if rng.random() < self.lean_share else 0.0
        return CropChange(
            unit_shift=rng.normal(0.0, self.shift_units, 3),
            unit_scale=1.0 + rng.normal(0.0, self.scale_sd, 3),
            hu_shift=float(rng.normal(0.0, self.hu_shift_sd)),
            lean=lean,
            warp=self._warp(rng) if rng.random() < self.warped_share else None,
        )

    def _warp(self, rng: np.random.Generator) -> CropWarp:
        """Turn, scale, stretch along a drawn direction, and bend."""
        turn, along = np.deg2rad(rng.normal(0.0, self.turn_sd_deg)), rng.uniform(0.0, np.pi)
        scale, ratio = np.exp(rng.normal(0.0, self.stretch_sd, 2) * (1.0, 0.5))
        axes = _turned(along)
        stretched = axes @ np.diag([scale * ratio, scale / ratio]) @ axes.T
        return CropWarp(_turned(turn) @ stretched, rng.normal(0.0, self.bend_sd, (3, 2)))


def _turned(angle: float) -> NDArray[np.float64]:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


@dataclass(frozen=True, slots=True)
class CropChange:
    """Changes of one crop.

    Args:
        unit_shift: Added to the coordinates, heart units, shape `(3,)`.
        unit_scale: Factor on the coordinates, shape `(3,)`.
        hu_shift: Added to the shown attenuation of the context, HU.
        lean: Part of the way from fat to muscle, 0-1.
        warp: How the anatomy is changed; not at all by default.
    """

    unit_shift: NDArray[np.float64]
    unit_scale: NDArray[np.float64]
    hu_shift: float = 0.0
    lean: float = 0.0
    warp: CropWarp | None = None

    def apply(self, inputs: NDArray[np.float32]) -> None:
        """Change a network input in place, shape `(h, w, 10)`; calcium and candidates stay.

        The warp is not part of it: it takes points from beyond the crop.
        """
        context = inputs[..., :CONTEXT_SLICES]
        if self.lean > 0:
            context[:] = leaner(context, self.lean)
        context += np.float32(self.hu_shift / SOFT_TISSUE_HALF_WIDTH_HU)
        coordinates = inputs[..., CONTEXT_SLICES + 2 :]
        coordinates *= self.unit_scale.astype(np.float32)
        coordinates += self.unit_shift.astype(np.float32)


def leaner(context: NDArray[np.float32], lean: float) -> NDArray[np.float32]:
    """Context with its fat closer to muscle.

    Args:
        context: Attenuation in the soft-tissue window, -1…1.
        lean: 0 changes nothing, 1 leaves no fat.
    """
    edge, fat = (
        np.float32((hu - SOFT_TISSUE_CENTER_HU) / SOFT_TISSUE_HALF_WIDTH_HU)
        for hu in (AIR_EDGE_HU, LEAN_HU)
    )
    below = np.minimum(context - fat, 0.0)
    weight = np.clip((context + 1.0) / (edge + 1.0), 0.0, 1.0)
    return np.asarray(context - below * (np.float32(lean) * weight), np.float32)
