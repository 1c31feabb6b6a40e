import math

import numpy as np
import pytest
import SimpleITK as sitk

from registration.geometry import ImageGrid
from registration.registrar import Registration
from registration.transforms_dense import displacement_field_transform

GRID = ImageGrid((12, 10), (2.0, 0.5), (-4.0, 30.0))


def labels(columns):
    """Rows 2 to 5 of some columns."""
    array = np.zeros(GRID.shape, np.uint8)
    array[2:6, columns] = 1
    return GRID.to_image(array)


def pair(name="case", fixed=slice(3, 7), moving=slice(4, 8)):
    from registration_pairs import LabeledPair

    image = GRID.empty_image()
    return LabeledPair(name, image, image, labels(fixed), labels(moving))


class Shift:
    name = "shift"

    def __init__(self, *mm):
        self.mm = mm

    def register(self, fixed, moving):
        stages = tuple(sitk.TranslationTransform(2, (mm, 0.0)) for mm in self.mm)
        return Registration(stages, tuple(0.25 * (k + 1) for k in range(len(stages))))


class Failing:
    name = "failing"

    def register(self, fixed, moving):
        raise RuntimeError("too few samples")


def test_labels_are_carried_over_along_the_pull_back():
    from registration_pairs import Measurement

    # 4 x 4 pixels each; without registration 3 of 4 columns overlap, and then all
    before = Measurement({"lv": 1}).of_pair(pair(), sitk.Transform(2, sitk.sitkIdentity))
    assert before["dice_lv"] == pytest.approx(2 * 12 / 32)
    after = Measurement({"lv": 1}).of_pair(pair(), sitk.TranslationTransform(2, (2.0, 0.0)))
    assert after["dice_lv"] == 1.0
    assert (after["hausdorff_lv_mm"], after["mean_lv_mm"]) == (0.0, 0.0)
    assert (after["folding_percent"], after["sd_jacobian"]) == (0.0, pytest.approx(0.0, abs=1e-9))


def test_images_are_correlated_where_the_moving_one_reaches():
    from registration_pairs import correlation

    values = np.random.default_rng(0).uniform(0, 100, GRID.shape)
    shifted = np.roll(values, 2, axis=1)
    fixed, moving = GRID.to_image(values), GRID.to_image(shifted * 3.0 + 7.0)
    right = sitk.TranslationTransform(2, (2 * 2.0, 0.0))
    # the two columns whose partner lies outside would spoil it
    assert correlation(fixed, moving, right) == pytest.approx(1.0)
    still = sitk.Transform(2, sitk.sitkIdentity)
    expected = np.corrcoef(values.ravel(), shifted.ravel())[0, 1]
    assert correlation(fixed, moving, still) == pytest.approx(expected)
    far = sitk.TranslationTransform(2, (1e4, 0.0))
    assert math.isnan(correlation(fixed, moving, far))
    assert math.isnan(correlation(GRID.empty_image(), moving, still))


@pytest.mark.parametrize(("unit", "expected"), [("px", 1.0), ("mm", 2.0)])
def test_distances_are_in_pixels_or_millimeters(unit, expected):
    from registration_pairs import Measurement

    row = Measurement({"lv": 1}, unit=unit).of_pair(pair(), sitk.Transform(2, sitk.sitkIdentity))
    assert row[f"hausdorff_lv_{unit}"] == pytest.approx(expected)


def test_a_mirrored_axis_folds_everywhere():
    from registration_pairs import Measurement

    mirror = sitk.AffineTransform(2)
    mirror.SetMatrix((-1.0, 0.0, 0.0, 1.0))
    row = Measurement({"lv": 1}).of_pair(pair(), mirror)
    assert row["folding_percent"] == 100.0


@pytest.mark.parametrize(("unit", "pixel"), [("px", 1.0), ("mm", 2.0)])
def test_bending_energy_is_that_of_a_squared_ramp_in_the_unit_of_the_table(unit, pixel):
    from registration_pairs import Measurement

    field = np.zeros((*GRID.shape, 2))
    field[..., 1] = 0.02 * np.arange(GRID.size[0]) ** 2  # along x, pixels
    transform = displacement_field_transform(field, GRID)
    row = Measurement({"lv": 1}, unit=unit).of_pair(pair(), transform)
    assert row[f"bending_energy_per_{unit}2"] == pytest.approx((2 * 0.02 / pixel) ** 2, rel=1e-5)
    assert row["sd_jacobian"] == pytest.approx(np.std(1 + np.gradient(field[0, :, 1])), rel=1e-5)


def test_every_stage_has_a_row_and_a_time():
    from registration_pairs import Measurement, Method, measure_methods

    method = Method(("first", "second"), lambda: Shift(0.0, 2.0))
    rows, _ = measure_methods([method], [pair("a"), pair("b")], Measurement({"lv": 1}))
    assert [(r["method"], r["case"]) for r in rows] == [
        ("first", "a"), ("second", "a"), ("first", "b"), ("second", "b"),
    ]  # fmt: skip
    assert [r["dice_lv"] for r in rows[:2]] == [pytest.approx(0.75), 1.0]
    assert rows[0]["seconds"] == 0.25
    assert rows[1]["seconds"] > 0.0


def test_a_method_that_fails_counts_as_not_registered():
    from registration_pairs import Measurement, Method, measure_methods

    rows, notes = measure_methods([Method(("failing",), Failing)], [pair()], Measurement({"lv": 1}))
    assert rows[0]["dice_lv"] == pytest.approx(0.75)
    assert any("failed on 1 of 1 pairs" in note for note in notes)


def test_the_summary_has_mean_and_deviation_and_the_median_time():
    from registration_pairs import summary

    rows = [
        {"method": "m", "dice_lv": d, "mean_lv_mm": m, "folding_percent": f, "seconds": s}
        for d, m, f, s in ((0.8, 1.0, 0.0, 1.0), (0.9, 3.0, 0.2, 2.0), (1.0, math.inf, 0.1, 9.0))
    ]
    columns = {"dice_lv": "Dice", "mean_lv_mm": "ASD mm", "folding_percent": "folding %"}
    assert summary(rows, columns) == [
        {
            "method": "m",
            "pairs": 3,
            "Dice": "0.900 ± 0.100",
            # the infinite distance is left out: 2 ± sqrt(2)
            "ASD mm": "2.00 ± 1.41",
            "folding %": "0.100 (max 0.20)",
            "lost": 1,
            "median s": "2",
        }
    ]


def test_a_report_is_a_file_of_cases_and_a_table(tmp_path):
    from registration_pairs import report

    rows = [{"method": "m", "case": "a", "dice_lv": 0.8, "seconds": 1.0}]
    text = report("name", rows, {"dice_lv": "Dice"}, tmp_path, notes=["A note."], threads=2)
    assert (tmp_path / "name.csv").read_text().splitlines() == [
        "method,case,dice_lv,seconds", "m,a,0.8,1.0",
    ]  # fmt: skip
    assert "| m | 1 | 0.800 ± 0.000 |" in text
    assert "2 thread(s)" in text
    assert "A note." in text
    assert (tmp_path / "name.md").read_text() == text


def test_threads_reach_every_library():
    from benchmark_options import thread_environment

    environment = thread_environment(3)
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] == "3"
    assert environment["TF_NUM_INTRAOP_THREADS"] == "3"
    assert environment["TF_NUM_INTEROP_THREADS"] == "1"


def test_unknown_methods_are_refused(capsys):
    from benchmark_options import options_parser, parse_options

    parser = options_parser("About.", ("none", "elastix"))
    with pytest.raises(SystemExit):
        parse_options(parser, ["--out", "x", "--methods", "none,magic"])
    assert "Received: magic" in capsys.readouterr().err
