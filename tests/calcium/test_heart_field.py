import numpy as np
import pytest

from calcium.heart_field import LATTICE_SIZE, LATTICE_SPACING_MM, HeartField
from registration.geometry import Ellipsoid, ImageGrid

GRID = ImageGrid((150, 130, 20), (1.1, 0.9, 2.5), (-60.0, 31.0, -400.0))
HEART = Ellipsoid((5.0, -3.0, 11.0), (30.0, 25.0, 20.0))


def shift(x, y, z):
    matrix = np.eye(4)
    matrix[:3, 3] = (x, y, z)
    return matrix


def field():
    # the heart center (5, -3, 11) of the atlas lies at (20, 90, -375) of the scan
    return HeartField.locate(GRID, HEART.unit_matrix(shift(15.0, 93.0, -386.0)))


def test_splat_is_the_adjoint_of_gather():
    rng = np.random.default_rng(0)
    rows, cols = rng.integers(0, 130, 400), rng.integers(0, 150, 400)
    values, lattice = rng.random(400), rng.random((LATTICE_SIZE, LATTICE_SIZE))
    left = float((values * field().gather(lattice, rows, cols)).sum())
    right = float((field().splat(values, rows, cols).astype(float) * lattice).sum())
    assert left == pytest.approx(right, rel=1e-6)


def test_attention_of_one_leaves_density_unchanged():
    ones = np.ones((LATTICE_SIZE, LATTICE_SIZE))
    rows, cols = np.array([60, 70]), np.array([75, 90])
    assert field().gather(ones, rows, cols) == pytest.approx([1.0, 1.0])


def test_lattice_middle_shows_the_heart_center():
    coordinates = field().coordinates(10)
    middle = coordinates[127:129, 127:129].mean((0, 1))
    # slice 10 lies at z = -375, the heart center
    assert middle == pytest.approx([0.0, 0.0, 0.0], abs=1e-4)
    step = coordinates[0, 1] - coordinates[0, 0]
    assert step == pytest.approx([LATTICE_SPACING_MM / 30.0, 0.0, 0.0], abs=1e-5)


def test_sample_of_a_linear_ramp_is_the_ramp_at_the_lattice_points():
    y, x = np.mgrid[:130, :150]
    ramp = (2.0 * x - 3.0 * y).astype(np.float32)
    place = field()
    sampled = place.sample(ramp[None])[0]
    row, col = 128, 120
    at_y = place.start_vox[0] + row * LATTICE_SPACING_MM / 0.9
    at_x = place.start_vox[1] + col * LATTICE_SPACING_MM / 1.1
    assert sampled[row, col] == pytest.approx(2.0 * at_x - 3.0 * at_y, abs=1e-3)


def test_slices_reach_is_limited_to_the_heart():
    # 1.3 x 20 mm above and below z = -375, on slices at -400 + 2.5 k
    assert field().slices == (0, 20)
    far = HeartField.locate(GRID, HEART.unit_matrix(shift(15.0, 93.0, -1000.0)))
    assert far.slices[0] == far.slices[1]


def test_candidates_beyond_reach_never_count():
    inside = field().inside_reach(np.array([10, 10]), np.array([66, 66]), np.array([73, 120]))
    # column 120 lies 52 mm left of the center: further than 1.3 x 30 mm
    assert inside.tolist() == [True, False]


def test_oblique_atlas_turns_the_coordinates():
    turn = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    point = turn @ np.array([5.0 + 30.0, -3.0, 11.0, 1.0])
    assert (HEART.unit_matrix(turn) @ point)[:3] == pytest.approx([1.0, 0.0, 0.0])


def test_heart_radii_must_be_positive():
    with pytest.raises(ValueError, match="radii_mm must be positive"):
        Ellipsoid((0.0, 0.0, 0.0), (10.0, 0.0, 10.0))
