"""HTML pages from templates: every value escaped, every number formatted in one place."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jinja2

from calcium.categories import RISK_CATEGORIES, rounded_score


def page(template: str, **values: Any) -> str:
    """Fill a template of `pipelines/templates`.

    Args:
        template: Its file name.
        **values: What it refers to; a missing one is an error, not an empty place.
    """
    return _environment().get_template(template).render(**values)


def number(value: float | None, digits: int = 0, unit: str = "") -> str:
    r"""A number for reading: fixed decimals, thin-space thousands, a dash for nothing.

    Example:
        >>> number(1234.56, 1), number(None)
        ('1\u202f234.6', '–')
    """
    if value is None:
        return "–"
    text = f"{value:,.{digits}f}".replace(",", "\u202f").replace("-", "\u2212")
    return f"{text}\u00a0{unit}" if unit else text


def score(value: float | None) -> str:
    r"""An Agatston score for reading: the whole number its category is looked up with.

    Example:
        >>> score(7.5), score(0.4), score(1234.5), score(None)
        ('8', '0', '1\u202f235', '–')
    """
    return number(None if value is None else rounded_score(value))


def category_index(category: str) -> int:
    """Place of a risk category on its scale, 0 to 4."""
    return RISK_CATEGORIES.index(category)


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["score"] = score
    environment.globals["category_index"] = category_index
    return environment
