from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from keras import ops

from registration.bsplines import SplineLattice, basis_matrix, bspline_basis, bspline_field
from registration.geometry import ImageGrid

OBLIQUE_3D = ImageGrid(
    size=(19, 23, 11),
    spacing=(0.9, 1.3, 3.7),
    origin=(-20.0, 35.0, 110.0),
    direction=(0.0, -1.0, 0.0, 0.8, 0.0, 0.6, -0.6, 0.0, 0.8),
)
OBLIQUE_2D = ImageGrid((31, 18), (0.7, 1.9), (5.0, -9.0), (0.6, -0.8, 0.8, 0.6))


def itk_field(grid, control_points, spacing, order, border=0) -> np.ndarray:
    """Displacement in mm by SimpleITK's BSplineTransform, array order (*shape, d).

    ITK holds `mesh + order` coefficients; its transform domain begins where the spline is
    complete, half the order inside the first coefficient. Coefficients past the lattice
    are repeated by hand.
    """
    pad = 3
    padded = np.pad(control_points, [(pad, pad)] * grid.dimension + [(0, 0)], mode="edge")
    lattice = np.array(padded.shape[:-1])[::-1]
    step = np.array(spacing, dtype=float)[::-1]
    transform = sitk.BSplineTransform(grid.dimension, order)
    first_control_index = (step - 1) / 2 - (pad + border) * step
    domain_index = first_control_index + (order - 1) / 2 * step
    transform.SetTransformDomainMeshSize((lattice - order).tolist())
    transform.SetTransformDomainDirection(grid.direction)
    transform.SetTransformDomainOrigin(grid.physical_points(domain_index[None])[0].tolist())
    dimensions = (lattice - order) * step * np.array(grid.spacing)
    transform.SetTransformDomainPhysicalDimensions(dimensions.tolist())
    transform.SetParameters(np.moveaxis(padded, -1, 0).ravel().astype(float).tolist())
    points = grid.voxel_points().reshape(-1, grid.dimension)
    moved = np.array([transform.TransformPoint(p.tolist()) for p in points])
    return (moved - points).reshape(*grid.shape, grid.dimension)


@pytest.mark.parametrize("border", [0, 1, 2])
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize(
    ("grid", "spacing"), [(OBLIQUE_3D, (4, 8, 6)), (OBLIQUE_2D, (4, 16))], ids=["3d", "2d"]
)
def test_field_is_that_of_itk_on_oblique_grids(grid, spacing, order, border):
    lattice = [-(-n // s) + 2 * border for n, s in zip(grid.shape, spacing, strict=True)]
    rng = np.random.default_rng(0)
    control_points = rng.normal(0.0, 5.0, (*lattice, grid.dimension)).astype(np.float32)
    expected = itk_field(grid, control_points, spacing, order, border)
    field = bspline_field(
        control_points[None], grid.shape, spacing=spacing, border=border, order=order
    )
    # float32 against float64, displacements of some 10 mm
    np.testing.assert_allclose(ops.convert_to_numpy(field)[0], expected, atol=2e-5)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(("n", "k", "spacing"), [(256, 16, 16), (37, 5, 8), (10, 10, 1), (9, 1, 9)])
def test_every_row_sums_to_one_up_to_the_border(n, k, spacing, order):
    matrix = ops.convert_to_numpy(basis_matrix(n, k, spacing=spacing, order=order))
    assert matrix.shape == (n, k)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-6)


def test_cubic_basis_has_its_textbook_values():
    values = ops.convert_to_numpy(bspline_basis(ops.array([0.0, 1.0, 1.5, 2.0]), order=3))
    np.testing.assert_allclose(values, [2 / 3, 1 / 6, 1 / 48, 0.0], atol=1e-7)


def test_quadratic_basis_has_its_textbook_values():
    values = ops.convert_to_numpy(bspline_basis(ops.array([0.0, 0.5, 1.0, 1.5]), order=2))
    np.testing.assert_allclose(values, [3 / 4, 1 / 2, 1 / 8, 0.0], atol=1e-7)


def test_a_border_lets_a_linear_field_go_on_up_to_the_last_voxel():
    k = np.arange(8, dtype=np.float32)
    for border, straight in ((0, slice(12, 51)), (2, slice(0, 64))):
        lattice = np.pad(k, border, mode="reflect", reflect_type="odd")
        field = bspline_field(lattice[None, :, None], (64,), spacing=(8,), border=border)
        slope = np.diff(ops.convert_to_numpy(field)[0, :, 0])
        np.testing.assert_allclose(slope[straight], 1 / 8, atol=1e-5)
        # without one the field is flat towards the border
        assert (abs(slope[:2] - 1 / 8) > 0.02).all() == (border == 0)


def test_linear_coefficients_give_a_linear_field_inside():
    k = np.arange(8, dtype=np.float32)
    field = bspline_field(k[None, :, None], (64,), spacing=(8,))
    slope = np.diff(ops.convert_to_numpy(field)[0, 16:48, 0])
    np.testing.assert_allclose(slope, 1 / 8, atol=1e-6)


@pytest.mark.parametrize("derivative", [1, 2])
def test_derivative_is_the_finite_difference_of_the_basis(derivative):
    t = np.linspace(-2.4, 2.4, 97)
    h = 2e-2  # float32, of which not every backend has twice the digits, needs some distance

    def basis(x):
        return ops.convert_to_numpy(bspline_basis(ops.array(x, dtype="float32"), order=3))

    expected = {
        1: (basis(t + h) - basis(t - h)) / (2 * h),
        2: (basis(t + h) - 2 * basis(t) + basis(t - h)) / h**2,
    }[derivative]
    values = bspline_basis(ops.array(t, dtype="float32"), order=3, derivative=derivative)
    # the cubic's second derivative has kinks, where the difference errs by h
    np.testing.assert_allclose(ops.convert_to_numpy(values), expected, atol=1.1 * h)


def test_unsupported_orders_are_named():
    with pytest.raises(ValueError, match=r"order must be one of .* Received: order=4"):
        bspline_basis(ops.zeros(1), order=4)
    with pytest.raises(ValueError, match="spacing must be positive"):
        basis_matrix(4, 2, spacing=0.0)
    with pytest.raises(ValueError, match="need 2 values"):
        bspline_field(ops.zeros((1, 3, 3, 2)), (4, 4, 4), spacing=(2, 2))


def test_a_lattice_gives_the_field_its_adjoint_and_squares():
    rng = np.random.default_rng(0)
    shape, lattice, spacing = (11, 9, 13), (5, 4, 5), (4.0, 4.0, 4.0)
    spline = SplineLattice(shape, lattice, spacing=spacing, border=1)
    points = rng.normal(size=(2, *lattice, 3)).astype(np.float32)
    values = rng.normal(size=(2, *shape, 3)).astype(np.float32)
    field = np.asarray(spline.field(points))
    expected = np.asarray(bspline_field(points, shape, spacing=spacing, border=1))
    np.testing.assert_allclose(field, expected, atol=1e-5)
    adjoint = np.asarray(spline.adjoint(values))
    assert (field * values).sum() == pytest.approx((points * adjoint).sum(), rel=1e-3)
    one = np.zeros((1, *lattice, 3), np.float32)
    one[0, 2, 1, 3, 0] = 1.0
    squared = np.asarray(spline.squared_adjoint(values[:1]))[0, 2, 1, 3, 0]
    basis = np.asarray(spline.field(one))[0, ..., 0]
    assert squared == pytest.approx((basis**2 * values[0, ..., 0]).sum(), rel=1e-3)
