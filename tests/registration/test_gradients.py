"""Gradients of layers and losses are those of finite differences, on any backend that has one."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops
from scipy.ndimage import gaussian_filter

from registration.bending import bending_energy, control_point_bending_energy
from registration.bspline_jacobian import bspline_jacobian_determinant
from registration.layers.affine_from_parameters import AffineFromParameters
from registration.layers.affine_from_votes import AffineFromVotes
from registration.layers.affine_resampler import AffineResampler
from registration.layers.bspline_field import BSplineField
from registration.layers.displacement_composition import DisplacementComposition
from registration.layers.displacement_warp import DisplacementWarp
from registration.layers.jacobian_determinant import JacobianDeterminant
from registration.layers.pair_normalization import PairNormalization
from registration.layers.spatial_moments import SpatialMoments
from registration.layers.thin_plate_spline_field import ThinPlateSplineField
from registration.layers.velocity_integration import VelocityIntegration
from registration.losses.masked_ncc import MaskedNCC
from registration.similarity import (
    folding_penalty,
    local_normalized_cross_correlation,
    normalized_cross_correlation,
    normalized_mutual_information,
)
from registration.warping import jacobian_determinant
from tests.registration.gradients import gradient

TOLERANCE = 0.02
"""Of the gradient's length: what float32 and the curvature leave of a difference over a step."""

STEP = 1e-3
"""Far below the spread of the images in any window, whose correlation is not linear."""

SHAPES = {2: (12, 17), 3: (8, 12, 9)}
SPACING = {2: (4, 4), 3: (4, 4, 3)}
LATTICE = {2: (3, 5), 3: (2, 3, 3)}
SPACING_MM = {2: (2.0, 0.5), 3: (5.0, 2.0, 0.5)}


def smooth(shape, channels=1, low=0.2, high=0.8, seed=0):
    """Smooth values between two bounds, shape `(2, *shape, channels)`."""
    rng = np.random.default_rng(seed)
    sigma = (0, *(1.5,) * len(shape), 0)
    values = gaussian_filter(rng.normal(size=(2, *shape, channels)), sigma)
    values = (values - values.min()) / np.ptp(values)
    return (low + (high - low) * values).astype(np.float32)


def inside_cells(d, seed=0):
    """A field that brings no voxel near another one, where linear interpolation has its kinks."""
    return smooth(SHAPES[d], d, seed=seed)


def mirrored(d):
    """A field that is turned inside out along the first axis, so that all of it is folded."""
    field = 0.1 * smooth(SHAPES[d], d)
    field[..., 0] -= 2.0 * np.arange(SHAPES[d][0]).reshape(-1, *(1,) * (d - 1))
    return field


def points(d):
    return np.random.default_rng(1).normal(0.0, 1.0, (2, *LATTICE[d], d)).astype(np.float32)


def folded_points(d):
    """Control points of the mirrored field, but for the ends, which are repeated."""
    field = 0.1 * points(d)
    field[..., 0] -= 2.0 * SPACING[d][0] * np.arange(LATTICE[d][0]).reshape(-1, *(1,) * (d - 1))
    return field


def edge(d):
    return ops.convert_to_tensor(smooth(SHAPES[d], seed=7) > 0.4, "float32")


def matrices(d):
    return np.tile(np.eye(d + 1, dtype=np.float32), (2, 1, 1))


def shifted(change, d):
    """Homogeneous matrices of half a voxel of shift, changed by little: voxels stay in their cells.

    Args:
        change: What is added to their rows but the last, shape `(2, d, d + 1)`.
    """
    half = np.pad(np.full((d, 1), 0.5, np.float32), [(0, 1), (d, 0)])
    return matrices(d) + half + ops.pad(change, [(0, 0), (0, 1), (0, 0)])


def lattice(d):
    return {"shape": SHAPES[d], "spacing": SPACING[d]}


CASES = {
    "warp, by field": lambda d: (
        lambda x: DisplacementWarp()(smooth(SHAPES[d], 2, seed=3), x),
        inside_cells(d),
    ),
    "warp, by image": lambda d: (
        lambda x: DisplacementWarp(padding=0.3)(x, 3.0 * inside_cells(d)),
        smooth(SHAPES[d]),
    ),
    "warp, beyond the image": lambda d: (
        lambda x: DisplacementWarp(padding=-1.0)(smooth(SHAPES[d], seed=3), x),
        4.0 + inside_cells(d),
    ),
    "quadratic B-spline": lambda d: (
        lambda x: BSplineField(SPACING[d], order=2)(x, smooth(SHAPES[d])),
        points(d),
    ),
    "cubic B-spline": lambda d: (
        lambda x: BSplineField(SPACING[d], order=3)(x, smooth(SHAPES[d])),
        points(d),
    ),
    "thin plate spline": lambda d: (
        lambda x: ThinPlateSplineField(SPACING[d])(x, smooth(SHAPES[d])),
        points(d),
    ),
    "integration": lambda d: (VelocityIntegration(4), inside_cells(d)),
    "composition, by first": lambda d: (
        lambda x: DisplacementComposition()(x, inside_cells(d, seed=3)),
        inside_cells(d),
    ),
    "composition, by second": lambda d: (
        lambda x: DisplacementComposition()(inside_cells(d, seed=3), x),
        inside_cells(d),
    ),
    "Jacobian": lambda d: (JacobianDeterminant(), 2.0 * inside_cells(d)),
    "affine parameters": lambda d: (
        AffineFromParameters((3.0, -4.0, 5.0)[:d], translation_mm=2.0),
        np.random.default_rng(0).normal(0.0, 0.5, (2, {2: 6, 3: 12}[d])).astype(np.float32),
    ),
    "affine votes": lambda d: (
        lambda x: AffineFromVotes(
            (3.0, -4.0, 5.0)[:d], spacing=SPACING_MM[d][::-1], cell_vox=4, translation_mm=2.0
        )(x, smooth(SHAPES[d])),
        smooth(LATTICE[d], d + 1, -1.0, 1.0),
    ),
    "affine resampling": lambda d: (
        lambda x: AffineResampler(padding="border")(
            smooth(SHAPES[d]), shifted(x, d), matrices(d), matrices(d)
        ),
        np.random.default_rng(2).uniform(-0.004, 0.004, (2, d, d + 1)).astype(np.float32),
    ),
    "spatial moments": lambda d: (SpatialMoments(), smooth(SHAPES[d], 3)),
    "pair with forces": lambda d: (
        lambda x: PairNormalization(forces=True)(smooth(SHAPES[d], seed=3), x),
        smooth(SHAPES[d]),
    ),
    "NCC": lambda d: (
        lambda x: normalized_cross_correlation(smooth(SHAPES[d], seed=3), x),
        smooth(SHAPES[d]),
    ),
    "NCC of the batch, masked": lambda d: (
        lambda x: normalized_cross_correlation(
            smooth(SHAPES[d], seed=3), x, edge(d), per_batch=True
        ),
        smooth(SHAPES[d]),
    ),
    "NCC of two masks": lambda d: (
        lambda x: MaskedNCC(reduction=None)(smooth(SHAPES[d], 2, seed=3), x),
        smooth(SHAPES[d], 2),
    ),
    "local NCC": lambda d: (
        lambda x: local_normalized_cross_correlation(smooth(SHAPES[d], seed=3), x, window=5),
        smooth(SHAPES[d]),
    ),
    "local NCC, masked": lambda d: (
        lambda x: local_normalized_cross_correlation(
            smooth(SHAPES[d], seed=3), x, edge(d), window=5
        ),
        smooth(SHAPES[d]),
    ),
    "NMI": lambda d: (
        lambda x: normalized_mutual_information(smooth(SHAPES[d], seed=3), x, bins=8),
        smooth(SHAPES[d]),
        0.01,  # a twelfth of a bin; changes over less are next to what float32 leaves out
    ),
    "bending": lambda d: (
        lambda x: bending_energy(x, spacing_mm=SPACING_MM[d]),
        inside_cells(d),
    ),
    "bending of quadratic control points": lambda d: (
        lambda x: control_point_bending_energy(x, spacing_mm=SPACING_MM[d], order=2, **lattice(d)),
        points(d),
    ),
    "bending of cubic control points": lambda d: (
        lambda x: control_point_bending_energy(x, spacing_mm=SPACING_MM[d], **lattice(d)),
        points(d),
    ),
    "folding": lambda d: (lambda x: folding_penalty(jacobian_determinant(x)), mirrored(d)),
    "folding of control points": lambda d: (
        lambda x: folding_penalty(bspline_jacobian_determinant(x, **lattice(d))),
        folded_points(d),
    ),
}


def compiled(function):
    """The function, as one graph on jax, which would compile all of its steps for themselves."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_gradient_is_that_of_finite_differences(case, dimension):
    function, x, *own_step = case(dimension)
    function = compiled(function)
    step = own_step[0] if own_step else STEP
    rng = np.random.default_rng(5)
    values = ops.convert_to_numpy(function(x))
    weights = rng.uniform(0.5, 1.5, values.shape).astype(np.float32)
    found = gradient(lambda tensor: ops.sum(weights * function(tensor)), x)
    assert np.isfinite(found).all()
    length = float(np.linalg.norm(found))
    assert length > 0.0
    for _ in range(3):
        direction = rng.normal(size=x.shape).astype(np.float32)
        after, before = (
            np.sum(weights * ops.convert_to_numpy(function(x + change * direction)), dtype=float)
            for change in (step, -step)
        )
        difference = (after - before) / (2.0 * step)
        assert difference == pytest.approx(float(np.sum(found * direction)), abs=TOLERANCE * length)
