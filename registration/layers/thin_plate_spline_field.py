"""The thin plate spline transformer, the alternative to B-splines of the DIRNet paper."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from registration.layers.geometric_layer import GeometricLayer
from registration.warping import voxel_indices


@keras.saving.register_keras_serializable(package="registration")
class ThinPlateSplineField(GeometricLayer):
    """Displacement field of least bending that passes through the control points.

    Unlike a B-spline it interpolates the control points and has global support: the field
    is one matrix product with a `(voxels, control points)` matrix, which is made once per
    known image size, and at every call in a graph that serves images of every size. That suits
    2-D; in 3-D the matrix soon exceeds memory.

    Args:
        spacing: Control point spacing per array axis, voxels; the first point lies in the
            middle of the first `spacing` voxels.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        control_points: Displacements of the control points, voxels; at least two per axis.
        fixed: Image whose spatial shape the field takes.

    Input shape:
        `(batch, *lattice, d)` and `(batch, *shape, channels)`.

    Output shape:
        `(batch, *shape, d)`, voxels.

    Raises:
        ValueError: On a call with fewer than two control points along an axis, which leave
            open how the field goes on.

    Source:
        Bookstein, IEEE Trans Pattern Anal Mach Intell 1989;11(6):567-585.
    """

    def __init__(self, spacing: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spacing = tuple(float(s) for s in spacing)

    def call(self, control_points: Any, fixed: Any) -> Any:
        shape, lattice = ops.shape(fixed)[1:-1], ops.shape(control_points)[1:-1]
        d = control_points.shape[-1]
        if all(isinstance(n, int) for n in (*shape, *lattice)):
            _check_lattice(lattice)
            matrix = ops.convert_to_tensor(thin_plate_matrix(shape, lattice, self.spacing))
            flat = ops.reshape(control_points, (-1, int(np.prod(lattice)), d))
            field = ops.einsum("nk,bkd->bnd", matrix, flat)
        else:
            field = self._of_any_size(control_points, shape, lattice)
        return ops.reshape(field, (-1, *shape, d))

    def _of_any_size(self, control_points: Any, shape: Any, lattice: Any) -> Any:
        """Field `(batch, voxels, d)` of sizes that only the run tells, in double precision.

        Only TensorFlow has graphs of that kind: coefficients are solved for in the graph.
        """
        d = control_points.shape[-1]
        spacing = np.array(self.spacing)
        voxels = ops.reshape(ops.cast(voxel_indices(shape), "float64"), (-1, d))
        knots = ops.reshape(ops.cast(voxel_indices(lattice), "float64"), (-1, d))
        knots = knots * spacing + (spacing - 1.0) / 2.0
        values = ops.cast(ops.reshape(control_points, (-1, ops.shape(knots)[0], d)), "float64")
        polynomial = ops.concatenate([ops.ones_like(knots[:, :1]), knots], axis=1)
        corner = ops.zeros((d + 1, d + 1), dtype="float64")
        system = ops.concatenate(
            [
                ops.concatenate([_kernel_of_tensors(knots, knots), polynomial], axis=1),
                ops.concatenate([ops.transpose(polynomial), corner], axis=1),
            ],
            axis=0,
        )
        inverse = ops.inv(system)[:, : ops.shape(knots)[0]]
        coefficients = ops.einsum("mk,bkd->bmd", inverse, values)
        basis = ops.concatenate(
            [_kernel_of_tensors(voxels, knots), ops.ones_like(voxels[:, :1]), voxels], axis=1
        )
        return ops.cast(ops.einsum("nm,bmd->bnd", basis, coefficients), "float32")

    def compute_output_shape(self, control_points_shape: Any, fixed_shape: Any) -> Any:
        return (*fixed_shape[:-1], control_points_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "spacing": self.spacing}


@lru_cache(maxsize=4)
def thin_plate_matrix(
    shape: tuple[int, ...], lattice: tuple[int, ...], spacing: tuple[float, ...]
) -> NDArray[np.float32]:
    """Matrix from the values at control points to the values at all voxels.

    Args:
        shape: Image shape, array order.
        lattice: Number of control points per axis.
        spacing: Control point spacing per axis, voxels.

    Returns:
        Shape `(prod(shape), prod(lattice))`; rows sum to one, and values that are linear
        in position are reproduced exactly.
    """
    voxels = _points([np.arange(n, dtype=float) for n in shape])
    knots = _points([(s - 1) / 2 + s * np.arange(k) for k, s in zip(lattice, spacing, strict=True)])
    n_knots, dimension = knots.shape
    polynomial = np.hstack([np.ones((n_knots, 1)), knots])
    system = np.zeros((n_knots + dimension + 1,) * 2)
    system[:n_knots, :n_knots] = _kernel(knots, knots)
    system[:n_knots, n_knots:] = polynomial
    system[n_knots:, :n_knots] = polynomial.T
    basis = np.hstack([_kernel(voxels, knots), np.ones((len(voxels), 1)), voxels])
    values_at_knots = np.vstack([np.eye(n_knots), np.zeros((dimension + 1, n_knots))])
    return (basis @ np.linalg.solve(system, values_at_knots)).astype(np.float32)


def _check_lattice(lattice: Sequence[int]) -> None:
    if min(lattice) < 2:
        raise ValueError(
            "a thin plate spline needs two control points along every axis. "
            f"Received: {tuple(lattice)}"
        )


def _points(axes: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def _kernel(points: NDArray[np.float64], knots: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fundamental solution of the biharmonic equation: r² log r in 2-D, r in 3-D."""
    squared = (points**2).sum(1)[:, None] + (knots**2).sum(1)[None] - 2 * points @ knots.T
    squared = np.maximum(squared, 0.0)
    if points.shape[1] == 3:
        return np.asarray(np.sqrt(squared))
    return 0.5 * squared * np.log(np.where(squared > 0.0, squared, 1.0))


def _kernel_of_tensors(points: Any, knots: Any) -> Any:
    """As `_kernel`, of tensors."""
    squared = ops.sum(points**2, axis=1)[:, None] + ops.sum(knots**2, axis=1)[None]
    squared = ops.maximum(squared - 2.0 * ops.matmul(points, ops.transpose(knots)), 0.0)
    if points.shape[1] == 3:
        return ops.sqrt(squared)
    return 0.5 * squared * ops.log(ops.where(squared > 0.0, squared, 1.0))
