"""Categories at and between the whole scores of the published tables."""

from __future__ import annotations

import pytest

from calcium.categories import (
    RISK_CATEGORIES,
    cac_drs,
    risk_category,
    risk_category_index,
    risk_label,
    rounded_score,
)


@pytest.mark.parametrize(
    ("score", "category"),
    [
        (0.0, "0"),
        (0.499, "0"),
        (0.5, "1-10"),
        (1.0, "1-10"),
        (10.0, "1-10"),
        (10.4, "1-10"),
        (10.5, "11-100"),
        (100.0, "11-100"),
        (100.49, "11-100"),
        (100.6, "101-400"),
        (400.0, "101-400"),
        (400.4, "101-400"),
        (400.5, ">400"),
        (5000.0, ">400"),
    ],
)
def test_category_is_that_of_the_printed_whole_score(score: float, category: str) -> None:
    assert risk_category(score) == category
    assert RISK_CATEGORIES[risk_category_index(score)] == category


@pytest.mark.parametrize(
    ("score", "category"),
    [
        (0.0, "A0"),
        (0.49, "A0"),
        (0.5, "A1"),
        (99.49, "A1"),
        (99.5, "A2"),
        (299.4, "A2"),
        (299.6, "A3"),
        (300.0, "A3"),
    ],
)
def test_cac_drs_changes_at_one_one_hundred_and_three_hundred(score: float, category: str) -> None:
    assert cac_drs(score) == category


def test_half_rounds_up_on_both_sides_of_even_numbers() -> None:
    assert [rounded_score(s) for s in (0.5, 1.5, 2.5, 3.5)] == [1, 2, 3, 4]


def test_every_category_has_its_own_words() -> None:
    assert [risk_label(c) for c in RISK_CATEGORIES] == [
        "very low",
        "low",
        "moderate",
        "moderately high",
        "high",
    ]


@pytest.mark.parametrize("score", [-0.1, float("nan"), float("inf")])
def test_impossible_scores_are_refused(score: float) -> None:
    with pytest.raises(ValueError, match="agatston must be finite and not negative"):
        risk_category(score)
    with pytest.raises(ValueError, match="agatston must be finite and not negative"):
        cac_drs(score)


def test_unknown_category_is_refused() -> None:
    with pytest.raises(ValueError, match="Received: 1-100"):
        risk_label("1-100")
