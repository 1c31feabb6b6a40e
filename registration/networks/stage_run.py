"""How a stage is run on a pair: in several looks, and with steps on the pair itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from keras import ops

from registration.affine_steps import affine_steps
from registration.warping import warp


@dataclass(frozen=True, slots=True)
class StageRun:
    """How a stage is run, which its weights do not depend on.

    Args:
        passes: How often it looks at the pair.
        limit: Share of the control point spacing that later passes stay within; `None` for none.
            An affine stage has none.
        steps: Gauss-Newton steps of an affine stage on the pair, after its passes; see
            `affine_steps`.
        step_shrink: Voxels that are averaged to one along every axis for them.
    """

    passes: int = 1
    limit: float | None = None
    steps: int = 0
    step_shrink: int = 1

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise ValueError(f"passes must be 1 or more. Received: {self.passes}")
        if self.steps < 0:
            raise ValueError(f"steps must not be negative. Received: {self.steps}")
        if self.step_shrink < 1:
            raise ValueError(f"step_shrink must be 1 or more. Received: {self.step_shrink}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a configuration."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StageRun:
        """Inverse of `to_dict`."""
        return cls(**values)


def run_network(network: Any, fixed: Any, moving: Any, run: StageRun) -> dict[str, Any]:
    """Output of a stage that is run as it is told.

    Every pass sees the moving image as the passes before have warped it. Its control points are
    added to theirs, so that one lattice of control points stands for all; its affine matrix is
    multiplied with theirs. A network
    that has learnt to register pairs also registers what little it has left over, and gets nearer
    that way: it is trained on one pass, and needs no weights for more.

    Where the images show nothing to go by, as beyond a small organ, displacements can pile up and
    fold. Under a limit the passes after the first move no control point out of that range, nor
    further out where the first one has left it already. Where whole organs move far it is
    in the way.

    Args:
        network: Stage from `[fixed, moving]` to a dictionary; for more than one pass of
            `displacement_field`, voxels, and either the `control_points` of which its layer
            `transformer` makes it, or the `matrix` of which its layer `affine_field` does.
        fixed: Shape `(batch, *shape, 1)`.
        moving: Same shape.
        run: How often, how far, and with how many steps.

    Returns:
        Dictionary as the network gives it.

    Source:
        Own; cascades of networks with weights of their own are those of Zhao et al., ICCV 2019
        (arXiv:1907.12353).
    """
    output = dict(network([fixed, moving]))
    for _ in range(run.passes - 1):
        left = network([fixed, warp(moving, output["displacement_field"])])
        if "matrix" in output:
            output["matrix"] = ops.matmul(output["matrix"], left["matrix"])
            field = network.get_layer("affine_field")(output["matrix"], fixed)
        else:
            transformer = network.get_layer("transformer")
            output["control_points"] = _added(
                output["control_points"], left["control_points"], transformer.spacing, run.limit
            )
            field = transformer(output["control_points"], fixed)
        output["displacement_field"] = field
    if run.steps > 0:
        layer = network.get_layer("affine_field")
        output["matrix"] = affine_steps(
            fixed,
            moving,
            output["matrix"],
            spacing=layer.spacing,
            steps=run.steps,
            shrink=run.step_shrink,
        )
        output["displacement_field"] = layer(output["matrix"], fixed)
    return output


def _added(before: Any, update: Any, spacing: Any, limit: float | None) -> Any:
    """Control points of a further pass on top of those before it, as far as the limit allows."""
    points = before + update
    if limit is None:
        return points
    bound = limit * ops.convert_to_tensor(spacing, dtype="float32")
    points = ops.maximum(points, ops.minimum(before, -bound))
    return ops.minimum(points, ops.maximum(before, bound))
