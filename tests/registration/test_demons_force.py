import numpy as np
import pytest
from keras import ops

from registration.layers.demons_force import STRUCTURELESS, demons_force


def blob(shift, shape=(21, 19)):
    grids = np.meshgrid(*[np.arange(n, dtype=float) for n in shape], indexing="ij")
    squared = sum((g - (n // 2) - s) ** 2 for g, n, s in zip(grids, shape, shift, strict=True))
    return np.exp(-squared / (2 * 3.0**2)).astype(np.float32)[None] * 3.0


def force(fixed, moving):
    return [ops.convert_to_numpy(part) for part in demons_force(fixed, moving)]


@pytest.mark.parametrize("shift", [(0.4, 0.0), (0.0, -0.3), (0.3, 0.4)])
def test_points_to_where_the_moving_image_has_the_value_of_the_fixed_one(shift):
    parts = force(blob((0.0, 0.0)), blob(shift))
    structure = np.hypot(*np.gradient(blob((0.0, 0.0))[0])) > 0.2
    found = [part[0][structure].mean() for part in parts]
    # of a displacement along an edge its values say nothing: about half of it remains
    assert 0.25 < np.dot(found, shift) / np.dot(shift, shift) < 1.0
    assert np.dot(found, shift) / np.linalg.norm(found) / np.linalg.norm(shift) > 0.99


def test_is_antisymmetric_and_at_most_half_a_voxel():
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 3, (2, 2, 6, 5, 7)).astype(np.float32)
    forward, backward = force(one, other), force(other, one)
    assert len(forward) == 3
    for a, b in zip(forward, backward, strict=True):
        np.testing.assert_allclose(a, -b, atol=1e-6)
    assert np.sqrt(sum(part**2 for part in forward)).max() <= 0.5


def test_equals_the_printed_formula_inside():
    rng = np.random.default_rng(1)
    fixed, moving = rng.normal(size=(2, 1, 8, 9)).astype(np.float32)
    gradient = np.stack(np.gradient((fixed[0] + moving[0]) / 2))
    difference = (fixed - moving)[0]
    expected = (
        difference * gradient / ((gradient**2).sum(0) + difference**2 + STRUCTURELESS)
    )[:, 1:-1, 1:-1]  # fmt: skip
    found = np.stack([part[0] for part in force(fixed, moving)])[:, 1:-1, 1:-1]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_at_the_border_the_only_neighbor_counts_half():
    ramp = np.broadcast_to(np.arange(6, dtype=np.float32), (1, 6)).copy()
    (found,) = force(ramp + 0.5, ramp)
    inside = 0.5 * 1.0 / (1.0 + 0.25 + STRUCTURELESS)
    border = 0.5 * 0.5 / (0.25 + 0.25 + STRUCTURELESS)
    np.testing.assert_allclose(found[0], [border, *[inside] * 4, border], rtol=1e-5)


def test_equal_images_are_at_rest():
    image = blob((0.0, 0.0))
    assert all(np.all(part == 0) for part in force(image, image))
