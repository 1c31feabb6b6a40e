import numpy as np
import pytest
from keras import ops

from registration.layers.affine_from_votes import AffineFromVotes
from tests.registration.check_layer import check_layer

RNG = np.random.default_rng(3)
TURN = np.array([[1.06, -0.1, 0.04], [0.12, 0.95, 0.0], [-0.05, 0.02, 1.1]])
SHIFT_MM = np.array([4.0, -7.0, 2.5])
SPACING = (1.0, 1.5, 3.0)
SHAPE = (19, 42, 37)
"""Of the image, array order: no multiple of the cells."""
CELLS = (4, 10, 9)


def cell_points():
    """Middles of the cells, (x, y, z) mm from the middle of the image."""
    axes = [
        ((np.arange(count) + 0.5) * 4 - 0.5 - (length - 1) / 2) * step
        for count, length, step in zip(CELLS, SHAPE, SPACING[::-1], strict=True)
    ]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return np.stack([x, y, z], axis=-1)


def votes_of(linear, shift_mm, translation_mm=10.0):
    points = cell_points()
    moves = points @ linear.T + shift_mm - points
    return np.concatenate([moves / translation_mm, np.zeros((*CELLS, 1))], axis=-1)[None]


def fit(votes, **arguments):
    layer = AffineFromVotes(spacing=SPACING, cell_vox=4, **arguments)
    image = np.zeros((1, *SHAPE, 2), np.float32)
    return ops.convert_to_numpy(layer(votes.astype(np.float32), image))[0]


def test_votes_of_an_affine_map_give_that_map():
    found = fit(votes_of(TURN, SHIFT_MM))
    np.testing.assert_allclose(found[:3, 3], SHIFT_MM, atol=0.15)
    # the linear part is held to the identity a little, most along the shortest side
    np.testing.assert_allclose(found[:3, :3], TURN, atol=0.01)
    np.testing.assert_array_equal(found[3], [0, 0, 0, 1])


def test_no_votes_are_the_identity():
    np.testing.assert_allclose(fit(np.zeros((1, *CELLS, 4))), np.eye(4), atol=1e-6)


def test_cells_without_weight_have_no_say():
    votes = votes_of(TURN, SHIFT_MM)
    expected = fit(votes)
    votes[:, :, :3, :2, :3] = 30.0
    votes[:, :, :3, :2, 3] = -40.0
    np.testing.assert_allclose(fit(votes), expected, atol=0.15)
    votes[..., 3] = 0.0
    assert np.abs(fit(votes) - expected).max() > 5.0


def test_a_middle_elsewhere_moves_the_map_along():
    middle = np.array([100.0, -50.0, 20.0])
    found = fit(votes_of(TURN, SHIFT_MM), center_mm=tuple(middle))
    there = found @ [*middle, 1.0]
    at_origin = fit(votes_of(TURN, SHIFT_MM))
    np.testing.assert_allclose(there[:3] - middle, at_origin[:3, 3], atol=1e-3)
    np.testing.assert_allclose(found[:3, :3], at_origin[:3, :3], atol=1e-5)


def test_cells_in_one_plane_leave_the_third_axis_alone():
    layer = AffineFromVotes(cell_vox=8)
    votes = RNG.normal(0, 0.1, (1, 1, 5, 5, 4)).astype(np.float32)
    found = ops.convert_to_numpy(layer(votes, np.zeros((1, 8, 40, 40, 1), np.float32)))[0]
    np.testing.assert_allclose(found[:3, 2], [0, 0, 1], atol=1e-4)


@pytest.mark.parametrize("d", [2, 3])
def test_it_keeps_the_layer_contract(d, tmp_path):
    layer = AffineFromVotes((1.0,) * d, spacing=(1.0, 2.0, 3.0)[:d], cell_vox=4)
    votes = RNG.normal(0, 0.3, (2, *(5, 4, 6)[:d], d + 1))
    image = RNG.normal(0, 1, (2, *(18, 16, 23)[:d], 1))
    check_layer(layer, [votes, image], tmp_path)


def test_spacing_and_middle_have_the_same_axes():
    with pytest.raises(ValueError, match="spacing needs 2 numbers"):
        AffineFromVotes((0.0, 0.0), spacing=(1.0, 1.0, 1.0))
