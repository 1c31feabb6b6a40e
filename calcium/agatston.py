"""The reference: Agatston, volume and mass score of a mask drawn by a reader."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from calcium.density import Candidates, find_candidates
from calcium.lesions import LESION_CONNECTIVITY, Lesion, group_lesions
from calcium.presets import DEFAULT_PRESET, Preset, to_preset
from registration.geometry import ImageGrid

LATTICE_ATOL_MM = 0.1
"""Largest distance of a mask voxel from a scan voxel [mm]: headers are rounded, pixels are
0.3 mm and more."""

DIRECTION_ATOL = 1e-3
"""Largest deviation of a direction cosine; where it ends up is checked in mm besides."""

SPACING_RTOL = 1e-3
"""Largest relative deviation of a spacing; where it ends up is checked in mm besides."""

MM3_PER_CM3 = 1000.0


@dataclass(frozen=True, slots=True)
class AgatstonResult:
    """Scores of one mask under one preset.

    Args:
        preset: Name of the definition the scores follow.
        agatston: Agatston score, 3 mm normalization included.
        volume_mm3: Volume of the voxels that count, mm³ (no interpolation).
        mass_mg: Calcium mass, mg; `None` without a calibration factor.
        mean_hu: Mean attenuation of the voxels that count, HU; `None` if there are none.
        lesions: Connected pieces, the largest score first.
    """

    preset: str
    agatston: float
    volume_mm3: float
    mass_mg: float | None
    mean_hu: float | None
    lesions: tuple[Lesion, ...]


def score_mask(
    volume_hu: NDArray[np.floating | np.integer],
    mask: NDArray[np.generic],
    grid: ImageGrid,
    preset: str | Preset = DEFAULT_PRESET,
    *,
    calibration_mg_per_hu_cm3: float | None = None,
) -> AgatstonResult:
    """Scores of the voxels inside a mask.

    The mask may be drawn generously: voxels below 130 HU never count. It is also
    final: a component ends where the mask ends, and a peak outside it does not count.

    Args:
        volume_hu: Attenuation in HU, shape `(z, y, x)`. NaN never counts.
        mask: Non-zero where a voxel may count, same shape, finite.
        grid: Native grid; its third spacing is the distance between slice positions.
        preset: Definition of the score, by name or as a `Preset`.
        calibration_mg_per_hu_cm3: Mass calibration factor of scanner and protocol,
            mg/(HU cm³), above 0.

    Returns:
        The scores: 0.0 everywhere and no lesion if nothing counts.

    Raises:
        ValueError: If the shapes of volume, mask and grid differ, the mask holds values that
            are not finite, the calibration factor is not above 0, or the preset is unknown.

    Source:
        Agatston et al., J Am Coll Cardiol 1990;15:827-832; mass: Hong et al., Radiology
        2002;223:474-480.

    Example:
        >>> hu = np.zeros((4, 4, 4)); hu[:, 1:3, 1:3] = 400.0
        >>> grid = ImageGrid((4, 4, 4), (0.5, 0.5, 0.5), (0.0, 0.0, 0.0))
        >>> result = score_mask(hu, hu > 0, grid)
        >>> round(result.agatston, 3), result.volume_mm3, len(result.lesions)
        (2.667, 2.0, 1)
    """
    preset = to_preset(preset)
    inside = np.asarray(mask)
    _refuse_unknown_places(inside)
    candidates = find_candidates(volume_hu, grid, preset, mask=inside != 0)
    counted_hu = candidates.hu[candidates.density > 0]
    volume_mm3 = counted_hu.size * grid.voxel_volume_mm3
    mean_hu = float(counted_hu.mean()) if counted_hu.size else None
    mass_mg = None
    if calibration_mg_per_hu_cm3 is not None:
        if not 0 < calibration_mg_per_hu_cm3 < np.inf:
            raise ValueError(
                "the mass calibration must be a number above 0 mg/(HU cm³). "
                f"Received: {calibration_mg_per_hu_cm3}"
            )
        mass_mg = calibration_mg_per_hu_cm3 * (mean_hu or 0.0) * volume_mm3 / MM3_PER_CM3
    return AgatstonResult(
        preset=preset.name,
        agatston=float(candidates.density.sum()),
        volume_mm3=volume_mm3,
        mass_mg=mass_mg,
        mean_hu=mean_hu,
        lesions=_lesions(candidates, grid, preset),
    )


def score_image(
    image: sitk.Image,
    mask: sitk.Image,
    preset: str | Preset = DEFAULT_PRESET,
    *,
    calibration_mg_per_hu_cm3: float | None = None,
) -> AgatstonResult:
    """Scores of a mask image on a scan image; see `score_mask`.

    Args:
        image: Scan in HU, LPS mm.
        mask: Non-zero where a voxel may count, on the voxels of the scan.
        preset: Definition of the score, by name or as a `Preset`.
        calibration_mg_per_hu_cm3: Mass calibration factor, mg/(HU cm³).

    Returns:
        The scores: 0.0 everywhere and no lesion if nothing counts.

    Raises:
        ValueError: If the mask does not lie on the voxels of the scan or holds values that
            are not finite, or the preset is unknown.

    Source:
        Own.
    """
    grid = ImageGrid.from_image(image)
    return score_mask(
        sitk.GetArrayViewFromImage(image),
        mask_on_grid(mask, grid),
        grid,
        preset,
        calibration_mg_per_hu_cm3=calibration_mg_per_hu_cm3,
    )


def mask_on_grid(mask: sitk.Image, grid: ImageGrid) -> NDArray[np.bool_]:
    """A mask image as an array on the grid of its scan, without interpolation.

    Programs save masks with flipped axes, in another slice order, or cropped to what
    was drawn. All of these are accepted, because every mask voxel still *is* a voxel of
    the scan; a mask on any other lattice is refused, never resampled.

    Args:
        mask: Label image, LPS mm; non-zero is inside.
        grid: Grid of the scan.

    Returns:
        True inside the mask, shape `grid.shape`.

    Raises:
        ValueError: If the mask is not a scalar 3-D image, holds values that are not finite,
            or a voxel of it is more than 0.1 mm from the nearest voxel center of the scan.

    Source:
        Own.
    """
    if mask.GetDimension() != 3 or mask.GetNumberOfComponentsPerPixel() != 1:
        raise ValueError(
            "the mask must be one 3-D label image. Received: "
            f"{mask.GetDimension()} dimensions, {mask.GetNumberOfComponentsPerPixel()} components"
        )
    _refuse_unknown_places(sitk.GetArrayViewFromImage(mask))
    mask_grid = ImageGrid.from_image(mask)
    if not _is_part_of_lattice(mask_grid, grid):
        raise ValueError(
            "the mask must lie on the voxels of the scan; draw or resample it on this scan. "
            f"Scan: {_tell(grid)}. Mask: {_tell(mask_grid)}"
        )
    placed = sitk.Resample(
        sitk.Cast(mask != 0, sitk.sitkUInt8),
        grid.empty_image(sitk.sitkUInt8),
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
        0,
    )
    return np.asarray(sitk.GetArrayFromImage(placed), dtype=bool)


def _refuse_unknown_places(mask: NDArray[np.generic]) -> None:
    """NaN differs from 0, so that a background of NaN would count as inside."""
    unknown = mask.size - np.count_nonzero(np.isfinite(mask))
    if unknown:
        raise ValueError(
            "every voxel of the mask must hold a number; write 0 outside of what may count. "
            f"Received: {unknown} of {mask.size} voxels without one (NaN or infinite)"
        )


def _is_part_of_lattice(part: ImageGrid, whole: ImageGrid) -> bool:
    """True if every voxel center of `part` is one of `whole`, axes flipped or not."""
    turn = np.abs(part.direction_matrix.T @ whole.direction_matrix)
    is_permutation = np.allclose(turn, np.round(turn), atol=DIRECTION_ATOL)
    steps_agree = np.allclose(turn @ whole.spacing, part.spacing, rtol=SPACING_RTOL)
    ends = [[0, n - 1] for n in part.size]
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)
    index = whole.indices(part.physical_points(corners))
    off_mm = np.abs((index - np.round(index)) * whole.spacing).max()
    is_inside = np.all((index > -0.5) & (index < np.array(whole.size) - 0.5))
    return bool(is_permutation and steps_agree and is_inside and off_mm <= LATTICE_ATOL_MM)


def _lesions(candidates: Candidates, grid: ImageGrid, preset: Preset) -> tuple[Lesion, ...]:
    connectivity = preset.connectivity if preset.crosses_slices else LESION_CONNECTIVITY
    return group_lesions(candidates, candidates.density, grid, connectivity=connectivity)


def _tell(grid: ImageGrid) -> str:
    def join(values: tuple[float, ...], form: str) -> str:
        return " x ".join(f"{value:{form}}" for value in values)

    first = ", ".join(f"{value:.2f}" for value in grid.origin)
    return f"{join(grid.size, 'd')} voxels of {join(grid.spacing, '.4g')} mm from ({first})"
