"""Attributes as plain values, whatever stands in the file."""

from __future__ import annotations

from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pipelines.dicom_values import (
    first_item,
    integer,
    number,
    numbers,
    text,
    texts,
    tolerant_reading,
)
from tests.pipelines.dicom_factory import make_slices


@pytest.mark.parametrize("keyword", ["KVP", "SliceThickness"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [("120", 120.0), (" 1.5 ", 1.5), ("-0.5e1", -5.0), ("", None), ("nan", None), ("inf", None)],
)
def test_numbers_in_text(keyword: str, value: str, expected: float | None) -> None:
    with tolerant_reading():
        ds = parsed(keyword, value)
        assert number(ds, keyword) == expected


@pytest.mark.parametrize("value", ["abc", "1,5", "12 0", "1\\\\2"])
def test_what_is_no_number_is_none(value: str) -> None:
    with tolerant_reading():
        assert number(parsed("KVP", value), "KVP") is None


@pytest.mark.parametrize(("value", "expected"), [("4", 4), ("4.0", 4), ("4.5", None), ("", None)])
def test_integers(value: str, expected: int | None) -> None:
    with tolerant_reading():
        assert integer(parsed("SeriesNumber", value), "SeriesNumber") == expected


def test_texts_are_stripped_of_padding() -> None:
    with tolerant_reading():
        ds = parsed("ImageType", "ORIGINAL \\ PRIMARY\\AXIAL ")
        assert texts(ds, "ImageType") == ("ORIGINAL", "PRIMARY", "AXIAL")
        assert text(ds, "ImageType") == "ORIGINAL\\PRIMARY\\AXIAL"


def test_absent_attributes_are_none_or_empty() -> None:
    ds = Dataset()
    assert (text(ds, "KVP"), texts(ds, "ImageType"), numbers(ds, "KVP")) == (None, (), None)


def test_first_item_ends_where_the_way_breaks_off() -> None:
    inner, outer = Dataset(), Dataset()
    inner.PixelSpacing = [1, 2]
    outer.PixelMeasuresSequence = Sequence([inner])
    assert first_item(outer, "PixelMeasuresSequence") is outer.PixelMeasuresSequence[0]
    assert first_item(outer, "PlanePositionSequence") is None
    outer.PlanePositionSequence = Sequence([])
    assert first_item(outer, "PlanePositionSequence") is None


def test_a_value_in_an_unknown_character_set_does_not_raise() -> None:
    with tolerant_reading():
        ds = parsed("SpecificCharacterSet", "NONSENSE")
        assert text(ds, "Manufacturer") == "Maker"


def parsed(keyword: str, value: str) -> Dataset:
    """A dataset read from a file that holds just this text, however wrong."""
    (ds,) = make_slices(1)
    placeholder = "9" * (len(value) + len(value) % 2)
    with tolerant_reading():
        setattr(ds, keyword, placeholder)
    stream = BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    written = value.encode().ljust(len(placeholder))
    tag = ds[keyword].tag
    head = tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little")
    content = bytearray(stream.getvalue())
    start = content.find(head) + 8
    content[start : start + len(written)] = written
    return dcmread(BytesIO(bytes(content)))
