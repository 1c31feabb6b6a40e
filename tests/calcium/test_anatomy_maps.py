import numpy as np
import pytest

from calcium.anatomy_maps import NO_ANATOMY, STRUCTURES, AnatomyPoints
from calcium.filled_line import filled_line
from calcium.simulation.anatomy import Anatomy

LAD = np.array([[0.0, 0.0, 100.0], [30.0, 0.0, 100.0]])


def test_maps_are_one_inside_and_fall_off_beside():
    anatomy = AnatomyPoints.of(
        {"LAD": LAD, "RCA": LAD + np.array([0.0, 60.0, 0.0])},
        {"ascending": ([[0.0, 200.0, 100.0], [0.0, 200.0, 120.0]], 15.0)},
    )
    places = np.array(
        [[15.0, 0.0, 100.0], [15.0, 6.0, 100.0], [15.0, 0.0, 112.0], [14.0, 200.0, 110.0]]
    )
    maps, known = anatomy.maps(places)
    assert maps.shape == (4, len(STRUCTURES))
    # on the course, one softness beside it, two above it
    assert maps[:3, 0] == pytest.approx(np.exp([0.0, -0.5, -2.0]), abs=0.02)
    assert maps[3].tolist() == pytest.approx([0, 0, 0, 1, 0, 0], abs=1e-3)
    assert known.tolist() == [True, False, True, True, False, False]


def test_far_from_the_origin_maps_are_as_exact():
    far = np.array([2000.0, -3000.0, 1500.0])
    near, there = AnatomyPoints.of({"LCX": LAD}), AnatomyPoints.of({"LCX": LAD + far})
    places = np.random.default_rng(0).normal(0.0, 20.0, (50, 3)) + np.array([0.0, 0.0, 100.0])
    np.testing.assert_allclose(there.maps(places + far)[0], near.maps(places)[0], atol=2e-3)


def test_lines_are_filled_with_points_and_keep_their_ends():
    line = filled_line([[0.0, 0.0, 0.0], [10.0, 0.0, 0.0], [10.0, 0.0, 4.0]], 3.0)
    assert line[[0, -1]].tolist() == [[0, 0, 0], [10, 0, 4]]
    assert np.linalg.norm(np.diff(line, axis=0), axis=1).max() <= 3.0
    assert filled_line([1.0, 2.0, 3.0], 3.0).tolist() == [[1.0, 2.0, 3.0]]


def test_of_nothing_nothing_is_known():
    maps, known = NO_ANATOMY.maps(np.zeros((3, 3)))
    assert not known.any()
    assert not maps.any()
    assert len(AnatomyPoints.of({}).points_mm) == 0


def test_a_closed_ring_has_no_gap():
    angles = np.arange(4) * np.pi / 2
    ring = 15.0 * np.stack([np.cos(angles), np.sin(angles), np.zeros(4)], axis=1)
    maps, _ = AnatomyPoints.of({}, mitral_ring=ring).maps(np.array([[7.5, -7.5, 0.0]]))
    assert maps[0, 5] == pytest.approx(1.0, abs=0.05)


def test_what_is_absent_from_an_annotation_is_not_known():
    anatomy = Anatomy({"LCX": LAD, "other": LAD}, guessed=frozenset({"LCX"}))
    known = anatomy.points().maps(np.zeros((1, 3)))[1]
    assert known.tolist() == [False, True, False, False, False, False]
