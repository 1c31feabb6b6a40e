"""How a scanner sees calcium: point spread, slice profile, kernel and noise.

A plaque is a cloud of particles, each with a mass in HU mm³ (attenuation above its
surroundings times volume). Every particle is spread by a separable response whose voxel
integrals are exact, so the volume integral of the added attenuation equals the mass
however small the plaque is against a voxel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import erf

from registration.geometry import ImageGrid

FWHM_PER_SIGMA = 2.3548200450309493
"""Full width at half maximum of a Gaussian of unit standard deviation, 2 sqrt(2 ln 2)."""


@dataclass(frozen=True, slots=True)
class Response:
    """Blur of one acquisition.

    Args:
        in_plane_fwhm_mm: Width of the in-plane point spread, mm.
        slice_thickness_mm: Width of the box-shaped slice profile, mm.
        slice_edge_fwhm_mm: Width of the Gaussian that rounds the box, mm.
    """

    in_plane_fwhm_mm: float = 0.9
    slice_thickness_mm: float = 3.0
    slice_edge_fwhm_mm: float = 0.8


@dataclass(frozen=True, slots=True)
class Particles:
    """A plaque or distractor as point masses.

    Args:
        points_mm: LPS positions, mm, shape `(n, 3)`.
        masses: HU mm³ of each, shape `(n,)`.
    """

    points_mm: NDArray[np.float64]
    masses: NDArray[np.float64]


def render_particles(
    particles: Particles, grid: ImageGrid, response: Response
) -> tuple[NDArray[np.float32], tuple[slice, slice, slice]]:
    """Image of particles on the part of a grid that they reach.

    Args:
        particles: What to render, one at least; what falls outside the grid is cut off.
        grid: Native grid; blur is taken along its axes.
        response: Blur of the acquisition.

    Returns:
        The added attenuation, HU, and the part of the volume it belongs to, both in
        array order; of size zero if nothing falls on the grid.

    Example:
        >>> grid = ImageGrid((40, 40, 12), (0.5, 0.5, 3.0), (0.0, 0.0, 0.0))
        >>> cloud = Particles(np.array([[9.8, 10.1, 16.0]]), np.array([90.0]))
        >>> patch, part = render_particles(cloud, grid, Response())
        >>> round(float(patch.sum()) * grid.voxel_volume_mm3, 1)
        90.0
    """
    index = grid.indices(particles.points_mm)
    sigma = response.in_plane_fwhm_mm / FWHM_PER_SIGMA
    edge = response.slice_edge_fwhm_mm / FWHM_PER_SIGMA
    x, weight_x = _gaussian_weights(index[:, 0], sigma / grid.spacing[0])
    y, weight_y = _gaussian_weights(index[:, 1], sigma / grid.spacing[1])
    z, weight_z = _profile_weights(
        index[:, 2], response.slice_thickness_mm / grid.spacing[2], edge / grid.spacing[2]
    )
    scale = particles.masses / grid.voxel_volume_mm3
    values = (scale[:, None] * weight_z)[:, :, None, None] * (
        weight_y[:, None, :, None] * weight_x[:, None, None, :]
    )
    low = np.array([z.min(), y.min(), x.min()])
    shape = np.array([z.max(), y.max(), x.max()]) - low + 1
    flat = ((z - low[0])[:, :, None, None] * shape[1] + (y - low[1])[:, None, :, None]) * shape[2]
    flat = flat + (x - low[2])[:, None, None, :]
    patch = np.bincount(flat.ravel(), values.ravel(), int(np.prod(shape))).reshape(shape)
    first = np.clip(low, 0, grid.shape)
    last = np.clip(low + shape, first, grid.shape)
    z_part, y_part, x_part = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    kept = tuple(slice(int(a), int(b)) for a, b in zip(first - low, last - low, strict=True))
    return patch[kept].astype(np.float32), (z_part, y_part, x_part)


def _gaussian_weights(
    position: NDArray[np.float64], sigma_vox: float
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Voxel integrals of unit Gaussians at continuous positions, rows sum to one."""
    reach = int(np.ceil(3.0 * sigma_vox + 0.5))
    index = np.round(position).astype(np.intp)[:, None] + np.arange(-reach, reach + 1)[None]
    offset = index - position[:, None]
    root = np.sqrt(2.0) * sigma_vox
    weight = erf((offset + 0.5) / root) - erf((offset - 0.5) / root)
    return index, weight / weight.sum(1, keepdims=True)


def _profile_weights(
    position: NDArray[np.float64], thickness_vox: float, edge_sigma_vox: float
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Share of each slice in unit masses: a rounded box sampled at slice positions.

    Slices may overlap or leave gaps, as real ones do; the share is normalized so that
    the mean over start offsets conserves mass.
    """
    reach = int(np.ceil(thickness_vox / 2 + 3.0 * edge_sigma_vox))
    index = np.round(position).astype(np.intp)[:, None] + np.arange(-reach, reach + 1)[None]
    offset = index - position[:, None]
    root = np.sqrt(2.0) * edge_sigma_vox
    weight = erf((offset + thickness_vox / 2) / root) - erf((offset - thickness_vox / 2) / root)
    return index, weight / (2.0 * thickness_vox)


def kernel_filter(volume_hu: NDArray[np.float32], amount_px: float) -> NDArray[np.float32]:
    """Change the reconstruction kernel in plane: soften (positive) or sharpen (negative).

    Args:
        volume_hu: HU, shape `(z, y, x)`.
        amount_px: Softening: sigma of the Gaussian, pixels. Sharpening: `-amount_px` is the
            gain of an unsharp mask of one pixel.

    Returns:
        Filtered HU, same shape.
    """
    if abs(amount_px) < 0.05:
        return volume_hu
    sigma = amount_px if amount_px > 0 else 1.0
    blurred = ndimage.gaussian_filter(volume_hu, (0.0, sigma, sigma), truncate=3.0)
    if amount_px > 0:
        return np.asarray(blurred, np.float32)
    return np.asarray(volume_hu - amount_px * (volume_hu - blurred), np.float32)


def correlated_noise(
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    rng: np.random.Generator,
    *,
    sigma_hu: float,
    correlation_mm: float,
) -> NDArray[np.float32]:
    """Quantum noise with an in-plane texture, independent between slices.

    The spectrum is that of filtered back projection: it rises from zero with frequency
    and falls with the kernel (a difference of two Gaussians here).

    Args:
        shape: Array shape `(z, y, x)`.
        spacing: Voxel spacing, ITK order, mm.
        rng: Source of randomness.
        sigma_hu: Standard deviation, HU; zero gives zeros.
        correlation_mm: Sigma of the kernel, mm.

    Returns:
        Noise in HU.
    """
    if sigma_hu <= 0:
        return np.zeros(shape, np.float32)
    white = rng.standard_normal(shape, dtype=np.float32)
    sigma = (0.0, correlation_mm / spacing[1], correlation_mm / spacing[0])
    fine = ndimage.gaussian_filter(white, sigma, mode="wrap", truncate=3.0)
    coarse = ndimage.gaussian_filter(fine, tuple(2.0 * s for s in sigma), mode="wrap", truncate=2.0)
    noise = fine - 0.7 * coarse
    return np.asarray(noise * (sigma_hu / max(float(noise.std()), 1e-6)), np.float32)
