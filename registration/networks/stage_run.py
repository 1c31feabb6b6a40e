"""How a stage is run on a pair: in several looks, and with steps on the pair itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from keras import ops

from registration.affine_steps import affine_steps
from registration.pair_masks import Masks
from registration.spline_steps import spline_steps
from registration.unfolding import unfolded
from registration.warping import warp


@dataclass(frozen=True, slots=True)
class StageRun:
    """How a stage is run, which its weights do not depend on.

    Args:
        passes: How often it looks at the pair.
        limit: Share of the control point spacing that later passes stay within; `None` for none.
            An affine stage has none.
        steps: Gauss-Newton steps on the pair after the passes; see `affine_steps` and
            `spline_steps`.
        step_shrink: Voxels that are averaged to one along every axis for them.
        step_bending: Weight of the bending energy in those of a deformable stage, mm².
        spacing_mm: Voxel spacing per array axis, mm, in which that is measured; 1 by default.
        unfold: Smooth the control points of a deformable stage in the end where its spline folds;
            see `unfolded`.
    """

    passes: int = 1
    limit: float | None = None
    steps: int = 0
    step_shrink: int = 1
    step_bending: float = 0.0
    spacing_mm: tuple[float, ...] | None = None
    unfold: bool = False

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
        spacing_mm = values.get("spacing_mm")
        return cls(**{**values, "spacing_mm": spacing_mm and tuple(spacing_mm)})


def run_network(
    network: Any, fixed: Any, moving: Any, run: StageRun, masks: Masks = None
) -> dict[str, Any]:
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
        masks: What steps may compare; everything by default. Networks see the whole images.

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
        take = _affine_steps if "matrix" in output else _spline_steps
        shown = {} if masks is None else {"fixed_mask": masks[0], "moving_mask": masks[1]}
        output.update(take(network, (fixed, moving), output, run, **shown))
    if run.unfold:
        output.update(_unfolded(network, fixed, output))
    return output


def _affine_steps(
    network: Any, pair: tuple[Any, Any], output: dict[str, Any], run: StageRun, **masks: Any
) -> dict[str, Any]:
    layer = network.get_layer("affine_field")
    matrix = affine_steps(
        *pair,
        output["matrix"],
        spacing=layer.spacing,
        steps=run.steps,
        shrink=run.step_shrink,
        **masks,
    )
    return {"matrix": matrix, "displacement_field": layer(matrix, pair[0])}


def _spline_steps(
    network: Any, pair: tuple[Any, Any], output: dict[str, Any], run: StageRun, **masks: Any
) -> dict[str, Any]:
    layer = network.get_layer("transformer")
    points = spline_steps(
        *pair,
        output["control_points"],
        spacing=layer.spacing,
        spacing_mm=run.spacing_mm or (1.0,) * len(layer.spacing),
        steps=run.steps,
        bending_weight=run.step_bending,
        border=layer.border,
        order=layer.order,
        limit=run.limit,
        shrink=run.step_shrink,
        **masks,
    )
    return {"control_points": points, "displacement_field": layer(points, pair[0])}


def _unfolded(network: Any, fixed: Any, output: dict[str, Any]) -> dict[str, Any]:
    layer = network.get_layer("transformer")
    points = unfolded(
        output["control_points"],
        ops.shape(fixed)[1:-1],
        spacing=layer.spacing,
        border=layer.border,
        order=layer.order,
    )
    return {"control_points": points, "displacement_field": layer(points, fixed)}


def _added(before: Any, update: Any, spacing: Any, limit: float | None) -> Any:
    """Control points of a further pass on top of those before it, as far as the limit allows."""
    points = before + update
    if limit is None:
        return points
    bound = limit * ops.convert_to_tensor(spacing, dtype="float32")
    points = ops.maximum(points, ops.minimum(before, -bound))
    return ops.minimum(points, ops.maximum(before, bound))
