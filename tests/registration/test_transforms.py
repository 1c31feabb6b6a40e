from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from keras import ops

from registration.bsplines import bspline_field
from registration.geometry import ImageGrid, affine_matrix
from registration.layers.affine_field import AffineField
from registration.transforms import (
    bspline_control_points,
    bspline_transform,
    centered_affine_matrix,
    centered_affine_transform,
    composite_transform,
    fixed_points,
    moving_points,
    transform_stages,
    write_transform,
)

PLANE = ImageGrid((37, 26), (0.8, 1.7), (-30.0, 12.0), (0.8, -0.6, 0.6, 0.8))


def oblique(size=(21, 18, 11), spacing=(0.9, 1.4, 4.0), origin=(-31.0, 57.0, 803.0)) -> ImageGrid:
    rotation = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.5)
    return ImageGrid(size, spacing, origin, rotation.GetMatrix())


GRIDS = {"plane": (PLANE, (8.0, 4.0)), "oblique": (oblique(), (2.0, 8.0, 4.0))}


def lattice(grid, spacing, amplitude=1.0, seed=0, border=0) -> np.ndarray:
    count = [int(np.ceil(n / s)) + 2 * border for n, s in zip(grid.shape, spacing, strict=True)]
    rng = np.random.default_rng(seed)
    return amplitude * rng.normal(size=(*count, grid.dimension))


def physical_displacement(field_vox: np.ndarray, grid: ImageGrid) -> np.ndarray:
    """LPS mm by the definition: where the displaced index lies, less where the voxel lies."""
    axes = [np.arange(n) for n in grid.shape]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    return grid.physical_points((index + field_vox)[..., ::-1]) - grid.voxel_points()


def itk_points(transform, points) -> np.ndarray:
    flat = points.reshape(-1, points.shape[-1])
    return np.array([transform.TransformPoint(p) for p in flat.tolist()]).reshape(points.shape)


@pytest.mark.parametrize("border", [0, 1, 3])
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("name", list(GRIDS))
def test_itk_evaluates_the_lattice_as_the_network_does(name, order, border):
    grid, spacing = GRIDS[name]
    points = lattice(grid, spacing, border=border)
    spline = {"spacing": spacing, "order": order, "border": border}
    transform = bspline_transform(points, grid, **spline)
    field = bspline_field(points[None], grid.shape, **spline)
    expected = physical_displacement(ops.convert_to_numpy(field)[0].astype(float), grid)
    found = itk_points(transform, grid.voxel_points()) - grid.voxel_points()
    # float32 of the network's basis
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_one_control_point_moves_its_own_axis_only_and_by_four_ninths():
    grid = ImageGrid((33, 17), (0.5, 2.0), (7.0, -3.0))
    points = np.zeros((5, 9, 2))
    points[2, 3] = (1.5, 0.0)  # rows
    transform = bspline_transform(points, grid, spacing=(4.0, 4.0))
    # first control point in the middle of voxels 0 to 3; cubic B-spline at its knot: 2/3 per axis
    knot = grid.physical_points([1.5 + 3 * 4, 1.5 + 2 * 4])
    moved = np.array(transform.TransformPoint(knot.tolist()))
    np.testing.assert_allclose(moved - knot, [0.0, (2 / 3) ** 2 * 1.5 * 2.0], atol=1e-12)


@pytest.mark.parametrize("order", [2, 3])
def test_beyond_the_border_constant_points_go_on_moving(order):
    grid, spacing = GRIDS["oblique"]
    points = np.broadcast_to([0.5, -1.0, 2.0], (6, 3, 6, 3))
    transform = bspline_transform(points, grid, spacing=spacing, order=order)
    corner = np.array(grid.size) - 1.0
    past = np.array([1.0, 3.0, 1.0])
    shift = np.array([2.0, -1.0, 0.5])
    for index in (-past, corner, corner + past):
        start = grid.physical_points(index)
        expected = grid.physical_points(index + shift)
        np.testing.assert_allclose(transform.TransformPoint(start.tolist()), expected, atol=1e-9)


@pytest.mark.parametrize("border", [0, 1])
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("name", list(GRIDS))
def test_bspline_survives_a_file_and_comes_back_as_control_points(tmp_path, name, order, border):
    grid, spacing = GRIDS[name]
    points = lattice(grid, spacing, seed=3, border=border)
    write_transform(
        bspline_transform(points, grid, spacing=spacing, border=border, order=order),
        tmp_path / "stage.tfm",
    )
    read = sitk.ReadTransform(str(tmp_path / "stage.tfm"))
    back = bspline_control_points(sitk.BSplineTransform(read), grid, border=border)
    np.testing.assert_allclose(back.control_points, points, atol=1e-9)
    assert back.spacing == pytest.approx(spacing)
    assert (back.order, back.border) == (order, border)


def test_foreign_lattices_are_refused():
    grid, spacing = GRIDS["plane"]
    transform = bspline_transform(lattice(grid, spacing), grid, spacing=spacing)
    turned = ImageGrid(grid.size, grid.spacing, grid.origin)
    with pytest.raises(ValueError, match="direction of the grid"):
        bspline_control_points(transform, turned)
    shifted = ImageGrid(
        grid.size, grid.spacing, tuple(grid.physical_points([1.0, 0.0])), grid.direction
    )
    with pytest.raises(ValueError, match="whole number of control point spacings"):
        bspline_control_points(transform, shifted)
    with pytest.raises(ValueError, match="must reach 9 control points beyond the image"):
        bspline_control_points(transform, grid, border=9)
    values = np.array(transform.GetParameters())
    values[0] += 1.0
    transform.SetParameters(values.tolist())
    with pytest.raises(ValueError, match="repeat its outermost values"):
        bspline_control_points(transform, grid)


def test_linear_splines_and_wrong_shapes_are_refused():
    grid, spacing = GRIDS["plane"]
    with pytest.raises(ValueError, match=r"order must be one of \(2, 3\). Received: order=1"):
        bspline_transform(lattice(grid, spacing), grid, spacing=spacing, order=1)
    with pytest.raises(ValueError, match=r"needs a lattice of shape"):
        bspline_transform(np.zeros((4, 5, 3)), grid, spacing=spacing)


@pytest.mark.parametrize("named_spacing", ["grid", "voxels"])
@pytest.mark.parametrize("name", list(GRIDS))
def test_itk_moves_points_as_the_affine_field_does(name, named_spacing):
    grid, _ = GRIDS[name]
    d = grid.dimension
    matrix = np.eye(d + 1)
    matrix[:d] += np.random.default_rng(5).normal(0.0, 0.1, (d, d + 1))
    spacing = grid.spacing if named_spacing == "grid" else (1.0,) * d
    image = np.zeros((1, *grid.shape, 1), np.float32)
    field = AffineField(spacing)(matrix[None].astype(np.float32), image)
    expected = physical_displacement(ops.convert_to_numpy(field)[0].astype(float), grid)
    transform = centered_affine_transform(matrix, grid, spacing=spacing)
    found = itk_points(transform, grid.voxel_points()) - grid.voxel_points()
    np.testing.assert_allclose(found, expected, atol=3e-4)
    np.testing.assert_allclose(
        centered_affine_matrix(transform, grid, spacing=spacing), matrix, atol=1e-9
    )


def test_a_turn_about_the_middle_leaves_the_middle_where_it_is():
    grid = oblique()
    turn = np.eye(4)
    turn[:2, :2] = [[0.0, -1.0], [1.0, 0.0]]
    transform = centered_affine_transform(turn, grid)
    np.testing.assert_allclose(transform.TransformPoint(grid.center.tolist()), grid.center)
    # 3 mm along the first index axis from the middle turn into 3 mm along the second
    first, second = grid.direction_matrix[:, 0], grid.direction_matrix[:, 1]
    moved = transform.TransformPoint((grid.center + 3.0 * first).tolist())
    np.testing.assert_allclose(moved, grid.center + 3.0 * second, atol=1e-9)


def test_a_point_goes_through_the_last_stage_first():
    double = sitk.ScaleTransform(2, (2.0, 2.0))
    shift = sitk.TranslationTransform(2, (1.0, 0.0))
    stages = composite_transform([double, shift])
    # found first: doubling; a fixed point is shifted, then doubled
    assert stages.TransformPoint((3.0, 5.0)) == (8.0, 10.0)


def test_composites_are_taken_apart_in_the_order_found(tmp_path):
    grid, spacing = GRIDS["plane"]
    affine = sitk.AffineTransform([1.1, 0.2, -0.1, 0.9], [0.4, -0.3], [4.0, 1.0])
    first = bspline_transform(lattice(grid, spacing, 0.4), grid, spacing=spacing)
    second = bspline_transform(lattice(grid, spacing, 0.4, 1), grid, spacing=spacing)
    whole = composite_transform([composite_transform([affine, first]), second])
    write_transform(whole, tmp_path / "all.h5")
    parts = transform_stages(sitk.ReadTransform(str(tmp_path / "all.h5")))
    assert [p.GetName() for p in parts] == ["AffineTransform"] + ["BSplineTransform"] * 2
    assert composite_transform([affine]) is affine
    point = grid.physical_points([11.3, 7.9]).tolist()
    expected = affine.TransformPoint(first.TransformPoint(second.TransformPoint(point)))
    np.testing.assert_allclose(whole.TransformPoint(point), expected, atol=1e-12)


def test_moved_image_follows_the_accumulated_transform():
    """Warping by stage 1, then the result by stage 2, is warping once by the composite."""
    grid = ImageGrid((40, 30), (1.0, 1.0), (0.0, 0.0))
    x = grid.voxel_points()
    moving = grid.to_image(np.sin(x[..., 0] / 6.0) + np.cos(x[..., 1] / 5.0))
    stages = [
        sitk.TranslationTransform(2, (3.0, 0.0)),
        bspline_transform(np.full((8, 10, 2), [2.0, 0.0]), grid, spacing=(4.0, 4.0)),
    ]
    once = sitk.Resample(moving, composite_transform(stages), sitk.sitkLinear)
    twice = sitk.Resample(sitk.Resample(moving, stages[0]), stages[1])
    inner = np.s_[4:-4, 4:-4]
    np.testing.assert_allclose(
        sitk.GetArrayFromImage(once)[inner], sitk.GetArrayFromImage(twice)[inner], atol=1e-6
    )


def test_no_stage_and_unknown_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one transform"):
        composite_transform([])
    with pytest.raises(ValueError, match=r"\.tfm, \.txt or \.h5. Received: a\.mat"):
        write_transform(sitk.TranslationTransform(2), tmp_path / "a.mat")


@pytest.mark.parametrize("name", list(GRIDS))
def test_landmarks_of_the_moving_image_come_back_to_the_fixed_one(name):
    grid, spacing = GRIDS[name]
    matrix = np.eye(grid.dimension + 1)
    matrix[:-1] += np.random.default_rng(2).normal(0, 0.1, (grid.dimension, grid.dimension + 1))
    transform = composite_transform(
        [
            centered_affine_transform(matrix, grid),
            bspline_transform(lattice(grid, spacing, 0.5), grid, spacing=spacing),
        ]
    )
    rng = np.random.default_rng(4)
    start = grid.physical_points(rng.uniform(1.0, np.array(grid.size) - 2.0, (12, grid.dimension)))
    there = moving_points(transform, start)
    assert np.linalg.norm(there - start, axis=1).min() > 0.05
    np.testing.assert_allclose(fixed_points(transform, there), start, atol=1e-3)


def test_landmarks_go_against_a_known_shift():
    shift = sitk.TranslationTransform(3, (0.0, 0.0, 2.5))
    # moved(x) = moving(x + 2.5 mm): what lies at z = 10 in the moving image appears at 7.5
    np.testing.assert_allclose(fixed_points(shift, [[1.0, 2.0, 10.0]]), [[1.0, 2.0, 7.5]])
    np.testing.assert_allclose(moving_points(shift, [[1.0, 2.0, 7.5]]), [[1.0, 2.0, 10.0]])
    assert affine_matrix(shift)[2, 3] == 2.5


def test_points_that_nothing_maps_to_are_nan():
    # x -> |x| folded flat: a field that pulls everything back to x <= 5
    grid = ImageGrid((12, 4), (1.0, 1.0), (0.0, 0.0))
    field = np.zeros((*grid.shape, 2))
    field[..., 0] = -2.0 * np.maximum(0.0, np.arange(12) - 5.0)
    image = sitk.GetImageFromArray(field, isVector=True)
    folded = sitk.DisplacementFieldTransform(image)
    assert np.isnan(fixed_points(folded, [[8.0, 1.0]])).all()
    np.testing.assert_allclose(fixed_points(folded, [[3.0, 1.0]]), [[3.0, 1.0]], atol=1e-6)


@pytest.mark.parametrize("kind", ["shift", "spline"])
def test_points_that_are_nowhere_stay_nowhere(kind):
    grid, spacing = GRIDS["oblique"]
    shift = sitk.TranslationTransform(3, (1.0, 0.0, -2.0))
    spline = bspline_transform(lattice(grid, spacing, amplitude=0.0), grid, spacing=spacing)
    transform = {"shift": shift, "spline": composite_transform([shift, spline])}[kind]
    center = grid.center
    found = fixed_points(transform, [[np.nan, 1.0, 2.0], [np.inf, 1.0, 2.0], center])
    assert np.isnan(found[:2]).all()
    np.testing.assert_allclose(found[2], center - (1.0, 0.0, -2.0), atol=1e-3)
