"""DICOM attributes as plain Python values: `None` where absent, empty or malformed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from pydicom import config
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

_PLAIN_TEXT = frozenset({"CS", "DS", "IS", "UI"})
"""Value representations of plain ASCII (DICOM PS3.5 6.2), which are split here: pydicom's own
conversion took a tenth of the time of reading a series."""


@contextmanager
def tolerant_reading() -> Iterator[None]:
    """Let pydicom read what real scanners and anonymizers write, without a warning per value.

    What matters is checked by this package itself, value by value.
    """
    with config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def text(ds: Dataset, keyword: str) -> str | None:
    """Stripped text of an attribute; several values are joined by a backslash."""
    values = texts(ds, keyword)
    return "\\".join(values) if any(values) else None


def texts(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """Stripped texts of an attribute of several values, empty if absent."""
    return tuple(str(value).strip(" \0") for value in _values(ds, keyword))


def number(ds: Dataset, keyword: str) -> float | None:
    """Finite number of an attribute of one value."""
    values = numbers(ds, keyword)
    return values[0] if values is not None and len(values) == 1 else None


def integer(ds: Dataset, keyword: str) -> int | None:
    """Whole number of an attribute of one value."""
    value = number(ds, keyword)
    return int(value) if value is not None and value == int(value) else None


def numbers(ds: Dataset, keyword: str, count: int | None = None) -> tuple[float, ...] | None:
    """Finite numbers of an attribute; `None` also if there are not `count` of them.

    Example:
        >>> ds = Dataset()
        >>> ds.PixelSpacing = [0.5, 0.7]
        >>> numbers(ds, "PixelSpacing", 2)
        (0.5, 0.7)
        >>> numbers(ds, "ImagePositionPatient", 3) is None
        True
    """
    try:
        values = tuple(float(str(value)) for value in _values(ds, keyword))
    except (TypeError, ValueError):
        return None
    if not values or (count is not None and len(values) != count):
        return None
    return values if all(math.isfinite(value) for value in values) else None


def first_item(ds: Dataset, *keywords: str) -> Dataset | None:
    """First item of a nested sequence, `None` where the way to it breaks off."""
    for keyword in keywords:
        items = _values(ds, keyword)
        if not items or not isinstance(items[0], Dataset):
            return None
        ds = items[0]
    return ds


def _values(ds: Dataset, keyword: str) -> list[object]:
    # A malformed value makes pydicom raise almost anything: ValueError, TypeError,
    # NotImplementedError, struct.error, LookupError for an unknown character set.
    try:
        element = ds.get_item(keyword)
        if isinstance(element, RawDataElement) and element.VR in _PLAIN_TEXT:
            return _plain_texts(element.value)
        value = ds.get(keyword)
    except Exception:
        return []
    if value is None or value == "":
        return []
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        return [value]
    return list(value)


def _plain_texts(value: bytes | None) -> list[object]:
    stripped = (value or b"").strip(b" \0")
    return list(stripped.decode("ascii").split("\\")) if stripped else []
