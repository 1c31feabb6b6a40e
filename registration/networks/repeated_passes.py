"""A stage that looks at a pair again at what its first look left over."""

from __future__ import annotations

from typing import Any

from registration.warping import warp


def register_in_passes(network: Any, fixed: Any, moving: Any, passes: int) -> dict[str, Any]:
    """Output of a stage that runs several times.

    Every pass sees the moving image as the passes before have warped it, and its control points
    and displacements are added to theirs, so that one lattice of control points stands for all. A
    network that has learnt to register pairs also registers what little it has left over, and
    gets nearer that way: it is trained on one pass, and needs no weights for more.

    Args:
        network: Stage from `[fixed, moving]` to a dictionary; for more than one pass of
            `control_points` and `displacement_field`, voxels, the latter linear in the former.
        fixed: Shape `(batch, *shape, 1)`.
        moving: Same shape.
        passes: How often it runs.

    Returns:
        Dictionary as the network gives it.

    Source:
        Own; cascades of networks with weights of their own are those of Zhao et al., ICCV 2019
        (arXiv:1907.12353).
    """
    output = network([fixed, moving])
    for _ in range(passes - 1):
        more = network([fixed, warp(moving, output["displacement_field"])])
        output = {name: value + more[name] for name, value in output.items()}
    return dict(output)
