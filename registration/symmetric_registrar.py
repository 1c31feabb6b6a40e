"""Registration that does not depend on which image is called fixed, by registering both ways."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy.linalg import sqrtm

from registration.geometry import ImageGrid, affine_matrix, affine_transform
from registration.registrar import Registrar, Registration
from registration.transforms import composite_transform
from registration.transforms_dense import displacement_field_mm, displacement_field_transform_mm


class SymmetricRegistrar:
    """Registers a pair in both directions and answers what lies between them.

    With `T` from fixed to moving points and `S` back, `S(T(x))` would be `x` if both agreed. Half
    of what it is off is taken out before `T`: the answer with the images exchanged is then the
    inverse of this one, exactly for linear transforms and up to the square of the disagreement
    for others.

    Args:
        registrar: What registers.
    """

    def __init__(self, registrar: Registrar) -> None:
        self._registrar = registrar

    @property
    def name(self) -> str:
        """Name for tables."""
        return f"{self._registrar.name}, both ways"

    def register(self, fixed: sitk.Image, moving: sitk.Image) -> Registration:
        """Register one pair.

        Args:
            fixed: Image whose grid and space the result lives in.
            moving: Image to be brought there.

        Returns:
            One stage: a linear transform, or what the registrar found from moving to fixed with a
            small dense field on the grid of `fixed` in front of it.
        """
        there = self._registrar.register(fixed, moving).transform
        back = self._registrar.register(moving, fixed).transform
        return Registration((halfway(there, back, ImageGrid.from_image(fixed)),))


def halfway(there: sitk.Transform, back: sitk.Transform, grid: ImageGrid) -> sitk.Transform:
    """The first transform without half of what it and the second do not undo of each other.

    Args:
        there: Pull-back, from points of the fixed image to points of the moving one.
        back: From points of the moving image to points of the fixed one.
        grid: Of the fixed image.

    Source:
        Own; the root of a round trip, as a group has it, to first order where it is no matrix.
    """
    if there.IsLinear() and back.IsLinear():
        matrix = affine_matrix(there)
        root = np.real(sqrtm(affine_matrix(back) @ matrix))
        return affine_transform(matrix @ np.linalg.inv(root))
    round_trip = sitk.CompositeTransform([back, there])
    off_by = displacement_field_mm(round_trip, grid)
    return composite_transform([there, displacement_field_transform_mm(-0.5 * off_by, grid)])
