from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import map_coordinates

from registration.geometry import ImageGrid
from registration.transforms import bspline_transform, composite_transform
from registration.transforms_dense import (
    displacement_field_mm,
    displacement_field_transform,
    displacement_field_vox,
    inverse_transform,
    read_learn2reg,
    write_learn2reg,
)

TURNED = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.5).GetMatrix()
GRID = ImageGrid((16, 13, 9), (0.9, 1.4, 3.0), (-31.0, 57.0, 803.0), TURNED)


def wavy(grid=GRID, amplitude=0.6, spacing=(4.0, 4.0, 4.0), seed=0) -> sitk.BSplineTransform:
    count = [int(np.ceil(n / s)) for n, s in zip(grid.shape, spacing, strict=True)]
    points = np.random.default_rng(seed).uniform(-amplitude, amplitude, (*count, grid.dimension))
    return bspline_transform(points, grid, spacing=spacing)


def test_dense_field_is_where_points_go():
    transform = wavy()
    field = displacement_field_mm(transform, GRID)
    for index in ((2, 3, 4), (8, 0, 15)):
        point = GRID.voxel_points()[index]
        moved = np.array(transform.TransformPoint(point.tolist()))
        np.testing.assert_allclose(field[index], moved - point, atol=1e-9)


def test_one_voxel_along_an_index_axis_is_one_in_its_channel():
    slice_axis = GRID.direction_matrix[:, 2] * GRID.spacing[2]
    field = displacement_field_vox(sitk.TranslationTransform(3, slice_axis.tolist()), GRID)
    np.testing.assert_allclose(field, np.broadcast_to([1.0, 0.0, 0.0], field.shape), atol=1e-9)


def test_voxel_field_comes_back_from_the_itk_transform():
    field = np.random.default_rng(1).normal(size=(*GRID.shape, 3))
    transform = displacement_field_transform(field, GRID)
    np.testing.assert_allclose(displacement_field_vox(transform, GRID), field, atol=1e-6)
    with pytest.raises(ValueError, match=r"must have shape \(9, 13, 16, 3\)"):
        displacement_field_transform(field[1:], GRID)


def test_learn2reg_file_warps_arrays_as_its_evaluation_does(tmp_path):
    """Map coordinates on the array as nibabel loads it, (x, y, z), against SimpleITK."""
    moving_grid = ImageGrid((14, 17, 10), (1.1, 1.0, 2.5), (-30.0, 55.0, 804.0), TURNED)
    moving = np.random.default_rng(2).normal(size=moving_grid.shape)
    transform = wavy()
    path = tmp_path / "disp_0001_0002.nii.gz"
    write_learn2reg(transform, GRID, moving_grid, path)
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    displacement = stored.transpose(0, 3, 2, 1)  # (3, X, Y, Z)
    assert displacement.shape == (3, *GRID.size)
    identity = np.stack(np.meshgrid(*map(np.arange, GRID.size), indexing="ij"))
    moved = map_coordinates(
        moving.transpose(2, 1, 0), identity + displacement, order=1, cval=np.nan
    )
    image = sitk.Resample(
        moving_grid.to_image(moving), GRID.empty_image(), transform, sitk.sitkLinear, np.nan
    )
    expected = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    both = np.isfinite(moved) & np.isfinite(expected)
    assert both.sum() > 500
    np.testing.assert_allclose(moved[both], expected[both], atol=1e-4)


def test_learn2reg_file_comes_back_as_a_transform(tmp_path):
    path = tmp_path / "disp.nii.gz"
    moving_grid = ImageGrid((14, 17, 10), (1.1, 1.0, 2.5), (-30.0, 55.0, 804.0), TURNED)
    write_learn2reg(wavy(), GRID, moving_grid, path)
    back = read_learn2reg(path, GRID, moving_grid)
    np.testing.assert_allclose(
        displacement_field_mm(back, GRID), displacement_field_mm(wavy(), GRID), atol=1e-5
    )
    with pytest.raises(ValueError, match=r"must have shape \(14, 17, 10, 3\)"):
        read_learn2reg(path, moving_grid, moving_grid)
    with pytest.raises(ValueError, match=r"\.nii\.gz file of a three-dimensional field"):
        write_learn2reg(wavy(), GRID, moving_grid, tmp_path / "disp.npz")


def test_inverse_of_an_affine_is_exact():
    affine = sitk.AffineTransform([1.3, 0.2, -0.1, 0.8], [4.0, -3.0], [40.0, 1.0])
    found = inverse_transform(affine, ImageGrid((9, 7), (1.0, 2.0), (30.0, -4.0)))
    point = (33.0, 2.0)
    there = affine.TransformPoint(point)
    np.testing.assert_allclose(found.transform.TransformPoint(there), point, atol=1e-9)
    assert found.max_error_mm < 1e-9


def test_inverse_of_affine_and_bspline_undoes_them():
    fine = ImageGrid((40, 34), (0.5, 0.7), (12.0, -30.0), (0.8, -0.6, 0.6, 0.8))
    spline = wavy(fine, amplitude=2.0, spacing=(8.0, 8.0))
    middle = fine.center.tolist()
    affine = sitk.AffineTransform([1.25, 0.1, -0.15, 0.8], [0.4, -0.3], middle)
    transform = composite_transform([affine, spline])
    found = inverse_transform(transform, fine)
    # linear interpolation between voxels: second derivative * spacing² / 8, far below a voxel
    assert found.max_error_mm < 0.05
    assert found.mean_error_mm < 0.01
    for index in ([12.3, 9.1], [20.7, 25.2], [31.0, 14.5]):
        point = fine.physical_points(index).tolist()
        there = transform.TransformPoint(point)
        np.testing.assert_allclose(found.transform.TransformPoint(there), point, atol=0.05)


def test_a_folding_transform_is_told_by_its_error():
    grid = ImageGrid((30, 12), (1.0, 1.0), (0.0, 0.0))
    points = np.zeros((3, 8, 2))
    points[:, 3, 1], points[:, 4, 1] = 8.0, -8.0
    folded = bspline_transform(points, grid, spacing=(4.0, 4.0))
    assert inverse_transform(folded, grid).max_error_mm > 0.5


def test_a_strong_deformation_is_inverted_in_a_few_iterations():
    direction = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
    grid = ImageGrid((30, 26, 22), (1.5, 2.0, 2.5), (-20.0, 14.0, 3.0), direction)
    x, y, z = np.moveaxis(grid.voxel_points() - grid.center, -1, 0)
    # with steps of the residual alone a hundredth of the error is left after as many
    field = np.stack(
        [2.0 * np.sin(y / 6.0), 1.75 * np.sin(z / 5.5), 1.5 * np.cos(x / 5.0)], axis=-1
    )
    inside = np.exp(-((x / 14) ** 4) - (y / 15) ** 4 - (z / 16) ** 4)
    transform = displacement_field_transform(field * inside[..., None], grid)
    found = inverse_transform(transform, grid, iterations=6)
    assert found.mean_error_mm <= 1.002 * inverse_transform(transform, grid).mean_error_mm
