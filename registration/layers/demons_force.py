"""The force of the demons: which way, and about how far, every voxel ought to move."""

from __future__ import annotations

from typing import Any

from registration.warping import central_difference

STRUCTURELESS = 0.05
"""Added to the squared gradient, in squared standard deviations of the images per voxel²: keeps
the force of noise small where neither image has structure."""


def demons_force(fixed: Any, moving: Any) -> list[Any]:
    """Displacement per axis that would make the images equal, by their values at the voxel alone.

    With the difference `d` of fixed and moving image and the gradient `g` of their mean it is
    `d g / (|g|² + d² + STRUCTURELESS)`: at most half a voxel, and towards where the moving
    image has the fixed one's value. Convolutions and bounded activations make such products of
    images and their gradients only with many kernels; who is shown them has only to smooth them.

    Args:
        fixed: Fixed images with a standard deviation of about one, shape `(batch, *shape)`.
        moving: Moving images, same shape.

    Returns:
        One tensor `(batch, *shape)` per array axis, voxels.

    Source:
        Thirion, Med Image Anal 1998;2:243-260, with the symmetric gradient of
        Vercauteren et al., NeuroImage 2009;45:S61-S72.
    """
    difference = fixed - moving
    mean = 0.5 * (fixed + moving)
    gradient = [central_difference(mean, axis) for axis in range(1, len(mean.shape))]
    squared = difference * difference + STRUCTURELESS
    for component in gradient:
        squared = squared + component * component
    strength = difference / squared
    return [strength * component for component in gradient]
