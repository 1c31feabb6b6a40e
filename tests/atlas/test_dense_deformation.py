import numpy as np
import pytest
import SimpleITK as sitk

from atlas.dense_deformation import deformation_field_vox, dense_transform, warp_field_vox
from atlas.subject_transform import SubjectTransform, Warp
from registration.geometry import ImageGrid
from registration.transforms import bspline_transform
from registration.transforms_dense import displacement_field_vox

GRID = ImageGrid((23, 30, 19), (2.0, 2.5, 3.0), (-21.0, 5.0, -30.0))
RNG = np.random.default_rng(5)


def warp(spacing, size_vox, shift=0.0):
    lattice = [-(-n // spacing) for n in GRID.shape]
    points = RNG.uniform(-size_vox, size_vox, (*lattice, 3)) + shift
    return Warp.from_transform(bspline_transform(points, GRID, spacing=(spacing,) * 3))


def test_one_warp_is_what_itk_makes_of_it():
    one = warp(5, 1.5)
    expected = displacement_field_vox(one.to_transform(), GRID)
    np.testing.assert_allclose(warp_field_vox(one, GRID), expected, atol=1e-9)


def test_a_coarser_grid_has_the_same_warp_in_its_own_voxels():
    one = warp(6, 1.5)
    coarse = ImageGrid((11, 14, 9), (4.0, 5.0, 6.0), (-20.0, 6.25, -28.5))
    expected = displacement_field_vox(one.to_transform(), coarse)
    np.testing.assert_allclose(warp_field_vox(one, coarse), expected, atol=1e-9)


def test_warps_in_a_row_are_those_of_itk_to_hundredths_of_a_voxel():
    found = SubjectTransform(np.eye(4), (warp(16, 5.0), warp(8, 3.0), warp(4, 1.6), warp(4, 0.4)))
    difference = deformation_field_vox(found, GRID) - displacement_field_vox(
        found.deformation(), GRID
    )
    # not at the border, past which the dense field repeats its outermost values
    inner = np.linalg.norm(difference[3:-3, 3:-3, 3:-3], axis=-1)
    assert np.linalg.norm(deformation_field_vox(found, GRID), axis=-1).mean() > 1.0
    assert inner.mean() < 0.04
    assert inner.max() < 0.25


def test_the_last_warp_acts_first():
    first, last = warp(8, 0.0, shift=3.0), warp(4, 1.0)
    found = SubjectTransform(np.eye(4), (first, last))
    # a constant shift may come before or after: the sum is exact
    expected = warp_field_vox(first, GRID) + warp_field_vox(last, GRID)
    np.testing.assert_allclose(deformation_field_vox(found, GRID), expected, atol=1e-9)


def test_the_affine_map_comes_after_the_warps():
    matrix = np.eye(4)
    matrix[:3, :3] = [[0.9, 0.1, 0.0], [-0.1, 1.1, 0.05], [0.0, 0.0, 1.0]]
    matrix[:3, 3] = [4.0, -2.0, 9.0]
    found = SubjectTransform(matrix, (warp(8, 2.0),))
    exact, dense = found.to_transform(), dense_transform(found, GRID)
    for index in ((4, 9, 3), (17, 20, 11)):
        point = GRID.physical_points([index])[0].tolist()
        np.testing.assert_allclose(
            dense.TransformPoint(point), exact.TransformPoint(point), atol=1e-6
        )


def test_without_warps_it_is_the_affine_map():
    assert dense_transform(SubjectTransform(np.eye(4)), GRID).IsLinear()
    assert not deformation_field_vox(SubjectTransform(np.eye(4)), GRID).any()


def test_a_turned_lattice_is_refused():
    turned = ImageGrid(GRID.size, GRID.spacing, GRID.origin, (0, -1, 0, 1, 0, 0, 0, 0, 1))
    other = Warp.from_transform(
        bspline_transform(np.zeros((5, 8, 6, 3)), turned, spacing=(4.0, 4.0, 4.0))
    )
    assert isinstance(other.to_transform(), sitk.BSplineTransform)
    with pytest.raises(ValueError, match="along the axes of space"):
        warp_field_vox(other, GRID)
