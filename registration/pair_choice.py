"""Choice between two states of a batch of pairs, for loops within a graph."""

from __future__ import annotations

from typing import Any

from keras import ops


def chosen_per_pair(is_new: Any, new: Any, old: Any) -> Any:
    """The new value of every pair that it is better for; of the old one's shape.

    What a graph knows of the sizes of a tensor must be the same after every step of a loop.

    Args:
        is_new: Booleans, shape `(batch,)`.
        new: Shape `(batch, ...)`.
        old: Same shape.
    """
    choice = ops.reshape(is_new, (-1, *(1,) * (len(new.shape) - 1)))
    return ops.reshape(ops.where(choice, new, old), ops.shape(old))
