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


@keras.saving.register_keras_serializable(package="registration")
class ThinPlateSplineField(GeometricLayer):
    """Displacement field of least bending that passes through the control points.

    Unlike a B-spline it interpolates the control points and has global support: the field
    is one matrix product with a `(voxels, control points)` matrix, which is made once per
    image size. That suits 2-D; in 3-D the matrix soon exceeds memory.

    Args:
        spacing: Control point spacing per array axis, voxels; the first point lies in the
            middle of the first `spacing` voxels.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        control_points: Displacements of the control points, voxels.
        fixed: Image whose spatial shape the field takes; its size must be known.

    Input shape:
        `(batch, *lattice, d)` and `(batch, *shape, channels)`, all but the batch known.

    Output shape:
        `(batch, *shape, d)`, voxels.

    Raises:
        ValueError: On a call with an unknown image size.

    Source:
        Bookstein, IEEE Trans Pattern Anal Mach Intell 1989;11(6):567-585.
    """

    def __init__(self, spacing: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spacing = tuple(float(s) for s in spacing)

    def call(self, control_points: Any, fixed: Any) -> Any:
        shape = _known_shape(fixed.shape)
        lattice = _known_shape(control_points.shape)
        matrix = thin_plate_matrix(shape, lattice, self.spacing)
        d = control_points.shape[-1]
        flat = ops.reshape(control_points, (-1, int(np.prod(lattice)), d))
        field = ops.einsum("nk,bkd->bnd", ops.convert_to_tensor(matrix), flat)
        return ops.reshape(field, (-1, *shape, d))

    def compute_output_shape(self, control_points_shape: Any, fixed_shape: Any) -> Any:
        return (fixed_shape[0], *_known_shape(fixed_shape), control_points_shape[-1])

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


def _known_shape(shape: Sequence[int | None]) -> tuple[int, ...]:
    known = tuple(n for n in shape[1:-1] if n is not None)
    if len(known) != len(shape) - 2:
        raise ValueError(
            "A thin plate spline needs a known image size; build the network with one. "
            f"Received: shape {tuple(shape)}"
        )
    return known


def _points(axes: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def _kernel(points: NDArray[np.float64], knots: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fundamental solution of the biharmonic equation: r² log r in 2-D, r in 3-D."""
    squared = (points**2).sum(1)[:, None] + (knots**2).sum(1)[None] - 2 * points @ knots.T
    squared = np.maximum(squared, 0.0)
    if points.shape[1] == 3:
        return np.asarray(np.sqrt(squared))
    return 0.5 * squared * np.log(np.where(squared > 0.0, squared, 1.0))
