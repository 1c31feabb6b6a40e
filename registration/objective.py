"""What a registration minimizes: dissimilarity, bending and folding; for training and refinement.

Everything is in `keras.ops` and per pair: one value for every item of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from keras import ops

from registration.bending import bending_energy, control_point_bending_energy
from registration.bspline_jacobian import bspline_jacobian_determinant
from registration.similarity import (
    folding_penalty,
    local_normalized_cross_correlation,
    normalized_cross_correlation,
    normalized_mutual_information,
)
from registration.warping import jacobian_determinant

Similarity = Literal["ncc", "ncc_batch", "lncc", "nmi"]
SIMILARITIES: tuple[Similarity, ...] = get_args(Similarity)


@dataclass(frozen=True, slots=True)
class Objective:
    """Weights of a registration's objective.

    Args:
        similarity: `"ncc"` over the whole image, `"ncc_batch"` over all images of a batch at once,
            as some published code has it, `"lncc"` in a moving window, or `"nmi"`.
        window: Edge of the window of `"lncc"`, voxels, odd.
        bending_weight: Weight of the bending energy. The energy is in 1/mm² (1/voxel² where
            the networks work in voxels), so the weight is in mm².
        folding_weight: Weight of the mean negative part of the Jacobian determinant.
    """

    similarity: Similarity = "ncc"
    window: int = 9
    bending_weight: float = 0.0
    folding_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.similarity not in SIMILARITIES:
            raise ValueError(
                f"similarity must be one of {SIMILARITIES}. Received: {self.similarity!r}"
            )
        if self.window < 1 or self.window % 2 == 0:
            raise ValueError(f"window must be a positive odd number. Received: {self.window}")
        if min(self.bending_weight, self.folding_weight) < 0:
            raise ValueError(
                "weights must not be negative. "
                f"Received: {self.bending_weight} and {self.folding_weight}"
            )

    def dissimilarity(self, fixed: Any, moved: Any, mask: Any = None) -> Any:
        """Negative similarity, shape `(batch,)`; of a whole batch, its value for every item.

        Args:
            fixed: Shape `(batch, *shape, 1)`.
            moved: Same shape.
            mask: Weight of every voxel, same shape; all by default.
        """
        if self.similarity == "ncc":
            return -normalized_cross_correlation(fixed, moved, mask)
        if self.similarity == "ncc_batch":
            pooled = normalized_cross_correlation(fixed, moved, mask, per_batch=True)
            return -ops.repeat(pooled, ops.shape(fixed)[0])
        if self.similarity == "nmi":
            return -normalized_mutual_information(fixed, moved, mask)
        return -local_normalized_cross_correlation(fixed, moved, mask, window=self.window)

    def roughness(
        self,
        displacement_field: Any,
        control_points: Any = None,
        *,
        spacing: Sequence[float] = (),
        spacing_mm: Sequence[float],
        border: int = 0,
        order: int = 3,
    ) -> Any:
        """Weighted bending energy and folding penalty, shape `(batch,)`.

        Args:
            displacement_field: Voxels, array axis order, shape `(batch, *shape, d)`.
            control_points: Those of the field, if it is a B-spline: energy and determinants are
                then exact and take no pass over the voxels.
            spacing: Control point spacing per array axis, voxels.
            spacing_mm: Voxel spacing per array axis, mm.
            border: Control points beyond the image at every end of the lattice.
            order: Degree of the spline.
        """
        total: Any = ops.zeros_like(displacement_field[(slice(None), *(0,) * len(spacing_mm), 0)])
        lattice: dict[str, Any] = {
            "shape": ops.shape(displacement_field)[1:-1],
            "spacing": spacing,
            "border": border,
            "order": order,
        }
        if self.bending_weight > 0:
            if control_points is None:
                energy = bending_energy(displacement_field, spacing_mm=spacing_mm)
            else:
                energy = control_point_bending_energy(
                    control_points, spacing_mm=spacing_mm, **lattice
                )
            total = total + self.bending_weight * energy
        if self.folding_weight > 0:
            if control_points is None:
                determinants = jacobian_determinant(displacement_field)
            else:
                determinants = bspline_jacobian_determinant(control_points, **lattice)
            folding = folding_penalty(determinants)
            total = total + self.folding_weight * folding
        return total

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)
