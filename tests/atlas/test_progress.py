import pytest

from atlas.progress import Progress
from atlas.settings import AtlasSettings, Stage

STAGES = (
    Stage("rigid", 1),
    Stage("affine", 3),
    Stage("affine", 2, focused=True),
    Stage("deformable", 2, 8.0, steps=4, shrink=4),
    Stage("deformable", 3, 4.0, steps=4),
)
"""A round takes 1, 1, 1, 1 + 4.5 / 8 and 5.5 units of time."""

SETTINGS = AtlasSettings("other", 2.0, stages=STAGES)
COARSE, FINE, RESULTS = 1.0 + 4.5 / 8.0, 5.5, 6.0


def rounds(*stages, seconds):
    """Records of rounds of these stages after that of the start."""
    records = [{"stage_number": -1, "seconds": 99.0}]
    for number, (stage, took) in enumerate(zip(stages, seconds, strict=True), start=1):
        records.append(
            {
                "round": number, "stage": STAGES[stage].name, "stage_number": stage,
                "stage_over": False, "seconds": took, "similarity": 0.9,
                "held_out_similarity": None, "change": 0.031, "mean_displacement_mm": 0.5,
                "left_out": [],
            }
        )  # fmt: skip
    return records


def left(records, is_mixed=False):
    progress = Progress(SETTINGS, is_mixed)
    return progress.rounds_left(records[-1], records), progress.seconds_left(records[-1], records)


def test_rounds_to_come_are_weighed_by_their_stage():
    records = rounds(0, 1, seconds=(2.0, 2.0))
    count, seconds = left(records)
    assert count == 2 + 2 + 3
    assert seconds == pytest.approx(2.0 * (2 + 2 * COARSE + 3 * FINE + RESULTS))


def test_a_stage_that_is_over_has_no_rounds_left_and_a_focused_one_only_in_mixed_cohorts():
    records = rounds(0, 1, seconds=(2.0, 2.0))
    records[-1]["stage_over"] = True
    assert left(records)[0] == 2 + 3
    assert left(records, is_mixed=True)[0] == 2 + 2 + 3


def test_later_rounds_tell_how_long_rounds_like_them_take():
    records = rounds(0, 1, 3, 3, 4, seconds=(2.0, 2.0, 60.0, 10.0, 70.0))
    # the first deformable round, which starts TensorFlow, does not count
    pace = (10.0 + 70.0) / (COARSE + FINE)
    assert left(records) == (2, pytest.approx((2 * FINE + RESULTS) * pace))
    records = rounds(0, 1, 3, 3, 4, 4, seconds=(2.0, 2.0, 60.0, 10.0, 70.0, 44.0))
    assert left(records) == (1, pytest.approx(44.0 + RESULTS * 44.0 / FINE))


def test_the_time_of_a_build_that_was_recorded_is_foretold():
    """70 CT, 15 rounds: what was left after round 8, seven deformable rounds, took 529 s."""
    stages = (
        Stage("rigid", 1),
        Stage("affine", 2),
        Stage("affine", 5, focused=True),
        Stage("deformable", 2, 16.0, steps=12, shrink=2),
        Stage("deformable", 2, 8.0, steps=10, shrink=2),
        Stage("deformable", 3, 4.0, steps=8),
    )
    progress = Progress(AtlasSettings("ct", 3.0, stages=stages), is_mixed=True)
    seconds = (22.2, 18.8, 27.9, 22.7, 25.2, 18.8, 18.6, 18.1)
    records = [
        {"stage_number": stage, "stage_over": False, "seconds": took}
        for stage, took in zip((0, 1, 1, 2, 2, 2, 2, 2), seconds, strict=True)
    ]
    results = RESULTS * sum(seconds[4:]) / 4
    told = progress.seconds_left(records[-1], records) - results
    assert told == pytest.approx(529.0, rel=0.15)


def test_a_line_says_what_a_round_came_to_and_what_is_left():
    records = rounds(0, 1, seconds=(2.0, 2.0))
    records[-1] |= {"verdict": "similarity gained 0.0100", "held_out_similarity": 0.8765}
    assert Progress(SETTINGS, False).line(records[-1], records) == (
        "round 2 (affine): similarity 0.9000, held out 0.8765; atlas changed 3.1 %; "
        "mean shift 0.50 mm; the stage goes on (similarity gained 0.0100); 2 s; "
        "up to 7 more rounds and the results, about 55 s"
    )
    records = rounds(0, 1, 3, 4, 4, 4, seconds=(2.0,) * 3 + (11.0,) * 3)
    assert (
        Progress(SETTINGS, False)
        .line(records[-1], records)
        .endswith("; 11 s; the results are left, about 12 s")
    )
