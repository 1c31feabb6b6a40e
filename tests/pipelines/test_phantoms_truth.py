"""Reference scores of phantoms against sums done by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.phantoms.truth import category, lesion_scores, reader_mask, weight


def blank(shape: tuple[int, int, int] = (3, 9, 9)) -> np.ndarray:
    return np.full(shape, 40, np.int16)


def total(
    hu: np.ndarray, mask: np.ndarray, spacing: tuple[float, float, float], preset: str
) -> float:
    return sum(score for _, score in lesion_scores(hu, mask, spacing, preset))


def test_four_pixels_at_250_hu_score_eight() -> None:
    hu = blank()
    hu[1, 3:5, 3:5] = 250
    assert total(hu, hu > 100, (1.0, 1.0, 3.0), "agatston-1990") == 4 * 2


def test_thin_slices_count_in_proportion_to_their_spacing() -> None:
    hu = np.zeros((4, 4, 4), np.int16)
    hu[:, 0:2, 0:2] = 400
    score = total(hu, hu > 0, (0.5, 0.5, 0.5), "agatston-1990")
    assert score == pytest.approx(4 * 1.0 * 4 * 0.5 / 3)


@pytest.mark.parametrize(
    ("peak", "expected"),
    [(129, 0), (130, 1), (199, 1), (200, 2), (299, 2), (300, 3), (399, 3), (400, 4), (1500, 4)],
)
def test_weight_changes_exactly_at_its_edges(peak: int, expected: int) -> None:
    assert weight(peak) == expected


def test_diagonal_pixels_are_one_lesion_or_two_by_preset() -> None:
    hu = blank((1, 6, 6))
    hu[0, 2, 2], hu[0, 3, 3] = 150, 420
    spacing = (0.8, 0.8, 3.0)
    joined = total(hu, hu >= 130, spacing, "agatston-1990")
    assert joined == pytest.approx(2 * 0.64 * 4)
    assert total(hu, hu >= 130, spacing, "agatston-4conn") == 0.0  # 0.64 mm² each


def test_a_lesion_of_exactly_one_square_millimeter_counts() -> None:
    hu = blank((1, 6, 6))
    hu[0, 2, 2:4] = 150
    assert total(hu, hu >= 130, (0.5, 1.0, 3.0), "agatston-1990") == pytest.approx(1.0)
    assert total(hu, hu >= 130, (0.49, 1.0, 3.0), "agatston-1990") == 0.0


def test_the_reader_marks_whole_lesions_with_visible_plaque_only() -> None:
    hu = blank()
    hu[1, 2:4, 2:5] = 180  # plaque
    hu[1, 6:8, 6:8] = 300  # not coronary
    hu[2, 2:4, 2:4] = 140  # only a trace of plaque
    ours, theirs = np.zeros(hu.shape, np.float32), np.zeros(hu.shape, np.float32)
    ours[1, 2, 2], ours[2, 2, 2], theirs[1, 6:8, 6:8] = 90.0, 20.0, 250.0
    mask = reader_mask(hu, ours, theirs, "agatston-1990")
    expected = np.zeros(hu.shape, bool)
    expected[1, 2:4, 2:5] = True
    np.testing.assert_array_equal(mask, expected)


def test_touching_calcium_is_divided_by_the_larger_signal() -> None:
    hu = blank()
    hu[1, 4, 2:8] = 300
    ours, theirs = np.zeros(hu.shape, np.float32), np.zeros(hu.shape, np.float32)
    ours[1, 4, 2:8] = [250, 240, 180, 80, 20, 0]
    theirs[1, 4, 2:8] = [0, 0, 60, 190, 240, 250]
    mask = reader_mask(hu, ours, theirs, "agatston-1990")
    assert np.flatnonzero(mask[1, 4]).tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("score", "expected"),
    [(0, "0"), (0.49, "0"), (0.5, "1-10"), (10.4, "1-10"), (10.6, "11-100"), (100.6, "101-400"),
     (400.0, "101-400"), (400.5, ">400")],
)  # fmt: skip
def test_category_edges(score: float, expected: str) -> None:
    assert category(score) == expected
