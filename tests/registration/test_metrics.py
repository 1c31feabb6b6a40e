from __future__ import annotations

import math

import numpy as np
import pytest

from registration.metrics import (
    bending_energy,
    dice,
    folding_fraction,
    jacobian_determinant,
    jacobian_standard_deviation,
    surface_distances,
    target_registration_errors_mm,
)


def box(shape, *ranges) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in ranges)] = True
    return mask


def test_dice_counts_by_hand():
    a = box((4, 5), (0, 2), (0, 4))  # 8
    b = box((4, 5), (1, 4), (2, 5))  # 9, shares row 1, columns 2 and 3
    assert dice(a, b) == pytest.approx(2 * 2 / (8 + 9))


def test_dice_of_nothing_is_undefined_and_of_one_empty_mask_zero():
    empty, full = np.zeros((2, 3, 4), bool), np.ones((2, 3, 4), bool)
    assert math.isnan(dice(empty, empty))
    assert dice(empty, full) == 0.0


def test_two_voxels_apart_are_two_spacings_apart():
    a, b = np.zeros((10, 10, 10), bool), np.zeros((10, 10, 10), bool)
    a[2, 5, 5] = True
    b[6, 5, 5] = True
    distances = surface_distances(a, b, spacing=(3.0, 1.0, 0.5))
    assert distances.maximum == pytest.approx(4 * 3.0, rel=0.1)


def test_surface_distances_of_a_shifted_box_by_axis():
    a = box((24, 24, 24), (6, 18), (6, 18), (6, 18))
    b = np.roll(a, 2, axis=1)
    distances = surface_distances(a, b, spacing=(1.0, 2.5, 1.0))
    assert distances.maximum == pytest.approx(2 * 2.5)
    assert distances.p95 == pytest.approx(2 * 2.5)
    # a box of 12 x 30 x 12 mm: the outer face (144 mm²) is 5 mm away, the inner one, inside
    # the other box, about 2 mm (a pyramid to its sides), a strip of 5 mm on four sides
    # (240 mm²) 2.5 mm on average, and the rest of the sides (1200 mm²) lies on the other box
    by_hand = (144 * 5.0 + 144 * 2.0 + 240 * 2.5) / (144 + 144 + 1440)
    assert distances.mean == pytest.approx(by_hand, rel=0.1)


def test_two_pixels_in_two_dimensions_as_surface_distance_itself_tests_them():
    a, b = np.zeros((2, 128, 128), bool)
    a[50, 70] = True
    b[50, 72] = True
    distances = surface_distances(a, b, spacing=(2.0, 1.0))
    # a pixel of 2 x 1 mm has four corners, half of which are 2 mm from the other one, half 1 mm
    assert distances.mean == pytest.approx(1.5)
    assert (distances.p95, distances.maximum) == (pytest.approx(2.0), pytest.approx(2.0))


def test_half_cubes_as_surface_distance_itself_tests_them():
    a, b = np.zeros((2, 100, 100, 100), bool)
    a[:50] = True
    b[:51] = True
    distances = surface_distances(a, b, spacing=(2.0, 1.0, 1.0))
    # the package tells both directions apart, 0.322 and 0.339 mm; ours is over both surfaces
    assert 0.322 < distances.mean < 0.339
    assert distances.maximum == pytest.approx(2.0)
    assert dice(a, b) == pytest.approx(2 * 50 / (50 + 51), abs=1e-12)


def test_equal_masks_have_distance_zero_in_two_dimensions():
    a = box((12, 15), (3, 7), (4, 9))
    assert surface_distances(a, a, spacing=(1.0, 4.0)).maximum == 0.0


def test_empty_masks_are_undefined_or_infinitely_far():
    empty, full = np.zeros((4, 4), bool), box((4, 4), (1, 3), (1, 3))
    assert math.isnan(surface_distances(empty, empty, spacing=(1, 1)).mean)
    assert math.isinf(surface_distances(empty, full, spacing=(1, 1)).p95)


def test_target_registration_error_is_a_length():
    errors = target_registration_errors_mm([[1.0, 2.0, 3.0]], [[1.0 + 2, 2.0 + 3, 3.0 + 6]])
    assert errors.tolist() == [7.0]


def test_jacobian_of_a_stretch_is_its_volume_ratio():
    z, y, x = np.meshgrid(np.arange(5), np.arange(6), np.arange(7), indexing="ij")
    spacing = (4.0, 1.5, 0.5)
    field = np.stack([0.2 * z * 4.0, -0.1 * y * 1.5, 0.5 * x * 0.5], axis=-1)
    determinant = jacobian_determinant(field, spacing=spacing)
    np.testing.assert_allclose(determinant, 1.2 * 0.9 * 1.5)


def test_folding_counts_zero_and_negative_determinants():
    assert folding_fraction(np.array([1.0, 0.0, -2.0, 0.5])) == 0.5


def test_spread_of_the_jacobian_is_that_around_its_mean():
    # two voxels halved and two of three times their volume: mean 1.75, all 1.25 from it
    assert jacobian_standard_deviation(np.array([[0.5, 0.5], [3.0, 3.0]])) == pytest.approx(1.25)


SPACING_MM = (5.0, 1.5, 0.5)


def points_mm(shape=(8, 9, 10)):
    """Coordinates of all voxels per axis, mm."""
    axes = [s * np.arange(n) for s, n in zip(SPACING_MM[-len(shape) :], shape, strict=True)]
    return np.meshgrid(*axes, indexing="ij")


def test_affine_fields_do_not_bend():
    points = np.stack(points_mm(), axis=-1)
    field = points @ np.random.default_rng(0).normal(0.0, 0.3, (3, 3)) + 4.0
    assert bending_energy(field, spacing=SPACING_MM) == pytest.approx(0.0, abs=1e-18)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("component", [0, 1, 2])
def test_a_squared_ramp_of_any_component_along_any_axis_has_energy_four(component, axis):
    field = np.zeros((8, 9, 10, 3))
    field[..., component] = points_mm()[axis] ** 2  # second derivative 2, the others 0
    assert bending_energy(field, spacing=SPACING_MM) == pytest.approx(2.0**2)


def test_bending_energies_of_components_and_axes_add_up_and_mixed_ones_count_twice():
    z, y, x = points_mm()
    field = np.stack([z**2 + 3.0 * y * x, 0.5 * y**2, z * x], axis=-1)
    expected = (2.0**2 + 2 * 3.0**2) + (2 * 0.5) ** 2 + 2 * 1.0**2
    assert bending_energy(field, spacing=SPACING_MM) == pytest.approx(expected)


def test_bending_energy_in_two_dimensions_and_of_a_stack_of_one_slice():
    y, x = points_mm((9, 10))
    field = np.stack([y * x, x**2], axis=-1)
    expected = 2 * 1.0**2 + 2.0**2
    assert bending_energy(field, spacing=SPACING_MM[1:]) == pytest.approx(expected)
    stack = np.concatenate([np.zeros((1, 9, 10, 1)), field[None]], axis=-1)
    assert bending_energy(stack, spacing=SPACING_MM) == pytest.approx(expected)


def test_mismatched_arguments_are_named():
    with pytest.raises(ValueError, match="same shape"):
        dice(np.ones((2, 2), bool), np.ones((2, 3), bool))
    with pytest.raises(ValueError, match="spacing needs 2 values"):
        surface_distances(np.ones((2, 2), bool), np.ones((2, 2), bool), spacing=(1, 1, 1))
    with pytest.raises(ValueError, match="as many channels"):
        jacobian_determinant(np.zeros((4, 4, 3)), spacing=(1, 1))
    with pytest.raises(ValueError, match="as many channels"):
        bending_energy(np.zeros((4, 4, 2)), spacing=(1, 1, 1))
    with pytest.raises(ValueError, match="must match"):
        target_registration_errors_mm([[0, 0]], [[0, 0, 0]])
