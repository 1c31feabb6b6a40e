"""From attention to the answer: which candidates count, and what each one adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from calcium.counting_rule import CountingRule, lesion_attention
from calcium.density import label_voxels
from calcium.touching_lesions import decided_lesions

Decision = Literal["voxel", "slice", "lesion"]
"""What is decided at once: each voxel's share, in-plane components, or 3-D lesions."""


def decide(
    attention: NDArray[np.floating],
    density: NDArray[np.floating],
    flat_index: NDArray[np.int64],
    shape: tuple[int, ...],
    decision: Decision,
    rule: CountingRule | None = None,
    *,
    spacing_mm: Sequence[float],
) -> NDArray[np.float64]:
    """What each candidate voxel adds to the score.

    Args:
        attention: Attention at the candidates, 0-1, shape `(n,)`.
        density: Agatston density, shape `(n,)`.
        flat_index: Position in the flattened volume, ascending, shape `(n,)`.
        shape: Shape of the volume, `(z, y, x)`.
        decision: `"voxel"` weighs each voxel by its attention; `"slice"` and `"lesion"`
            take or leave whole components by their attention, see `lesion_attention`; of
            lesions those that only touch are told apart first, see `divide_touching`.
        rule: Attention that a component must exceed; one half by default.
        spacing_mm: Voxel spacing, `(z, y, x)`, mm.

    Returns:
        Contributions, shape `(n,)`; their sum is the score.

    Raises:
        ValueError: If `decision` is unknown.
    """
    if decision == "voxel":
        return np.asarray(attention * density, dtype=np.float64)
    if decision not in ("slice", "lesion"):
        raise ValueError(f"decision must be voxel, slice or lesion. Received: {decision}")
    label: NDArray[np.integer]
    if decision == "slice":
        label = label_voxels(flat_index, shape, connectivity=8)
    else:
        label = decided_lesions(attention, density, flat_index, shape, spacing_mm)
    weight = np.bincount(label, density)
    whole = lesion_attention(label, attention, density)
    needed = (rule or CountingRule()).needed_attention(weight)
    return np.asarray(density * (whole > needed)[label], dtype=np.float64)
