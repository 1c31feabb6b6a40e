import numpy as np

from registration.dense_inverse import inverse_of_warps
from registration.geometry import ImageGrid
from registration.transforms import moving_points

GRID = ImageGrid((18, 24, 20), (2.0, 2.5, 3.0), (-21.0, 5.0, -30.0))


def moved(index: np.ndarray) -> np.ndarray:
    """A map in closed form: along z a third as wide, along y shifted, along x back and forth."""
    z, y, x = np.moveaxis(index, -1, 0)
    return np.stack([9.5 + 0.3 * (z - 9.5), y + 7.0, x + 1.5 * np.sin(2 * np.pi * x / 17.0)], -1)


def field() -> np.ndarray:
    index = np.stack(np.indices(GRID.shape), axis=-1).astype(float)
    return moved(index) - index


def points(index: np.ndarray) -> np.ndarray:
    return GRID.physical_points(index[:, ::-1])


def test_every_point_of_the_atlas_comes_back_also_where_it_leaves_the_lattice():
    index = np.random.default_rng(0).uniform(0.0, 1.0, (300, 3)) * (np.array(GRID.shape) - 1)
    back = moving_points(inverse_of_warps(field(), GRID), points(moved(index)))
    assert (moved(index)[:, 1] > GRID.shape[1] - 1).sum() > 50
    # in the subject, where a label would be drawn
    error = np.abs(moved(GRID.indices(back)[:, ::-1]) - moved(index))
    np.testing.assert_allclose(error[:, 1], 0.0, atol=1e-9)
    assert error.max() < 0.25  # curved, and kinked at the faces, but looked up linearly
    assert error.mean() < 0.03


def test_what_the_atlas_does_not_show_comes_out_beyond_it():
    hidden = np.array([[9.0, 3.0, 8.0], [10.0, 6.0, 4.0], [1.0, 15.0, 8.0]])
    back = moving_points(inverse_of_warps(field(), GRID), points(hidden))
    assert not GRID.contains(back).any()
