"""Risk categories of a calcium score, with the edges between whole numbers defined.

The tables are written in whole scores (0, 1-10, 11-100, ...), but scores are not
whole. The rule here: round half up to the whole number that reports print, then look
it up. So 0.5 is `1-10`, 10.4 is `1-10`, 10.5 is `11-100`, 100.6 is `101-400`, and no
reader ever sees a number beside a category it does not belong to.
"""

from __future__ import annotations

import math

RISK_CATEGORIES = ("0", "1-10", "11-100", "101-400", ">400")
"""Risk categories in ascending order, as they stand in tables."""

_RISK_UPPER = (0, 10, 100, 400)
"""Last whole score of each category but the highest (Rumberger, Mayo Clin Proc 1999;74:243-252)."""

_RISK_LABELS = ("very low", "low", "moderate", "moderately high", "high")

_CAC_DRS_UPPER = (0, 99, 299)
"""Last whole score of CAC-DRS A0, A1 and A2 (Hecht, J Cardiovasc Comput Tomogr 2018;12:185-191)."""


def rounded_score(agatston: float) -> int:
    """The whole number that is printed for a score: half rounds up, 0.5 is 1.

    Args:
        agatston: Agatston score, not negative.

    Raises:
        ValueError: If the score is negative or not finite.

    Source:
        Own.

    Example:
        >>> [rounded_score(s) for s in (0.0, 0.49, 0.5, 10.4, 100.6)]
        [0, 0, 1, 10, 101]
    """
    if not math.isfinite(agatston) or agatston < 0:
        raise ValueError(f"agatston must be finite and not negative. Received: {agatston}")
    return math.floor(agatston + 0.5)


def risk_category_index(agatston: float) -> int:
    """Position of a score's risk category in `RISK_CATEGORIES`, 0 to 4.

    Raises:
        ValueError: If the score is negative or not finite.

    Source:
        Rumberger et al., Mayo Clin Proc 1999;74:243-252; edges between whole scores own.
    """
    score = rounded_score(agatston)
    return sum(score > upper for upper in _RISK_UPPER)


def risk_category(agatston: float) -> str:
    """Risk category of a score: `0`, `1-10`, `11-100`, `101-400` or `>400`.

    Raises:
        ValueError: If the score is negative or not finite.

    Source:
        Rumberger et al., Mayo Clin Proc 1999;74:243-252; edges between whole scores own.

    Example:
        >>> [risk_category(s) for s in (0.5, 10.4, 100.6)]
        ['1-10', '1-10', '101-400']
    """
    return RISK_CATEGORIES[risk_category_index(agatston)]


def risk_label(category: str) -> str:
    """Plain words for a risk category: `very low` to `high`.

    Raises:
        ValueError: If `category` is none of `RISK_CATEGORIES`.

    Source:
        Rumberger et al., Mayo Clin Proc 1999;74:243-252.

    Example:
        >>> risk_label("101-400")
        'moderately high'
    """
    if category not in RISK_CATEGORIES:
        raise ValueError(
            f"category must be one of {', '.join(RISK_CATEGORIES)}. Received: {category}"
        )
    return _RISK_LABELS[RISK_CATEGORIES.index(category)]


def cac_drs(agatston: float) -> str:
    """CAC-DRS category of a score: `A0` (0), `A1` (1-99), `A2` (100-299), `A3` (300 and more).

    The number of vessels, which CAC-DRS appends as `/N1` to `/N4`, is not known here.

    Raises:
        ValueError: If the score is negative or not finite.

    Source:
        Hecht et al., J Cardiovasc Comput Tomogr 2018;12:185-191.

    Example:
        >>> [cac_drs(s) for s in (0.4, 99.4, 99.5, 300.0)]
        ['A0', 'A1', 'A2', 'A3']
    """
    score = rounded_score(agatston)
    return f"A{sum(score > upper for upper in _CAC_DRS_UPPER)}"
