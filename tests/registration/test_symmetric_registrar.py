import numpy as np
import pytest
import SimpleITK as sitk

from registration.geometry import ImageGrid, affine_matrix, affine_transform
from registration.registrar import Registration
from registration.symmetric_registrar import SymmetricRegistrar
from registration.transforms import bspline_transform, moving_points
from registration.transforms_dense import inverse_transform

GRID = ImageGrid.centered((40, 36, 32), (1.0, 1.5, 2.0), (3.0, -2.0, 5.0))


def image(value):
    made = sitk.Image(GRID.size, sitk.sitkFloat32) + value
    made.SetSpacing(GRID.spacing)
    made.SetOrigin(GRID.origin)
    made.SetDirection(GRID.direction)
    return made


FIXED, MOVING = image(0.0), image(1.0)


class Known:
    """Answers one transform from the dark to the bright image, another one back."""

    name = "known"

    def __init__(self, there, back):
        self.transforms = {0.0: there, 1.0: back}

    def register(self, fixed, moving):
        return Registration((self.transforms[fixed[0, 0, 0]],))


def spline(seed, scale=3.0):
    points = np.random.default_rng(seed).normal(0, scale, (4, 5, 5, 3))
    return bspline_transform(points, GRID, spacing=(8, 8, 8))


def points():
    inner = GRID.voxel_points()[8:-8, 8:-8, 8:-8]
    return inner[::4, ::4, ::4].reshape(-1, 3)


def disagreement(registrar):
    """How far points come to lie from where they were, there and back, mm."""
    there = registrar.register(FIXED, MOVING).transform
    back = registrar.register(MOVING, FIXED).transform
    returned = moving_points(back, moving_points(there, points()))
    return np.sqrt(np.mean(np.sum((returned - points()) ** 2, axis=-1)))


def test_linear_answers_of_both_directions_are_exact_inverses():
    rng = np.random.default_rng(0)
    there = np.eye(4)
    there[:3] += rng.normal(0, 0.1, (3, 4)) * [1, 1, 1, 50]
    wrong = np.eye(4)
    wrong[:3] += rng.normal(0, 0.05, (3, 4)) * [1, 1, 1, 50]
    known = Known(affine_transform(there), affine_transform(wrong @ np.linalg.inv(there)))
    assert disagreement(known) > 1.0
    symmetric = SymmetricRegistrar(known)
    assert symmetric.name == "known, both ways"
    found = symmetric.register(FIXED, MOVING).transform
    assert found.IsLinear()
    assert disagreement(symmetric) < 1e-6
    # a shift is halved
    shifts = [sitk.TranslationTransform(3, s) for s in ((4.0, 0.0, 0.0), (-2.0, 0.0, 0.0))]
    between = SymmetricRegistrar(Known(*shifts)).register(FIXED, MOVING).transform
    np.testing.assert_allclose(affine_matrix(between)[:3, 3], [3.0, 0.0, 0.0], atol=1e-9)


def test_splines_of_both_directions_undo_each_other_far_better():
    there = spline(1)
    exact = inverse_transform(there, GRID).transform
    back = sitk.CompositeTransform([spline(2, scale=0.5), exact])
    known = Known(there, back)
    before = disagreement(known)
    assert before > 0.4
    assert disagreement(SymmetricRegistrar(known)) < 0.1 * before


def test_what_agrees_already_stays():
    there = spline(1)
    known = Known(there, inverse_transform(there, GRID).transform)
    found = SymmetricRegistrar(known).register(FIXED, MOVING).transform
    moved = moving_points(found, points())
    np.testing.assert_allclose(moved, moving_points(there, points()), atol=0.15)


def test_a_picture_that_is_left_as_it_is_stays_so():
    flat = sitk.Image(8, 6, sitk.sitkFloat32)
    same = sitk.Transform(2, sitk.sitkIdentity)

    class Same:
        name = "same"

        def register(self, fixed, moving):
            return Registration((same,))

    found = SymmetricRegistrar(Same()).register(flat, flat).transform
    assert found.TransformPoint((1.5, 2.0)) == pytest.approx((1.5, 2.0))
