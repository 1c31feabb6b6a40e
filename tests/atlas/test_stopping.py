import pytest

from atlas.settings import AtlasSettings, Stage
from atlas.stopping import judged_gain, stage_verdict

STAGE = Stage("affine", 9)
SETTINGS = AtlasSettings("other", 2.0, stages=(STAGE,), tolerance=0.002)


def course(*rounds):
    """Rounds by held-out similarity, change of the atlas and mean shift in mm."""
    return [
        {
            "similarities": {"a": similarity},
            "judges": ["a"],
            "judged_similarity": similarity,
            "change": change,
            "mean_displacement_mm": shift,
        }
        for similarity, change, shift in rounds
    ]


@pytest.mark.parametrize(
    ("rounds", "is_over", "reason"),
    [
        ([(0.90, 0.3, 3.0)], False, "round 1 of at most 9"),
        ([(0.90, 0.3, 3.0), (0.902, 0.3, 3.0)], False, "gained 0.0020"),
        ([(0.90, 0.3, 3.0), (0.9019, 0.3, 3.0)], True, "gained 0.0019, less than 0.002"),
        # one of both is on its way to rest
        ([(0.90, 0.3, 3.0), (0.90, 0.14, 3.0)], False, "change of the atlas still falls"),
        ([(0.90, 0.3, 3.0), (0.90, 0.3, 1.4)], False, "mean shift still falls"),
        ([(0.90, 0.3, 3.0), (0.90, 0.16, 1.6)], True, "mean shift falls no longer"),
        # what is small needs not fall: 0.02 of the spread, a tenth of 2 mm
        ([(0.90, 0.3, 3.0), (0.90, 0.019, 0.19)], True, "the mean shift is small"),
        ([(0.90, 0.3, 3.0), (0.90, 0.021, 0.19)], False, "change of the atlas still falls"),
        # what gets worse does not go on, wherever it is on its way to
        ([(0.90, 0.1, 1.0), (0.88, 0.2, 2.0)], True, "gained -0.0200"),
        ([(0.90, 0.3, 3.0), (0.8999, 0.1, 1.0)], True, "gained -0.0001"),
    ],
)
def test_a_stage_ends_when_nothing_is_gained_and_nothing_comes_to_rest(rounds, is_over, reason):
    verdict = stage_verdict(STAGE, SETTINGS, course(*rounds))
    assert verdict.is_over == is_over
    assert reason in verdict.reason


def test_the_last_round_ends_a_stage_that_still_gains():
    rounds = course((0.8, 0.5, 3.0), (0.9, 0.3, 1.0))
    verdict = stage_verdict(Stage("affine", 2), SETTINGS, rounds)
    assert verdict.is_over
    assert verdict.reason == "round 2 of at most 2; similarity gained 0.1000"
    assert stage_verdict(Stage("rigid", 1), SETTINGS, rounds[:1]).is_over


def test_the_gain_is_that_of_those_who_judged_both_rounds():
    last = {"judges": ["a", "b"], "similarities": {"a": 0.8, "b": 0.9, "c": 0.5}}
    this = {"judges": ["b", "c"], "similarities": {"a": 0.1, "b": 0.91, "c": 0.99}}
    assert judged_gain(last, this) == pytest.approx(0.01)
    nobody = {"judges": ["d"], "similarities": {"d": 0.9}}
    assert judged_gain(last, nobody) is None
    assert not stage_verdict(STAGE, SETTINGS, [last, nobody]).is_over


def test_rounds_of_an_earlier_version_are_compared_by_their_means():
    assert judged_gain({"judged_similarity": 0.8}, {"judged_similarity": 0.81}) == pytest.approx(
        0.01
    )


@pytest.mark.parametrize(
    ("spacing_mm", "rounds", "ends_at"),
    [
        # affine rounds on the heart of 70 CT: five were run, the last two for 0.0005 each
        (
            3.0,
            [
                (0.9195, 0.510, 13.67), (0.9263, 0.104, 4.38), (0.9268, 0.046, 4.27),
                (0.9272, 0.051, 4.32), (0.9277, 0.044, 4.29),
            ],
            4,
        ),
        # affine rounds on all of these CT; a fourth one lost 0.0008
        (3.0, [(0.8573, 0.345, 13.98), (0.9078, 0.081, 3.61), (0.9071, 0.038, 2.63)], 3),
        # affine rounds of 20 hippocampi, 20 held out
        (1.0, [(0.8366, 0.219, 0.49), (0.8413, 0.059, 0.36), (0.8410, 0.034, 0.36)], 3),
        # their B-splines of 4 voxels
        (1.0, [(0.9488, 0.101, 0.144), (0.9524, 0.029, 0.146), (0.9533, 0.022, 0.148)], 3),
    ],
)  # fmt: skip
def test_recorded_stages_end_where_they_gain_no_more(spacing_mm, rounds, ends_at):
    """Numbers of builds on real images, in which a change below 0.02 was waited for in vain."""
    settings = AtlasSettings("other", spacing_mm, stages=(STAGE,))
    verdicts = [
        stage_verdict(STAGE, settings, course(*rounds[: n + 1])).is_over for n in range(len(rounds))
    ]
    assert verdicts.index(True) + 1 == ends_at
