"""What can be measured of a registered pair without labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from registration.geometry import ImageGrid
from registration.transforms_dense import displacement_field_vox

TRANSFORM_NAME = "transform.tfm"

MEASURED_VOXELS = 2**22
"""Voxels on which a result is measured at most; of larger grids every n-th voxel of each axis."""

FOLDING_ALARM_PERCENT = 0.5
"""Share of folded voxels from which a user is warned: networks fold less on images of the kind that
they were trained on, and much more on others."""


ALIKE_TOLERANCE = 1e-3
"""Loss of correlation that is none (own): interpolation alone costs as much where there was nothing
to register."""


@dataclass(frozen=True, slots=True)
class PairMetrics:
    """What `metrics.json` says; there, a measure that is not a number is null.

    Args:
        method: Name of the registrar.
        ncc_before: Correlation of fixed and moving image as they lie, where both are; of large
            images every n-th voxel is measured, here and below.
        ncc_after: Correlation of fixed and moved image, where both are.
        folding_percent: Share of voxels with a Jacobian determinant of zero or less, %.
        sd_jacobian: Standard deviation of the Jacobian determinant.
        bending_energy_per_mm2: Bending energy of the displacement, 1/mm², summed over components.
        seconds: Wall time of the registration itself.
        moved: Name of the moved image.
        transform: Name of the transform file.
        slicer_reads: Whether 3D Slicer reads that file as what it is.
        inverse_mean_error_mm: Mean distance between points of the moving image and where inverse
            and transform in a row bring them, mm; here and below `None`, and not in the file, if
            no inverse was asked for.
        inverse_max_error_mm: Greatest such distance, mm.
    """

    method: str
    ncc_before: float | None
    ncc_after: float | None
    folding_percent: float
    sd_jacobian: float
    bending_energy_per_mm2: float
    seconds: float
    moved: str
    transform: str = TRANSFORM_NAME
    slicer_reads: bool = True
    inverse_mean_error_mm: float | None = None
    inverse_max_error_mm: float | None = None

    @property
    def doubts(self) -> tuple[str, ...]:
        """Sentences that warn of a result; none for one that looks right by its measures alone."""
        found = []
        if self.folding_percent >= FOLDING_ALARM_PERCENT:
            found.append(
                f"{self.folding_percent:.1f} % of the voxels are folded: the transform is wrong "
                "there, and may be elsewhere. Take networks that were trained on such images, "
                "another method, or more smoothness (of networks: --refine and --refine-bending)."
            )
        before, after = self.ncc_before, self.ncc_after
        if before is not None and after is not None and after < before - ALIKE_TOLERANCE:
            found.append(
                f"the images are less alike than before (correlation {after:.3f} after, "
                f"{before:.3f} before): take networks that were trained on such images, or "
                "another method."
            )
        return tuple(found)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what to do with the result; none if there is nothing to know."""
        if self.slicer_reads:
            return ()
        return (
            f"3D Slicer reads cubic B-splines of three axes only: it would refuse "
            f"{self.transform}, or take it for another transform. Give it the field of --dense, "
            "or the moved image.",
        )


def image_correlation(
    fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform
) -> float | None:
    """Correlation over the fixed voxels that the moving image covers; `None` without any."""
    step = _measured_step(ImageGrid.from_image(fixed))
    fixed = fixed[(slice(None, None, step),) * fixed.GetDimension()]
    grid = ImageGrid.from_image(fixed)
    if transform.GetDimension() != grid.dimension:
        transform = sitk.Transform(grid.dimension, sitk.sitkIdentity)
    moved = sitk.Resample(
        moving, grid.empty_image(), transform, sitk.sitkLinear, float("nan"), sitk.sitkFloat64
    )
    b = sitk.GetArrayFromImage(moved)
    covered = np.isfinite(b)
    a = sitk.GetArrayFromImage(fixed)[covered].astype(float)
    b = b[covered]
    if a.size < 2 or a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def measured_field(
    transform: sitk.Transform, grid: ImageGrid
) -> tuple[NDArray[np.float64], tuple[float, ...]]:
    """Displacement along the axes, mm, on the grid or every n-th voxel of a large one.

    Returns:
        Field of shape `(*shape, d)` and spacing, mm, both in array axis order.
    """
    step = _measured_step(grid)
    coarse = ImageGrid(
        tuple(max(2, n // step) for n in grid.size),
        tuple(s * step for s in grid.spacing),
        grid.origin,
        grid.direction,
    )
    spacing = coarse.spacing[::-1]
    return displacement_field_vox(transform, coarse) * np.array(spacing), spacing


def _measured_step(grid: ImageGrid) -> int:
    """Distance of the voxels that are measured, along each axis [voxels]."""
    return math.ceil((math.prod(grid.size) / MEASURED_VOXELS) ** (1 / grid.dimension))
