"""A stage that looks at a pair again at what its first look left over."""

from __future__ import annotations

from typing import Any

from keras import ops

from registration.warping import warp

FOLD_FREE_SHARE = 0.4
"""Largest displacement of a control point, as a share of the spacing, at which a cubic
B-spline cannot fold (Choi and Lee 2000 give 0.48 in 2-D and 0.40 in 3-D)."""


def register_in_passes(network: Any, fixed: Any, moving: Any, passes: int) -> dict[str, Any]:
    """Output of a stage that runs several times.

    Every pass sees the moving image as the passes before have warped it, and its control points are
    added to theirs, so that one lattice of control points stands for all. A network
    that has learnt to register pairs also registers what little it has left over, and gets nearer
    that way: it is trained on one pass, and needs no weights for more.

    Where the images show nothing to go by, displacements would pile up. So the passes after the
    first move no control point out of the range in which a B-spline cannot fold, nor
    further out where the first one has left it already.

    Args:
        network: Stage from `[fixed, moving]` to a dictionary; for more than one pass of
            `control_points` and `displacement_field`, voxels, made of each other by its layer
            `transformer`.
        fixed: Shape `(batch, *shape, 1)`.
        moving: Same shape.
        passes: How often it runs.

    Returns:
        Dictionary as the network gives it.

    Source:
        Own; cascades of networks with weights of their own are those of Zhao et al., ICCV 2019
        (arXiv:1907.12353).
    """
    output = dict(network([fixed, moving]))
    if passes == 1:
        return output
    transformer = network.get_layer("transformer")
    bound = FOLD_FREE_SHARE * ops.convert_to_tensor(transformer.spacing, dtype="float32")
    for _ in range(passes - 1):
        before = output["control_points"]
        left = network([fixed, warp(moving, output["displacement_field"])])
        after = ops.maximum(before + left["control_points"], ops.minimum(before, -bound))
        output["control_points"] = ops.minimum(after, ops.maximum(before, bound))
        output["displacement_field"] = transformer(output["control_points"], fixed)
    return output
