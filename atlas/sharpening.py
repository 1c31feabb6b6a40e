"""Sharpening of an average, whose edges the spread of the subjects has blurred."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import SimpleITK as sitk

from atlas.atlas_mean import AtlasMean

SIGMA_VOX = 1.0
"""Standard deviation of the Gaussian that is taken away, voxels."""


def sharpened(mean: AtlasMean, amount: float) -> AtlasMean:
    """An unsharp mask: the mean plus a multiple of what a Gaussian takes from it.

    Args:
        mean: The average.
        amount: The multiple; 0 changes nothing.

    Returns:
        The sharpened mean, no value beyond those of its 3 x 3 x 3 neighborhood, so that edges
        get steeper without a rim.
    """
    image = mean.image()
    sigma = SIGMA_VOX * mean.grid.spacing[0]
    blurred = sitk.GetArrayFromImage(
        sitk.DiscreteGaussian(image, [sigma**2] * 3, maximumKernelWidth=9, useImageSpacing=True)
    )
    values = mean.values + np.float32(amount) * (mean.values - blurred)
    low, high = (
        sitk.GetArrayFromImage(extreme(image, [1, 1, 1]))
        for extreme in (sitk.GrayscaleErode, sitk.GrayscaleDilate)
    )
    values = np.where(mean.valid, np.clip(values, low, high), mean.values)
    return replace(mean, values=values.astype(np.float32))
