from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

from registration.bending import BendingForm, bending_energy, control_point_bending_energy
from registration.bsplines import SplineLattice, bspline_field


def grid_points(shape) -> np.ndarray:
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).astype(np.float32)


@pytest.mark.parametrize("shape", [(9, 11), (6, 7, 8)])
def test_affine_fields_do_not_bend(shape):
    d = len(shape)
    matrix = np.random.default_rng(0).normal(0.0, 0.3, (d, d))
    field = (grid_points(shape) @ matrix + 4.0).astype(np.float32)[None]
    energy = ops.convert_to_numpy(bending_energy(field, spacing_mm=(2.0, 1.0, 0.5)[-d:]))
    np.testing.assert_allclose(energy, 0.0, atol=1e-9)


def test_a_squared_ramp_has_energy_four_per_component():
    x = grid_points((8, 9, 10))
    field = np.zeros((1, 8, 9, 10, 3), np.float32)
    field[0, ..., 1] = x[..., 2] ** 2
    energy = ops.convert_to_numpy(bending_energy(field, spacing_mm=(1.0, 1.0, 1.0)))
    np.testing.assert_allclose(energy, [2.0**2])


@pytest.mark.parametrize("is_traced", [False, True])
@pytest.mark.parametrize("thickness", [1, 2])
def test_a_stack_of_one_slice_bends_as_the_slice(thickness, is_traced):
    rng = np.random.default_rng(1)
    slice_field = rng.normal(size=(1, 8, 9, 2)).astype(np.float32)
    field = np.zeros((1, thickness, 8, 9, 3), np.float32)
    field[..., 1:] = slice_field[:, None]

    def energy(u):
        return bending_energy(u, spacing_mm=(5.0, 1.0, 0.5))

    if is_traced:
        if keras.backend.backend() != "tensorflow":
            pytest.skip("shapes are unknown in the graphs of TensorFlow alone")
        import tensorflow as tf

        energy = tf.function(energy, input_signature=[tf.TensorSpec((None,) * 4 + (3,))])
    expected = ops.convert_to_numpy(bending_energy(slice_field, spacing_mm=(1.0, 0.5)))
    np.testing.assert_allclose(ops.convert_to_numpy(energy(field)), expected, rtol=1e-5)


def test_energy_is_in_millimetres_and_mixed_terms_count_twice():
    # u_y = a x y / (sx sy) in mm: Txy = a, on 3 x 0.5 mm voxels
    a, sy, sx = 0.02, 3.0, 0.5
    x = grid_points((12, 14))
    field = np.zeros((2, 12, 14, 2), np.float32)
    field[1, ..., 0] = a * (x[..., 0] * sy) * (x[..., 1] * sx) / sy
    energy = ops.convert_to_numpy(bending_energy(field, spacing_mm=(sy, sx)))
    np.testing.assert_allclose(energy, [0.0, 2 * a**2], rtol=1e-4)


@pytest.mark.parametrize("border", [0, 1])
@pytest.mark.parametrize(
    ("lattice", "spacing", "spacing_mm"),
    [((6, 7), (8, 5), (2.0, 0.7)), ((4, 5, 6), (3, 6, 4), (5.0, 0.8, 1.1))],
)
def test_energy_of_control_points_is_that_of_the_field_derivatives(
    lattice, spacing, spacing_mm, border
):
    d = len(lattice)
    rng = np.random.default_rng(2)
    shape = tuple((k - 2 * border) * s for k, s in zip(lattice, spacing, strict=True))
    control_points = rng.normal(0.0, 3.0, (2, *lattice, d)).astype(np.float32)
    expected = np.zeros(2)
    for i in range(d):
        for j in range(d):
            orders = [int(axis == i) + int(axis == j) for axis in range(d)]
            derivative = bspline_field(
                control_points, shape, spacing=spacing, border=border, derivatives=orders
            )
            mm = ops.convert_to_numpy(derivative) * np.array(spacing_mm)
            mm = mm / (spacing_mm[i] * spacing_mm[j])
            expected += (mm**2).sum(axis=-1).reshape(2, -1).mean(axis=1)
    energy = control_point_bending_energy(
        control_points, shape, spacing=spacing, spacing_mm=spacing_mm, border=border
    )
    np.testing.assert_allclose(ops.convert_to_numpy(energy), expected, rtol=1e-4)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("axis", [0, 1])
def test_control_points_on_a_parabola_have_its_energy(axis, order):
    # splines of either degree with coefficients q k² are parabolas, where no end is repeated:
    # u = q (x/s)² and a constant
    q, spacing, spacing_mm, border = 0.5, (6, 4), (1.5, 0.5), 2
    lattice = (9, 8)
    shape = tuple((k - 2 * border) * s for k, s in zip(lattice, spacing, strict=True))
    points = np.zeros((1, *lattice, 2), np.float32)
    points[0, ..., 1] = q * (grid_points(lattice)[..., axis] - 4.0) ** 2
    # in mm: u is 0.5 mm per voxel of component 1, and x the voxels of the axis times theirs
    second = 2 * q * spacing_mm[1] / (spacing[axis] * spacing_mm[axis]) ** 2
    energy = control_point_bending_energy(
        points, shape, spacing=spacing, spacing_mm=spacing_mm, border=border, order=order
    )
    np.testing.assert_allclose(ops.convert_to_numpy(energy), [second**2], rtol=5e-3)


def test_dense_and_control_point_energies_agree_for_a_smooth_field():
    lattice, spacing, shape = (5, 6), (24, 24), (120, 144)
    control_points = np.random.default_rng(4).normal(0, 3, (1, *lattice, 2)).astype(np.float32)
    field = bspline_field(control_points, shape, spacing=spacing)
    dense = ops.convert_to_numpy(bending_energy(field, spacing_mm=(1.5, 0.5)))
    exact = ops.convert_to_numpy(
        control_point_bending_energy(control_points, shape, spacing=spacing, spacing_mm=(1.5, 0.5))
    )
    # the dense mean leaves out the border, where the repeated lattice flattens the field
    np.testing.assert_allclose(dense, exact, rtol=0.03)


def test_a_missing_spacing_is_named():
    with pytest.raises(ValueError, match=r"one value for each of 3 axes. Received: \(1.0, 2.0\)"):
        bending_energy(ops.zeros((1, 4, 4, 4, 3)), spacing_mm=(1.0, 2.0))


def test_the_form_of_a_lattice_is_its_energy():
    rng = np.random.default_rng(0)
    shape, lattice, spacing, spacing_mm = (12, 10, 8), (5, 5, 4), (4.0, 3.0, 4.0), (3.0, 1.0, 2.0)
    points = rng.normal(size=(2, *lattice, 3)).astype(np.float32)
    spline = SplineLattice(shape, lattice, spacing=spacing, border=1)
    form = BendingForm(spline, spacing_mm, weight=0.7)
    expected = control_point_bending_energy(
        points, shape, spacing=spacing, spacing_mm=spacing_mm, border=1
    )
    np.testing.assert_allclose(form.energy(points), 0.7 * np.asarray(expected), rtol=1e-4)
    diagonal = np.asarray(form.diagonal())
    for at in ((2, 1, 3, 0), (0, 4, 0, 2)):
        one = np.zeros((1, *lattice, 3), np.float32)
        one[(0, *at)] = 1.0
        assert diagonal[at] == pytest.approx(float(np.asarray(form.energy(one))[0]), rel=1e-4)
