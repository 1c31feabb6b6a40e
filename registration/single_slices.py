"""Volumes of one slice as pictures of two axes, which is what 2-D networks and transforms take."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from registration.geometry import ImageGrid

AXIAL_ATOL = 1e-3
"""Largest deviation of the slice normal from the third axis of the body at which a slice counts
as axial (own): its picture then keeps the x and y of its points."""


def is_single_slice(image: sitk.Image) -> bool:
    """Whether an image has three axes, but a single slice along the third."""
    return image.GetDimension() == 3 and image.GetSize()[2] == 1


def as_picture(image: sitk.Image) -> sitk.Image:
    """The picture of a volume of one slice; every other image as it is.

    The picture of an axial slice has the x and y of LPS, mm. Points of a slice in another plane
    have no two such coordinates: those of its picture are lengths along its rows and columns, so
    that pictures of one plane lie on each other as their slices do.

    Args:
        image: Scalar image of two or three axes.

    Returns:
        Image of two axes with the same voxels and spacing.

    Example:
        >>> image = sitk.Image([4, 3, 1], sitk.sitkUInt8)
        >>> image.SetOrigin((1.0, 2.0, 7.0))
        >>> as_picture(image).GetOrigin()
        (1.0, 2.0)
    """
    if not is_single_slice(image):
        return image
    grid = ImageGrid.from_image(image)
    axes = grid.direction_matrix
    picture = sitk.GetImageFromArray(sitk.GetArrayFromImage(image)[0])
    picture.SetSpacing(grid.spacing[:2])
    if np.abs(np.abs(axes[:, 2]) - (0.0, 0.0, 1.0)).max() <= AXIAL_ATOL:
        left, _, right = np.linalg.svd(axes[:2, :2])  # free of what tips it out of the plane
        picture.SetDirection((left @ right).ravel().tolist())
        picture.SetOrigin(grid.origin[:2])
    else:
        picture.SetOrigin((np.array(grid.origin) @ axes[:, :2]).tolist())
    return picture


def as_single_slice(picture: sitk.Image, grid: ImageGrid) -> sitk.Image:
    """A picture back in the place of the slice that it was made of.

    Args:
        picture: Image of two axes.
        grid: Grid of the volume of one slice, of as many rows and columns.

    Raises:
        ValueError: If the grid is of another shape.
    """
    return grid.to_image(sitk.GetArrayFromImage(picture)[None])
