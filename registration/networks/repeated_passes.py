"""A stage that looks at a pair again at what its first look left over."""

from __future__ import annotations

from typing import Any

from keras import ops

from registration.warping import warp


def register_in_passes(
    network: Any, fixed: Any, moving: Any, passes: int, limit: float | None = None
) -> dict[str, Any]:
    """Output of a stage that runs several times.

    Every pass sees the moving image as the passes before have warped it, and its control points are
    added to theirs, so that one lattice of control points stands for all. A network
    that has learnt to register pairs also registers what little it has left over, and gets nearer
    that way: it is trained on one pass, and needs no weights for more.

    Where the images show nothing to go by, as beyond a small organ, displacements can pile up and
    fold. Under a limit the passes after the first move no control point out of that range, nor
    further out where the first one has left it already. Where whole organs move far it is
    in the way.

    Args:
        network: Stage from `[fixed, moving]` to a dictionary; for more than one pass of
            `control_points` and `displacement_field`, voxels, made of each other by its layer
            `transformer`.
        fixed: Shape `(batch, *shape, 1)`.
        moving: Same shape.
        passes: How often it runs.
        limit: Share of the control point spacing that later passes stay within; `None` for none.

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
    spacing = ops.convert_to_tensor(transformer.spacing, dtype="float32")
    for _ in range(passes - 1):
        before = output["control_points"]
        left = network([fixed, warp(moving, output["displacement_field"])])
        points = before + left["control_points"]
        if limit is not None:
            points = ops.maximum(points, ops.minimum(before, -limit * spacing))
            points = ops.minimum(points, ops.maximum(before, limit * spacing))
        output["control_points"] = points
        output["displacement_field"] = transformer(points, fixed)
    return output
