"""Masks of both images of a pair: where there is one, there must be the other."""

from __future__ import annotations

from typing import Any

Masks = tuple[Any, Any] | None
"""Weights of the voxels of the fixed and of the moving image, 0 to 1, of the images' shapes."""


def mask_pair(fixed_mask: Any, moving_mask: Any) -> Masks:
    """Both masks, or none.

    Raises:
        ValueError: If only one mask is given.
    """
    if (fixed_mask is None) != (moving_mask is None):
        raise ValueError("give both masks or none. Received: one of them")
    return None if fixed_mask is None else (fixed_mask, moving_mask)
