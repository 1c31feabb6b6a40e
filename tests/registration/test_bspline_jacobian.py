from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

from registration.bspline_jacobian import bspline_jacobian_determinant, sampling_steps
from registration.bsplines import bspline_field
from registration.geometry import ImageGrid
from registration.transforms import bspline_transform
from registration.warping import jacobian_determinant


def by_itk(control_points, shape, spacing, border, order, steps) -> np.ndarray:
    """Determinants of SimpleITK's transform at the middle of the blocks, by differences."""
    d = len(shape)
    grid = ImageGrid(shape[::-1], (1.0,) * d, (0.0,) * d)
    transform = bspline_transform(control_points, grid, spacing=spacing, border=border, order=order)
    blocks = [n // step for n, step in zip(shape, steps, strict=True)]
    found = np.empty(blocks)
    for block in np.ndindex(*blocks):
        point = (np.array(block) * steps + (np.array(steps) - 1) / 2)[::-1]
        columns = []
        for axis in range(d):
            ends = [point + sign * 1e-4 * np.eye(d)[axis] for sign in (1, -1)]
            first, second = (np.array(transform.TransformPoint(e.tolist())) for e in ends)
            columns.append((first - second) / 2e-4)
        found[block] = np.linalg.det(np.stack(columns, axis=-1))
    return found


@pytest.mark.parametrize(
    ("shape", "lattice", "spacing", "border", "order", "steps"),
    [
        ((12, 17), (3, 3), (4.0, 8.0), 0, 3, (2, 4)),
        ((12, 17), (5, 5), (4.0, 8.0), 1, 3, (2, 4)),
        ((9, 8), (3, 2), (4.0, 4.0), 0, 2, (1, 3)),
        ((6, 9, 8), (3, 3, 2), (2.0, 4.0, 4.0), 0, 3, (1, 2, 2)),
        ((5, 8, 8), (3, 2, 2), (2.0, 4.0, 4.0), 0, 2, None),
        ((5, 8, 8), (7, 6, 6), (2.0, 4.0, 4.0), 2, 2, None),
    ],
)
def test_equals_the_jacobian_of_the_itk_transform(shape, lattice, spacing, border, order, steps):
    rng = np.random.default_rng(0)
    points = rng.normal(0.0, 1.8, (*lattice, len(shape))) * spacing
    found = bspline_jacobian_determinant(
        points[None].astype(np.float32),
        shape,
        spacing=spacing,
        border=border,
        order=order,
        steps=steps,
    )
    expected = by_itk(points, shape, spacing, border, order, steps or sampling_steps(spacing))
    assert expected.min() < 0.0  # folds are among them
    np.testing.assert_allclose(ops.convert_to_numpy(found)[0], expected, rtol=1e-3, atol=5e-3)


def test_half_the_control_point_spacing_finds_about_as_much_folding_as_every_voxel():
    rng = np.random.default_rng(1)
    points = (rng.normal(0.0, 1.2, (8, 4, 4, 4, 3)) * 8).astype(np.float32)
    spacing, shape = (8.0,) * 3, (32, 32, 32)
    dense = jacobian_determinant(bspline_field(points, shape, spacing=spacing))
    coarse = bspline_jacobian_determinant(points, shape, spacing=spacing)
    assert coarse.shape == (8, 8, 8, 8)
    shares = [np.mean(ops.convert_to_numpy(d) < 0.0, axis=(1, 2, 3)) for d in (dense, coarse)]
    np.testing.assert_allclose(shares[1], shares[0], atol=0.02)
    assert shares[0].min() > 0.02


def test_an_image_smaller_than_a_block_has_one_point():
    points = np.zeros((1, 1, 1, 2), np.float32)
    found = bspline_jacobian_determinant(points, (3, 3), spacing=(16.0, 16.0))
    assert ops.convert_to_numpy(found).tolist() == [[[1.0]]]


def test_jax_compiles_determinants_of_a_known_image():
    if keras.backend.backend() != "jax":
        pytest.skip("sizes in graphs are tensors on TensorFlow")
    import jax

    points = np.random.default_rng(0).normal(size=(1, 4, 5, 2)).astype(np.float32)

    def determinants(control_points):
        return bspline_jacobian_determinant(control_points, (16, 20), spacing=(4, 4))

    np.testing.assert_allclose(jax.jit(determinants)(points), determinants(points), atol=1e-5)
