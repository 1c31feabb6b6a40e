"""The scanner: sampling grid, point spread, slice profile, noise and padding."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, sparse
from scipy.special import erf

from pipelines.phantoms.shapes import Array, Canvas
from registration.geometry import ImageGrid


@dataclass(frozen=True, slots=True)
class Kernel:
    """An in-plane reconstruction kernel.

    The point spread is `(1 + overshoot) G(sigma) - overshoot G(2 sigma)`, separable.

    Args:
        name: As written to ConvolutionKernel.
        sigma_mm: Width of the main Gaussian.
        overshoot: Edge enhancement, 0 for none.
        noise_factor: Noise relative to the soft kernel at the same dose.
        noise_peak_per_mm: Spatial frequency at which the noise power peaks, 1/mm.
    """

    name: str
    sigma_mm: float
    overshoot: float
    noise_factor: float
    noise_peak_per_mm: float


KERNELS = {
    "soft": Kernel("B30f", 0.62, 0.0, 0.8, 0.20),
    "standard": Kernel("B35f", 0.50, 0.08, 1.0, 0.26),
    "sharp": Kernel("B50f", 0.38, 0.35, 1.7, 0.42),
}
"""Kernels by phantom name; widths as of typical body kernels (own estimates)."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the continuous object becomes pixels.

    Args:
        grid: Final grid, scanner LPS mm.
        kernel: In-plane point spread and noise color.
        slice_thickness_mm: Width of the slice profile; the spacing is in `grid`.
    """

    grid: ImageGrid
    kernel: Kernel
    slice_thickness_mm: float

    def line_spread(self, offsets_mm: ArrayLike) -> NDArray[np.float64]:
        """In-plane spread at distances from a point, 1/mm; integrates to one."""
        d = np.asarray(offsets_mm, float)
        k = self.kernel
        wide = _gauss(d, 2 * k.sigma_mm)
        result: NDArray[np.float64] = wide + (1 + k.overshoot) * (_gauss(d, k.sigma_mm) - wide)
        return result

    def slice_profile(self, offsets_mm: ArrayLike) -> NDArray[np.float64]:
        """Through-plane sensitivity at distances from a slice, 1/mm; integrates to one.

        A box of the slice thickness with edges softened by a tenth of it.
        """
        d = np.asarray(offsets_mm, float)
        half: float = self.slice_thickness_mm / 2
        soft: float = 0.1 * self.slice_thickness_mm * 2**0.5
        box = erf((d + half) / soft) - erf((d - half) / soft)
        result: NDArray[np.float64] = box / (2 * self.slice_thickness_mm)
        return result

    def reach_mm(self) -> NDArray[np.float64]:
        """Distance beyond which a point leaves no trace, x, y, z."""
        in_plane = 4 * self.kernel.sigma_mm * (2 if self.kernel.overshoot else 1)
        return np.array([in_plane, in_plane, 0.85 * self.slice_thickness_mm])


def render_grid(sampling: Sampling, spacing_mm: float) -> ImageGrid:
    """Isotropic grid that covers a final grid and a margin for its blur."""
    grid = sampling.grid
    margin = np.array([3.0, 3.0, sampling.slice_thickness_mm])
    extent = (np.array(grid.size) - 1) * np.array(grid.spacing) + 2 * margin
    size = np.ceil(extent / spacing_mm).astype(int) + 1
    return ImageGrid.centered(size, [spacing_mm] * 3, grid.center)


def resample(canvas: Canvas, sampling: Sampling) -> Array:
    """Image of a canvas on the final grid, shape of that grid, HU before noise."""
    source, target = canvas.grid, sampling.grid
    positions = [_axis_positions(source, k) for k in range(3)]
    wanted = [_axis_positions(target, k) for k in range(3)]
    step = source.spacing[0]
    narrow = np.sqrt(max(sampling.kernel.sigma_mm**2 - (0.45 * step) ** 2, (0.5 * step) ** 2))
    in_plane = [_blur_weights(wanted[k], positions[k], narrow, sampling.kernel) for k in (0, 1)]
    along = sampling.slice_profile(wanted[2][:, None] - positions[2][None])
    along /= along.sum(axis=1, keepdims=True)
    result: Array = np.empty(target.shape, np.float32)
    for k in range(target.shape[0]):
        slab = np.zeros(source.shape[1:], np.float32)
        for near in np.flatnonzero(along[k] > 1e-4):
            slab += np.float32(along[k, near]) * canvas.hu[near]
        result[k] = (in_plane[0] @ (in_plane[1] @ slab).T).T
    return result


def resample_labels(canvas: Canvas, grid: ImageGrid) -> NDArray[np.uint8]:
    """Nearest labels of a canvas on another grid."""
    take = [
        np.clip(
            np.rint((_axis_positions(grid, k) - canvas.grid.origin[k]) / canvas.grid.spacing[k]),
            0,
            canvas.grid.size[k] - 1,
        ).astype(int)
        for k in range(3)
    ]
    return canvas.labels[np.ix_(take[2], take[1], take[0])]


def noise_gain(shape: tuple[int, ...], pixel_mm: float, kernel: Kernel) -> Array:
    """Filter that gives white noise the ramp-times-kernel spectrum of filtered back-projection.

    Args:
        shape: Rows and columns of a slice.
        pixel_mm: Pixel spacing.
        kernel: Reconstruction kernel.

    Returns:
        Gain for `scipy.fft.rfft2` of a slice; filtered noise keeps its variance.
    """
    rows, columns = shape
    fy, fx = fft.fftfreq(rows, pixel_mm)[:, None], fft.rfftfreq(columns, pixel_mm)[None]
    relative = np.hypot(fy, fx) / kernel.noise_peak_per_mm
    gain = np.sqrt(relative) * np.exp(-0.25 * relative**2) + 0.05
    twice = np.full(gain.shape[1], 2.0)
    twice[0] = 1.0
    if columns % 2 == 0:
        twice[-1] = 1.0
    power = (gain**2 * twice).sum() / (rows * columns)
    result: Array = (gain / np.sqrt(power)).astype(np.float32)
    return result


def correlated_noise(rng: np.random.Generator, shape: tuple[int, ...], gain: Array) -> Array:
    """One slice of noise of unit variance; see `noise_gain`."""
    white = rng.standard_normal(shape, dtype=np.float32)
    noise: Array = fft.irfft2(fft.rfft2(white) * gain, s=shape)
    return noise


def circle_mask(grid: ImageGrid) -> NDArray[np.bool_]:
    """True outside the circle inscribed in a slice, shape `(rows, columns)`."""
    y = (np.arange(grid.size[1]) - (grid.size[1] - 1) / 2) / (grid.size[1] / 2)
    x = (np.arange(grid.size[0]) - (grid.size[0] - 1) / 2) / (grid.size[0] / 2)
    result: NDArray[np.bool_] = x[None] ** 2 + y[:, None] ** 2 > 1
    return result


def _axis_positions(grid: ImageGrid, axis: int) -> NDArray[np.float64]:
    index = np.arange(grid.size[axis], dtype=np.float64)
    result: NDArray[np.float64] = grid.origin[axis] + grid.spacing[axis] * index
    return result


def _gauss(d: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    norm = 1.0 / (sigma * math.sqrt(2 * math.pi))
    result: NDArray[np.float64] = np.exp(d * d * (-0.5 / sigma**2)) * norm
    return result


def _blur_weights(
    wanted: NDArray[np.float64], given: NDArray[np.float64], sigma: float, kernel: Kernel
) -> sparse.csr_array:
    """Matrix that blurs and interpolates samples on one axis, rows sum to one."""
    d = wanted[:, None] - given[None]
    weights = (1 + kernel.overshoot) * _gauss(d, sigma) - kernel.overshoot * _gauss(d, 2 * sigma)
    return _sparse(weights / weights.sum(axis=1, keepdims=True))


def _sparse(weights: NDArray[np.float64]) -> sparse.csr_array:
    """The weights that matter; products with it need no threads and few operations."""
    return sparse.csr_array(np.where(np.abs(weights) > 1e-5, weights, 0).astype(np.float32))
