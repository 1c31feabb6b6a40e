"""What the heart of an aligned scan is made of: blood and muscle, and metal."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from registration.geometry import Ellipsoid, ImageGrid, affine_matrix, transform_points

METAL_HU = 2500.0
"""Attenuation that no calcified plaque reaches, HU: leads, wires, clips, valves."""

SAMPLING_MM = 4.0
"""Spacing of the samples that measure the heart's soft tissue, mm."""

CORE_SCALE = 0.7
"""The heart's core, where blood and muscle lie, as a share of the ellipsoid's radii."""

MINIMUM_SOFT_TISSUE_SAMPLES = 100
"""Fewer samples (about 6 cm³) say nothing about contrast."""


def soft_tissue_upper_quartile_hu(
    image: sitk.Image, atlas_to_scan: sitk.AffineTransform, heart: Ellipsoid
) -> float | None:
    """Upper quartile of the attenuation in the heart's core, HU.

    Noise is averaged over `SAMPLING_MM`; fat, lung and metal do not take part. The upper
    quartile sees contrast even when it fills the left or the right chambers alone.

    Args:
        image: Scan in HU, LPS mm.
        atlas_to_scan: Pull-back from atlas to scan, LPS mm.
        heart: The heart in atlas space.

    Returns:
        The upper quartile, HU, or `None` when too little soft tissue lies in the scan.
    """
    factors = [
        max(1, min(n, round(SAMPLING_MM / s)))
        for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)
    ]
    box = _heart_index_box(image, atlas_to_scan, heart)
    if box is None:
        return None
    lower, upper = box
    crop = image[tuple(slice(a, b) for a, b in zip(lower, upper, strict=True))]
    factors = [min(f, n) for f, n in zip(factors, crop.GetSize(), strict=True)]
    coarse = sitk.BinShrink(sitk.Cast(crop, sitk.sitkFloat32), factors)
    inside = _inside_ellipsoid(ImageGrid.from_image(coarse), atlas_to_scan, heart, CORE_SCALE)
    values = sitk.GetArrayViewFromImage(coarse)[inside]
    soft_tissue = values[(values > 0.0) & (values < 1000.0)]
    if soft_tissue.size < MINIMUM_SOFT_TISSUE_SAMPLES:
        return None
    return float(np.percentile(soft_tissue, 75))


def metal_volume_mm3(
    image: sitk.Image, atlas_to_scan: sitk.AffineTransform, heart: Ellipsoid
) -> float:
    """Volume of the heart's voxels that only metal can be, mm³.

    Args:
        image: Scan in HU, LPS mm.
        atlas_to_scan: Pull-back from atlas to scan, LPS mm.
        heart: The heart in atlas space.
    """
    box = _heart_index_box(image, atlas_to_scan, heart)
    if box is None:
        return 0.0
    lower, upper = box
    crop = image[tuple(slice(a, b) for a, b in zip(lower, upper, strict=True))]
    bright = sitk.GetArrayViewFromImage(crop) > METAL_HU
    if not bright.any():
        return 0.0
    grid = ImageGrid.from_image(crop)
    indices = np.argwhere(bright)[:, ::-1]
    points = grid.physical_points(indices)
    inside = _ellipsoid_distance(points, atlas_to_scan, heart) <= 1.0
    return float(np.count_nonzero(inside)) * grid.voxel_volume_mm3


def _heart_index_box(
    image: sitk.Image, atlas_to_scan: sitk.AffineTransform, heart: Ellipsoid
) -> tuple[list[int], list[int]] | None:
    """Smallest index box (x, y, z) of the scan that holds its heart; `None` if outside."""
    center, radii = np.array(heart.center_mm), np.array(heart.radii_mm)
    corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * 3)).reshape(3, -1).T * radii + center
    mapped = np.array([atlas_to_scan.TransformPoint(c.tolist()) for c in corners])
    index = ImageGrid.from_image(image).indices(mapped)
    lower = np.maximum(np.floor(index.min(axis=0)).astype(int), 0)
    upper = np.minimum(np.ceil(index.max(axis=0)).astype(int) + 1, image.GetSize())
    if np.any(upper <= lower):
        return None
    return lower.tolist(), upper.tolist()


def _inside_ellipsoid(
    grid: ImageGrid, atlas_to_scan: sitk.AffineTransform, heart: Ellipsoid, scale: float
) -> NDArray[np.bool_]:
    distance = _ellipsoid_distance(grid.voxel_points().reshape(-1, 3), atlas_to_scan, heart)
    return (distance <= scale).reshape(grid.shape)


def _ellipsoid_distance(
    points: NDArray[np.float64], atlas_to_scan: sitk.AffineTransform, heart: Ellipsoid
) -> NDArray[np.float64]:
    """Distance from the heart's centre in units of its radii, 1 on the surface."""
    scan_to_atlas = np.linalg.inv(affine_matrix(atlas_to_scan))
    return heart.relative_radius(transform_points(scan_to_atlas, points))
