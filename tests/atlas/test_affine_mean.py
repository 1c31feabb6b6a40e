import numpy as np
import pytest

from atlas.affine_mean import AffineMeanBuilder, AtlasRound, without_drift
from registration.affine_refinement import RefinementLevel
from registration.geometry import Ellipsoid, ImageGrid
from registration.preprocessing import prepare_volume
from tests.registration.torso import HEART, mean_distance_mm, oblique_chest_grid, torso_scan

GRID = ImageGrid.centered((90, 70, 80), (4.0, 4.0, 4.0), (0.0, 0.0, 0.0))
ROUNDS = (
    AtlasRound(
        Ellipsoid((0.0, 0.0, 0.0), (150.0, 110.0, 130.0)), (RefinementLevel(10.0, 14.0, 20),), 1e-5
    ),
    AtlasRound(HEART.scaled(1.2), (RefinementLevel(4.0, 8.0, 15),), 1e-5),
)


@pytest.fixture(scope="module")
def cohort():
    """Four torsos that differ by known affines, whose mean is about the identity."""
    stretch = np.diag([0.1, -0.06, 0.05])
    turn = np.array([[0.0, -0.1, 0.03], [0.1, 0.0, -0.05], [-0.03, 0.05, 0.0]])
    known = []
    for number, change in enumerate((stretch, -stretch, turn, -turn)):
        matrix = np.eye(4)
        matrix[:3, :3] += change
        matrix[:3, 3] = (40.0 * number, -25.0, 200.0 + 30.0 * number)
        known.append(matrix)
    members = [
        prepare_volume(torso_scan(oblique_chest_grid(tuple(matrix[:3, 3])), matrix))
        for matrix in known
    ]
    return members, known


@pytest.fixture(scope="module")
def built(cohort):
    lines = []
    return AffineMeanBuilder(GRID, report=lines.append).build(cohort[0], ROUNDS), lines


def test_members_are_brought_into_register(cohort, built):
    _, known = cohort
    mean, lines = built
    # Where member 0 has a point of the heart, members 1 to 3 must have the same point.
    for found, truth in zip(mean.transforms[1:], known[1:], strict=True):
        between = found @ np.linalg.inv(mean.transforms[0])
        expected = truth @ np.linalg.inv(known[0])
        region = Ellipsoid(tuple((known[0] @ [25.0, -30.0, -10.0, 1.0])[:3]), HEART.radii_mm)
        assert mean_distance_mm(between, expected, region) < 3.0
    assert min(mean.similarities) > 0.95
    assert mean.changes_mm[1] < mean.changes_mm[0]
    assert len(lines) == len(ROUNDS)


def test_atlas_has_the_mean_size_of_its_members(built):
    linear = np.mean([matrix[:3, :3] for matrix in built[0].transforms], axis=0)
    np.testing.assert_allclose(linear, np.eye(3), atol=1e-6)


def test_drift_is_removed_about_the_given_point():
    rng = np.random.default_rng(0)
    transforms = [np.eye(4) for _ in range(3)]
    for matrix in transforms:
        matrix[:3, :3] += rng.normal(0, 0.1, (3, 3)) + 0.2 * np.eye(3)
        matrix[:3, 3] = rng.normal(0, 50, 3)
    center = np.array([5.0, -8.0, 30.0, 1.0])
    fixed = without_drift(transforms, center[:3])
    np.testing.assert_allclose(np.mean([m[:3, :3] for m in fixed], axis=0), np.eye(3), atol=1e-12)
    for before, after in zip(transforms, fixed, strict=True):
        np.testing.assert_allclose(after @ center, before @ center)


def test_refuses_a_cohort_of_one_and_starts_for_another_number(cohort):
    members, _ = cohort
    builder = AffineMeanBuilder(GRID)
    with pytest.raises(ValueError, match=r"at least two members. Received: 1"):
        builder.build(members[:1], ROUNDS)
    with pytest.raises(ValueError, match=r"one start per member. Received: 1 for 4"):
        builder.build(members, ROUNDS, starts=[np.eye(4)])
    with pytest.raises(ValueError, match=r"least_members must be positive. Received: 0"):
        AffineMeanBuilder(GRID, least_members=0)
