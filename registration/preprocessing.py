"""From a CT of any size to the small volume in which the heart is looked for."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from registration.alignment_volume import AlignmentVolume
from registration.geometry import ImageGrid

LOWEST_HU = -900.0
"""Attenuation below which all is air [HU]; evidence of own alignment studies."""
HIGHEST_HU = 250.0
"""Attenuation above which all is bone or metal [HU]; likewise."""
PADDING_HU = -1100.0
"""Below this no reconstructed voxel lies: vendors pad with -2000, -2048 or -3024 [HU]."""
WORKING_SPACING_MM = 4.0
"""Voxel size of an `AlignmentVolume` [mm]."""
WIDE_FIELD_MM = 275.0
"""In-plane field of view from which both lungs are taken to be inside [mm]."""
_LUNG_HU = -500.0
_BODY_HU = -350.0
_SMALLEST_LUNGS_MM3 = 8.0e5


def prepare_volume(
    image: sitk.Image,
    *,
    spacing_mm: float = WORKING_SPACING_MM,
    limits_hu: tuple[float, float] = (LOWEST_HU, HIGHEST_HU),
) -> AlignmentVolume:
    """Reduce a CT to clipped attenuation on a small LPS-aligned grid.

    Padding outside the reconstruction circle is masked before anything is averaged, and on
    fields of view wide enough to show it the table is removed.

    Args:
        image: Attenuation in HU, three-dimensional, any size, spacing and direction.
        spacing_mm: Voxel size of the result, mm.
        limits_hu: Attenuation below and above which values are clipped, HU.

    Returns:
        The reduced volume; its `valid` is 0 everywhere if the image holds padding alone.

    Raises:
        ValueError: If the image is not three-dimensional.
    """
    if image.GetDimension() != 3:
        raise ValueError(f"image must be three-dimensional. Received: {image.GetDimension()}-D")
    low_hu, high_hu = limits_hu
    reduced, inside = _shrink(image, spacing_mm, limits_hu)
    grid = axis_aligned_grid(ImageGrid.from_image(reduced), spacing_mm)
    reference = grid.empty_image(sitk.sitkUInt8)
    hu = sitk.GetArrayFromImage(
        sitk.Resample(
            reduced, reference, sitk.Transform(), sitk.sitkLinear, low_hu, sitk.sitkFloat32
        )
    )
    valid = sitk.GetArrayFromImage(
        sitk.Resample(inside, reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)
    ).astype(np.float32)
    hu = np.where(valid > 0, np.clip(hu, low_hu, high_hu), low_hu).astype(np.float32)
    return _with_start(hu, valid, grid, low_hu)


def _shrink(
    image: sitk.Image, spacing_mm: float, limits_hu: tuple[float, float]
) -> tuple[sitk.Image, sitk.Image]:
    """Block means of the clipped image, and the field of view, both on the shrunk grid."""
    factors = [
        max(1, min(int(spacing_mm / spacing + 0.25), size))
        for spacing, size in zip(image.GetSpacing(), image.GetSize(), strict=True)
    ]
    clipped = sitk.Clamp(image, sitk.sitkInt16, *limits_hu)
    reduced = sitk.BinShrink(clipped, factors)
    picked = sitk.GetArrayViewFromImage(image)[
        tuple(
            slice(factor // 2, factor * count, factor)
            for factor, count in zip(factors[::-1], reduced.GetSize()[::-1], strict=True)
        )
    ]
    inside = sitk.GetImageFromArray(_field_of_view(picked).astype(np.uint8))
    inside.CopyInformation(reduced)
    return reduced, inside


def _field_of_view(hu: NDArray[np.generic]) -> NDArray[np.bool_]:
    """True where the scanner reconstructed something, array order `(z, y, x)`."""
    inside = np.asarray(hu) >= PADDING_HU
    rows, columns = hu.shape[1:]
    y = (np.arange(rows) + 0.5) / rows * 2 - 1
    x = (np.arange(columns) + 0.5) / columns * 2 - 1
    beyond = np.hypot(y[:, None], x[None, :]) > 1.02
    if beyond.any():
        outer = np.asarray(hu)[:, beyond]
        # Air is noisy, unless clipped; a constant rim is padding, or air that tells nothing.
        if np.ptp(outer) == 0:
            inside[:, np.hypot(y[:, None], x[None, :]) > 1.0] = False
    return np.asarray(inside)


def axis_aligned_grid(grid: ImageGrid, spacing_mm: float) -> ImageGrid:
    """Isotropic grid along L, P, S over the bounding box of another, whole voxels counted."""
    ends = np.stack([np.full(3, -0.5), np.array(grid.size) - 0.5])
    corners = np.stack(np.meshgrid(*ends.T, indexing="ij"), axis=-1).reshape(-1, 3)
    points = grid.physical_points(corners)
    low, high = points.min(axis=0), points.max(axis=0)
    size = np.maximum(1, np.rint((high - low) / spacing_mm))
    return ImageGrid.centered(size, [spacing_mm] * 3, (low + high) / 2)


def _with_start(
    hu: NDArray[np.float32], valid: NDArray[np.float32], grid: ImageGrid, floor_hu: float
) -> AlignmentVolume:
    """Remove the table where the field of view is wide, and find where to start."""
    middle = _centroid(valid > 0, grid) if valid.any() else grid.center
    wide = bool(min(grid.extent_mm[:2]) >= WIDE_FIELD_MM)
    if wide:
        front, back = _trunk_surface(hu, grid)
        rows = np.arange(hu.shape[1])[None, :, None]
        skin = round(12.0 / grid.spacing[1])
        hu = np.where(rows <= back[:, None] + skin, hu, np.float32(floor_hu))
        inside = (rows > front[:, None]) & (rows < back[:, None]) & (valid > 0)
        lungs = inside & (hu < _LUNG_HU)
        wide = bool(lungs.sum() * grid.voxel_volume_mm3 >= _SMALLEST_LUNGS_MM3)
        if wide:
            middle = _centroid(lungs, grid)
    return AlignmentVolume(hu, valid, grid, tuple(middle.tolist()), wide)


def _centroid(mask: NDArray[np.bool_], grid: ImageGrid) -> NDArray[np.float64]:
    index = np.argwhere(mask).mean(axis=0)[::-1]
    return grid.physical_points(index[None])[0]


def _trunk_surface(
    hu: NDArray[np.float32], grid: ImageGrid
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last row of the trunk over every `(slice, column)`, thin tables ignored.

    Beside the trunk both are the middle row of the trunk, so that only what lies there
    towards the back, such as the raised edge of a table, counts as behind it.
    """
    tissue = grid.to_image((hu > _BODY_HU).astype(np.uint8))[:, :, ::2]
    opened = sitk.BinaryMorphologicalOpening(tissue, [1, 1, 0], sitk.sitkBox)
    labels = sitk.RelabelComponent(sitk.ConnectedComponent(opened), sortByObjectSize=True)
    trunk = sitk.GetArrayFromImage(labels == 1) > 0
    trunk = np.repeat(trunk, 2, axis=0)[: hu.shape[0]]
    rows = hu.shape[1]
    front = np.where(trunk.any(axis=1), trunk.argmax(axis=1), rows // 2)
    back = np.where(trunk.any(axis=1), rows - 1 - trunk[:, ::-1].argmax(axis=1), rows // 2)
    if trunk.any():
        middle = round(float(np.argwhere(trunk)[:, 1].mean()))
        beside = ~trunk.any(axis=1)
        front, back = (np.where(beside, middle, edge) for edge in (front, back))
    return front, back
