"""Blank margins of images, where there is nothing to compare."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from registration.geometry import ImageGrid


def has_blank_margin(array: NDArray[np.generic]) -> bool:
    """Whether a plane at one of the faces is blank: `content_box` would leave it out.

    Args:
        array: Intensities, any shape.
    """
    blank = _blank_value(array)
    faces = (array.take(end, axis) for axis in range(array.ndim) for end in (0, -1))
    return any(bool((face == blank).all()) for face in faces)


def content_box(array: NDArray[np.generic]) -> tuple[slice, ...]:
    """The part of an image that is left without its blank margins.

    Margins are whole planes at the faces of one value: that of most corners. Programs add them
    when they resample onto a larger grid. An image of one value is left as it is.

    Args:
        array: Intensities, any shape.

    Returns:
        Indices along every axis.
    """
    shown = array != _blank_value(array)
    axes = range(array.ndim)
    filled = [
        np.flatnonzero(shown.any(axis=tuple(other for other in axes if other != axis)))
        for axis in axes
    ]
    if not all(len(planes) for planes in filled):
        return tuple(slice(0, n) for n in array.shape)
    return tuple(slice(int(planes[0]), int(planes[-1]) + 1) for planes in filled)


def _blank_value(array: NDArray[np.generic]) -> np.generic:
    """The value of most corners."""
    corners = array[np.ix_(*([0, n - 1] for n in array.shape))]
    values, counts = np.unique(corners, return_counts=True)
    return values[counts.argmax()]


def content_masks(
    fixed: sitk.Image, moving: sitk.Image, grid: ImageGrid, transform: sitk.Transform | None
) -> dict[str, NDArray[np.float32]]:
    """Where both images show something: not in their blank margins, nor beyond the moving one.

    Args:
        fixed: Scalar image.
        moving: Scalar image.
        grid: Where to sample, in the space of the fixed image.
        transform: Pull-back from points of the grid to points of the moving image.

    Returns:
        `fixed_mask` and `moving_mask` as `ControlPointRefiner.refine` and `spline_steps` take
        them, 0 to 1, shape `(1, *grid.shape, 1)`.
    """
    masks = {}
    for name, image, way in (("fixed", fixed, sitk.Transform()), ("moving", moving, transform)):
        array = np.zeros(image.GetSize()[::-1], np.float32)
        array[content_box(sitk.GetArrayViewFromImage(image))] = 1.0
        mask = ImageGrid.from_image(image).to_image(array)
        reached = sitk.Resample(mask, grid.empty_image(), way or sitk.Transform(), sitk.sitkLinear)
        masks[f"{name}_mask"] = sitk.GetArrayFromImage(reached)[None, ..., None]
    return masks
