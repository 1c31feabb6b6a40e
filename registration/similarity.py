"""Image similarity for training and refinement, in `keras.ops`, always float32.

All measures take images of shape `(batch, *shape, channels)` and an optional mask of shape
`(batch, *shape, 1)` (weights from 0 to 1), and return one value per batch item: the higher,
the more alike.
"""

from __future__ import annotations

from typing import Any

from keras import ops

VARIANCE_FLOOR = 1e-5
"""Added to variances of images scaled to about [0, 1], so that a constant one gives 0."""

LEAST_WINDOW_SHARE = 0.125
"""Share of a window that a mask must show for its correlation to count: less than any window has
that is centered in a box, down to the corners of one in 3-D, and more than a voxel all alone."""


def normalized_cross_correlation(
    fixed: Any, moved: Any, mask: Any = None, *, per_batch: bool = False
) -> Any:
    """Normalized cross-correlation over the whole image.

    Args:
        fixed: Shape `(batch, *shape, channels)`.
        moved: Same shape.
        mask: Weight of every voxel, shape `(batch, *shape, 1)`; all voxels by default.
        per_batch: One correlation over all voxels of the batch, as some published code
            has it, in place of one per item.

    Returns:
        Values in [-1, 1], shape `(batch,)`, or `()` with `per_batch`; 0 where an image is
        constant or the mask is empty.
    """
    fixed, moved, weight = _weighted(fixed, moved, mask)
    axes = tuple(range(0 if per_batch else 1, len(fixed.shape)))
    total = ops.maximum(ops.sum(weight, axis=axes, keepdims=True), 1e-6)

    def mean(values: Any) -> Any:
        return ops.sum(weight * values, axis=axes, keepdims=True) / total

    a = fixed - mean(fixed)
    b = moved - mean(moved)
    product = mean(a * b) * ops.rsqrt(
        (mean(a * a) + VARIANCE_FLOOR) * (mean(b * b) + VARIANCE_FLOOR)
    )
    return ops.squeeze(product, axis=axes)


def local_normalized_cross_correlation(
    fixed: Any, moved: Any, mask: Any = None, *, window: int = 9
) -> Any:
    """Squared normalized cross-correlation in a moving window, averaged.

    A mask counts twice: voxels have its weight within every window, so that what it hides
    changes nothing, and windows that of the voxel in their middle.

    Args:
        fixed: Shape `(batch, *shape, channels)`.
        moved: Same shape.
        mask: Weight of every voxel, shape `(batch, *shape, 1)`. Windows of which it shows less
            than `LEAST_WINDOW_SHARE` are left out of the average.
        window: Edge length of the window, voxels; odd.

    Returns:
        Values in [0, 1], shape `(batch,)`; 0 where the mask shows nothing.

    Raises:
        ValueError: If the window is not a positive odd number.

    Source:
        Avants et al., Med Image Anal 2008;12(1):26-41.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window must be a positive odd number. Received: window={window}")
    fixed, moved, weight = _weighted(fixed, moved, mask)
    dimension = len(fixed.shape) - 2

    def pool(values: Any) -> Any:
        return ops.average_pool(values, (window,) * dimension, strides=1, padding="same")

    share = None if mask is None else pool(weight)

    def mean(values: Any) -> Any:
        if share is None:
            return pool(values)
        return pool(weight * values) / ops.maximum(share, LEAST_WINDOW_SHARE)

    mean_a, mean_b = mean(fixed), mean(moved)
    covariance = mean(fixed * moved) - mean_a * mean_b
    variance_a = ops.relu(mean(fixed * fixed) - mean_a * mean_a) + VARIANCE_FLOOR
    variance_b = ops.relu(mean(moved * moved) - mean_b * mean_b) + VARIANCE_FLOOR
    squared = covariance * covariance / (variance_a * variance_b)
    axes = tuple(range(1, len(fixed.shape)))
    if share is not None:
        weight = weight * ops.cast(share >= LEAST_WINDOW_SHARE, "float32")
    total = ops.maximum(ops.sum(weight, axis=axes), 1e-6)
    return ops.sum(weight * squared, axis=axes) / total


def normalized_mutual_information(
    fixed: Any, moved: Any, mask: Any = None, *, bins: int = 32
) -> Any:
    """Normalized mutual information `(H(a) + H(b)) / H(a, b)` with cubic-spline-like bins.

    Intensities are taken to lie in [0, 1] and clipped there; histograms are smoothed by a
    Gaussian of one bin so that gradients flow.

    Args:
        fixed: Shape `(batch, *shape, 1)`.
        moved: Same shape.
        mask: Weight of every voxel, shape `(batch, *shape, 1)`.
        bins: Number of bins per image.

    Returns:
        Values from 1 (independent) towards 2 (one determines the other), shape `(batch,)`.

    Source:
        Studholme et al., Pattern Recognition 1999;32(1):71-86.
    """
    fixed, moved, weight = _weighted(fixed, moved, mask)
    batch = ops.shape(fixed)[0]
    centers = (ops.arange(bins, dtype="float32") + 0.5) / bins

    def soft_bins(values: Any) -> Any:
        flat = ops.clip(ops.reshape(values, (batch, -1, 1)), 0.0, 1.0)
        # the peak is subtracted by softmax, so that no voxel loses its weight
        return ops.softmax(-0.5 * ((flat - centers) * bins) ** 2, axis=-1)

    a = soft_bins(fixed) * ops.reshape(weight, (batch, -1, 1))
    joint = ops.matmul(ops.transpose(a, (0, 2, 1)), soft_bins(moved))
    joint = joint / ops.maximum(ops.sum(joint, axis=(1, 2), keepdims=True), 1e-12)

    def entropy(p: Any) -> Any:
        return -ops.sum(p * ops.log(ops.maximum(p, 1e-12)), axis=-1)

    single = entropy(ops.sum(joint, axis=1)) + entropy(ops.sum(joint, axis=2))
    return single / ops.maximum(entropy(ops.reshape(joint, (batch, -1))), 1e-6)


def folding_penalty(jacobian_determinants: Any) -> Any:
    """Mean of how far Jacobian determinants lie below zero, shape `(batch,)`.

    Args:
        jacobian_determinants: Shape `(batch, *shape)`.
    """
    axes = tuple(range(1, len(jacobian_determinants.shape)))
    return ops.mean(ops.relu(-jacobian_determinants), axis=axes)


def _weighted(fixed: Any, moved: Any, mask: Any) -> tuple[Any, Any, Any]:
    fixed, moved = ops.cast(fixed, "float32"), ops.cast(moved, "float32")
    if mask is None:
        return fixed, moved, ops.ones_like(fixed)
    return fixed, moved, ops.cast(mask, "float32") * ops.ones_like(fixed)
