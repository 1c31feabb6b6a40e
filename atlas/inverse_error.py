"""How far what the atlas shows is from its place once it has been carried to a subject."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from registration.geometry import ImageGrid
from registration.transforms_dense import displacement_field_mm


def carried_back_error_mm(
    forward: sitk.Transform, backward: sitk.Transform, grid: ImageGrid, seen: sitk.Image
) -> float:
    """How far from its place in the subject something of the atlas comes to lie.

    Points of the atlas that the subject shows are carried there by the exact transform, back by
    the inverse and there again: the second place is where a label of the first would be drawn.

    Args:
        forward: From atlas to subject, LPS mm.
        backward: From subject to atlas.
        grid: Registration grid. Points in the middle between its voxels, where a dense field is
            worst, are taken, every second one along each axis.
        seen: Positive in the subject's field of view.

    Returns:
        Mean distance in the subject, mm; 0.0 if nothing of the atlas is in view.
    """
    size = tuple(max(1, n // 2) for n in grid.size)
    origin = grid.physical_points([0.5 if n > 1 else 0.0 for n in grid.size])
    spacing = tuple(2.0 * s for s in grid.spacing)
    between = ImageGrid(size, spacing, tuple(origin.tolist()), grid.direction)
    there = displacement_field_mm(forward, between)
    again = displacement_field_mm(sitk.CompositeTransform([forward, backward, forward]), between)
    in_view = sitk.GetArrayFromImage(
        sitk.Resample(
            seen, between.empty_image(sitk.sitkUInt8), forward, sitk.sitkNearestNeighbor, 0
        )
    )
    error = np.linalg.norm(again - there, axis=-1)[in_view > 0]
    return float(error.mean()) if error.size else 0.0
