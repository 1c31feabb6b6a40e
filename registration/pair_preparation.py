"""From two images of any grid and scale to the pair of arrays that a network sees.

Training and registration share this, so that a network meets in use what it was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from registration.geometry import ImageGrid

Initialization = Literal["identity", "centers"]

PERCENTILE_VOXELS = 2**14
"""Voxels from which percentiles are taken at most; regularly spaced ones of larger images."""

ANTI_ALIASING = 0.4
"""Standard deviation of the Gaussian before an image is reduced, in voxels of the result."""


class NoOverlapError(RuntimeError):
    """A pair that cannot be registered as it lies; the message says where each image is."""


@dataclass(frozen=True, slots=True)
class IntensityScaling:
    """How intensities become numbers from 0 to 1; values beyond are clipped.

    Args:
        percentiles: Lower and upper percentile of the image, which become 0 and 1.
        window: Fixed intensities in their place, say HU; `None` for percentiles.
    """

    percentiles: tuple[float, float] = (0.5, 99.5)
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        low, high = self.percentiles
        if not 0.0 <= low < high <= 100.0:
            raise ValueError(f"percentiles must rise within 0 to 100. Received: {(low, high)}")
        object.__setattr__(self, "percentiles", (float(low), float(high)))
        if self.window is not None:
            if not self.window[0] < self.window[1]:
                raise ValueError(f"window must rise. Received: {self.window}")
            object.__setattr__(self, "window", (float(self.window[0]), float(self.window[1])))

    def limits(self, array: NDArray[np.generic]) -> tuple[float, float]:
        """Intensities that become 0 and 1; of a large image from regularly spaced voxels."""
        if self.window is not None:
            return self.window
        # odd, so that in images of even width every column is met
        step = max(1, array.size // PERCENTILE_VOXELS) | 1
        values = array.ravel()[::step].astype(np.float32)
        ranks = np.array(self.percentiles) / 100.0 * (len(values) - 1)
        lower = np.floor(ranks).astype(int)
        upper = np.minimum(lower + 1, len(values) - 1)
        # np.percentile of a few thousand values takes longer than all this
        ordered = np.partition(values, np.concatenate([lower, upper]))
        low, high = ordered[lower] + (ranks - lower) * (ordered[upper] - ordered[lower])
        return float(low), float(high)

    def apply(
        self, array: NDArray[np.generic], limits: tuple[float, float] | None = None
    ) -> NDArray[np.float32]:
        """Scaled intensities; 0 everywhere if the image is constant.

        Args:
            array: Intensities, any shape.
            limits: What becomes 0 and 1; by default what `limits` finds in the array.
        """
        low, high = self.limits(array) if limits is None else limits
        if not high > low:
            return np.zeros(array.shape, dtype=np.float32)
        scaled = np.subtract(array, low, dtype=np.float32)
        scaled *= np.float32(1.0 / (high - low))
        return np.clip(scaled, 0.0, 1.0, out=scaled)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PreparedPair:
    """A pair on the working grid.

    Args:
        fixed: Scaled intensities, array order.
        moving: Scaled intensities on the same grid, its outermost voxels continued.
        grid: The working grid, in the space of the fixed image.
        initial: Pull-back from fixed to moving points that was applied to the moving image,
            mm; `None` for the identity.
    """

    fixed: NDArray[np.float32]
    moving: NDArray[np.float32]
    grid: ImageGrid
    initial: sitk.Transform | None


def gray_image(image: sitk.Image) -> sitk.Image:
    """An image of one value per voxel; of colored ones those that are gray all the same.

    Args:
        image: Scalar, or with red, green, blue (and opacity) as programs write gray PNG files.

    Raises:
        ValueError: If the colors differ, or there are vectors of another kind.
    """
    count = image.GetNumberOfComponentsPerPixel()
    if count == 1:
        return image
    array = sitk.GetArrayViewFromImage(image)
    if count not in (3, 4) or (array[..., :1] != array[..., 1:3]).any():
        raise ValueError(f"images must have one value per voxel, or be gray. Received: {count}")
    return sitk.VectorIndexSelectionCast(image, 0)


def check_numbers(image: sitk.Image, name: str) -> None:
    """Refuse an image with a voxel that is not a number: one is enough to make a transform of none.

    Args:
        image: Scalar image.
        name: What the message calls it.

    Raises:
        ValueError: If a value is NaN or infinite.
    """
    array = sitk.GetArrayViewFromImage(image)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(
            f"{name} holds values that are not numbers (NaN or infinite). "
            "Replace them, for example by the background"
        )


def working_grid(grid: ImageGrid, spacing_mm: Sequence[float] | None) -> ImageGrid:
    """Grid over the same field of view with another spacing.

    Args:
        grid: Grid of the image.
        spacing_mm: Wanted spacing in ITK order, mm; `None` keeps the grid.

    Returns:
        Grid of exactly this spacing about the same middle, its extent rounded to whole voxels.

    Raises:
        ValueError: If the number of spacings is not that of the axes.
    """
    if spacing_mm is None:
        return grid
    if len(spacing_mm) != grid.dimension:
        raise ValueError(f"spacing_mm needs {grid.dimension} values. Received: {tuple(spacing_mm)}")
    spacing = np.array(spacing_mm, dtype=float)
    if np.allclose(spacing, grid.spacing, rtol=1e-3):
        return grid
    size = np.maximum(1, np.rint(grid.extent_mm / spacing)).astype(int)
    half = (size - 1) / 2 * spacing
    origin = grid.center - grid.direction_matrix @ half
    return ImageGrid(
        tuple(size.tolist()), tuple(spacing.tolist()), tuple(origin.tolist()), grid.direction
    )


def initial_transform(
    fixed: ImageGrid, moving: ImageGrid, how: Initialization
) -> sitk.Transform | None:
    """Pull-back before any registration: none, or from the middle of one image to the other's.

    Raises:
        ValueError: If `how` is not known, or the images differ in dimension.
    """
    if how not in ("identity", "centers"):
        raise ValueError(f"initialization must be 'identity' or 'centers'. Received: {how!r}")
    if fixed.dimension != moving.dimension:
        raise ValueError(
            "fixed and moving image must have as many axes. "
            f"Received: {fixed.dimension} and {moving.dimension}"
        )
    if how == "identity":
        return None
    shift = moving.center - fixed.center
    if not np.any(np.abs(shift) > 1e-9):
        return None
    return sitk.TranslationTransform(fixed.dimension, shift.tolist())


def check_overlap(fixed: ImageGrid, moving: ImageGrid) -> None:
    """Refuse images whose boxes along L, P and S share nothing: no method could compare them.

    Raises:
        NoOverlapError: If so; the message says where each lies.
    """
    (low, high), (moving_low, moving_high) = (_bounds_mm(grid) for grid in (fixed, moving))
    if np.all(np.minimum(high, moving_high) > np.maximum(low, moving_low)):
        return
    raise NoOverlapError(
        "the images do not overlap in physical space: the fixed one lies from "
        f"{_told(low)} to {_told(high)} mm, the moving one from {_told(moving_low)} to "
        f"{_told(moving_high)} mm (LPS). Correct the origins in their headers, or take networks "
        'whose recipe has "initialization": "centers"'
    )


def _bounds_mm(grid: ImageGrid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least and greatest LPS coordinates of the field of view, whole voxels counted."""
    corners = grid.physical_points(list(product(*((-0.5, n - 0.5) for n in grid.size))))
    return corners.min(axis=0), corners.max(axis=0)


def _told(point: NDArray[np.float64]) -> str:
    return f"({', '.join(f'{value:.4g}' for value in point)})"


def on_grid(
    image: sitk.Image,
    grid: ImageGrid,
    transform: sitk.Transform | None = None,
    *,
    labels: bool = False,
) -> NDArray[np.float32]:
    """An image's values on another grid, linear, smoothed first where it is reduced.

    Args:
        image: Scalar image.
        grid: Where to sample.
        transform: Pull-back from points of the grid to points of the image; `None` for none.
        labels: Take the nearest voxel instead, and 0 outside.

    Returns:
        Array of `grid.shape`; outside the image the outermost voxels are repeated.
    """
    if transform is None and ImageGrid.from_image(image) == grid:
        return np.asarray(sitk.GetArrayFromImage(image), dtype=np.float32)
    filtered = sitk.Cast(image, sitk.sitkFloat32)
    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(grid.empty_image())
    if transform is not None:
        resampler.SetTransform(transform)
    if labels:
        resampler.SetInterpolator(sitk.sitkNearestNeighbor)
    else:
        filtered = _smoothed(filtered, grid)
        resampler.SetInterpolator(sitk.sitkLinear)
        resampler.UseNearestNeighborExtrapolatorOn()
    return np.asarray(sitk.GetArrayFromImage(resampler.Execute(filtered)), dtype=np.float32)


def prepare_pair(
    fixed: sitk.Image,
    moving: sitk.Image,
    *,
    scaling: IntensityScaling,
    spacing_mm: Sequence[float] | None = None,
    initialization: Initialization = "identity",
) -> PreparedPair:
    """Bring a pair to the working grid of the fixed image.

    Args:
        fixed: Scalar image, 2-D or 3-D.
        moving: Scalar image of as many axes.
        scaling: How intensities are scaled; each image by all of its own voxels.
        spacing_mm: Working spacing, ITK order, mm; by default the fixed image's own voxels.
        initialization: Whether the images are taken as they lie or middle on middle.

    Raises:
        ValueError: If the images differ in dimension, hold vectors, or values that are not numbers.
    """
    for name, image in (("fixed", fixed), ("moving", moving)):
        if image.GetNumberOfComponentsPerPixel() != 1:
            raise ValueError(
                "images must have one value per voxel. "
                f"Received: {image.GetNumberOfComponentsPerPixel()}"
            )
        check_numbers(image, f"the {name} image")
    fixed_grid, moving_grid = ImageGrid.from_image(fixed), ImageGrid.from_image(moving)
    initial = initial_transform(fixed_grid, moving_grid, initialization)
    grid = working_grid(fixed_grid, spacing_mm)
    arrays = [
        scaling.apply(
            on_grid(image, grid, transform), scaling.limits(sitk.GetArrayViewFromImage(image))
        )
        for image, transform in ((fixed, None), (moving, initial))
    ]
    return PreparedPair(arrays[0], arrays[1], grid, initial)


def _smoothed(image: sitk.Image, grid: ImageGrid) -> sitk.Image:
    """Gaussian along the axes that are reduced, none along the others."""
    own_grid = ImageGrid.from_image(image)
    # axes may be stored in another order than those of the grid, or point elsewhere: what is wanted
    # along one of the image is the width that the grid's Gaussian has in that direction. Rounded,
    # because parallel axes of two files differ in the last digits
    turn = np.round(grid.direction_matrix.T @ own_grid.direction_matrix, 6)
    wanted_spacing = np.sqrt(np.sum((turn * np.array(grid.spacing)[:, None]) ** 2, axis=0))
    sigmas = [
        ANTI_ALIASING * wanted if wanted > 1.5 * own and n > 3 else 0.0
        for own, wanted, n in zip(own_grid.spacing, wanted_spacing, own_grid.size, strict=True)
    ]
    if not any(sigmas):
        return image
    variances = [sigma**2 for sigma in sigmas]
    return sitk.DiscreteGaussian(image, variances, maximumKernelWidth=64, useImageSpacing=True)
