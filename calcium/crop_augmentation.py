"""How training crops are changed: coordinates, attenuation and fat of patients not seen."""

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
class CropAugmentation:
    """What is drawn anew for every training crop.

    Args:
        shift_units: Standard deviation of the coordinate jitter, heart units.
        scale_sd: Standard deviation of the coordinate scale jitter.
        hu_shift_sd: Standard deviation of a shift of the shown attenuation, HU.
        lean_share: Share of crops whose fat is brought towards muscle, by any part: the
            groove that an artery runs in shows only where there is fat.
    """

    shift_units: float = 0.13
    scale_sd: float = 0.1
    hu_shift_sd: float = 8.0
    lean_share: float = 0.35

    def draw(self, rng: np.random.Generator) -> CropChange:
        """Changes of one crop."""
        lean = float(rng.uniform(0.0, 1.0)) if rng.random() < self.lean_share else 0.0
        return CropChange(
            unit_shift=rng.normal(0.0, self.shift_units, 3),
            unit_scale=1.0 + rng.normal(0.0, self.scale_sd, 3),
            hu_shift=float(rng.normal(0.0, self.hu_shift_sd)),
            lean=lean,
        )


@dataclass(frozen=True, slots=True)
class CropChange:
    """Changes of one crop.

    Args:
        unit_shift: Added to the coordinates, heart units, shape `(3,)`.
        unit_scale: Factor on the coordinates, shape `(3,)`.
        hu_shift: Added to the shown attenuation of the context, HU.
        lean: Part of the way from fat to muscle, 0-1.
    """

    unit_shift: NDArray[np.float64]
    unit_scale: NDArray[np.float64]
    hu_shift: float = 0.0
    lean: float = 0.0

    def apply(self, inputs: NDArray[np.float32]) -> None:
        """Change a network input in place, shape `(h, w, 10)`; calcium and candidates stay."""
        if self.lean > 0:
            context = inputs[..., :CONTEXT_SLICES]
            context[:] = leaner(context, self.lean)
        # all channels at once: single ones lie apart in memory
        factor, shift = (np.full(inputs.shape[-1], value, np.float32) for value in (1.0, 0.0))
        shift[:CONTEXT_SLICES] = self.hu_shift / SOFT_TISSUE_HALF_WIDTH_HU
        factor[CONTEXT_SLICES + 2 :] = self.unit_scale
        shift[CONTEXT_SLICES + 2 :] = self.unit_shift
        inputs *= factor
        inputs += shift


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
