from benchmarks.scoring_insertions import SETTING, held_out, settings
from calcium.simulation.generator import GeneratorOptions


def test_a_quarter_of_a_patients_scans_get_no_calcium():
    shares = [setting.zero_share for setting in settings(40)]
    assert shares.count(1.0) == 10
    assert shares.count(0.0) == 30


def test_the_setting_is_none_that_trains():
    assert not SETTING.guessed_courses
    assert GeneratorOptions().guessed_courses
    assert SETTING.faint_share != GeneratorOptions().faint_share


def test_patients_held_out_are_those_that_the_model_names():
    assert held_out({"training": {"scoring": {"held_out": ["a", "b"]}}}) == {"a", "b"}
    assert held_out({}) == set()
