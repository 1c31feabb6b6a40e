"""Stored values, from every encoding that a header may announce."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread, uid
from pydicom.dataset import Dataset

from pipelines.dicom_pixels import UndecodableImage, has_pixel_data, stored_values, transfer_syntax
from tests.pipelines.dicom_factory import SHAPE, hu_pattern, make_slices


@pytest.fixture
def ds() -> Dataset:
    return make_slices(1)[0]


@pytest.mark.parametrize(
    ("implicit", "little", "expected"),
    [
        (True, True, uid.ImplicitVRLittleEndian),
        (False, True, uid.ExplicitVRLittleEndian),
        (False, False, uid.ExplicitVRBigEndian),
    ],
)
def test_a_file_without_transfer_syntax_is_read_as_it_was_parsed(
    ds: Dataset, implicit: bool, little: bool, expected: uid.UID
) -> None:
    stream = BytesIO()
    if not little:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    del ds.file_meta
    ds.save_as(stream, implicit_vr=implicit, little_endian=little)
    again = dcmread(BytesIO(stream.getvalue()), force=True)
    assert transfer_syntax(again) == expected
    if little:  # pydicom itself cannot tell the other order without being told
        assert np.array_equal(stored_values(again)[0], hu_pattern(1)[0] + 1024)


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("signed", [False, True])
def test_plain_values_of_every_size(ds: Dataset, bits: int, signed: bool) -> None:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    values = np.random.default_rng(bits).integers(low, high, SHAPE)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PixelRepresentation = int(signed)
    ds.PixelData = values.astype(f"<{'i' if signed else 'u'}{bits // 8}").tobytes()
    assert np.array_equal(stored_values(ds)[0], values)


def test_values_at_the_upper_end_of_a_word_are_refused(ds: Dataset) -> None:
    ds.BitsStored, ds.HighBit = 12, 15
    with pytest.raises(UndecodableImage, match="bit 15"):
        stored_values(ds)


def test_the_sign_bit_is_the_highest_stored_bit(ds: Dataset) -> None:
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, 1
    ds.Rows, ds.Columns = 1, 4
    ds.PixelData = np.array([0x0FFF, 0x0800, 0x07FF, 0xF001], "<u2").tobytes()
    assert stored_values(ds).ravel().tolist() == [-1, -2048, 2047, 1]


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"PixelData": b""}, "no pixel data"),
        ({"Rows": 0}, "no image size"),
        ({"Columns": None}, "no image size"),
        ({"NumberOfFrames": -1}, "no image size"),
        ({"BitsAllocated": 12}, "12 bits stored in 12 cannot be read"),
        ({"BitsStored": 17}, "17 bits stored in 16 cannot be read"),
        ({"BitsStored": None}, "None bits stored in 16 cannot be read"),
        ({"Rows": 13}, "cut short: 384 of 416 bytes"),
        ({"SamplesPerPixel": 3}, "3 color channels"),
    ],
)
def test_headers_that_do_not_fit_the_pixels(
    ds: Dataset, attributes: dict[str, object], words: str
) -> None:
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    with pytest.raises(UndecodableImage, match=words):
        stored_values(ds)


@pytest.mark.parametrize("syntax", [uid.JPEGLSLossless, uid.RLELossless])
@pytest.mark.parametrize("rows", [11, 13])
def test_an_image_of_another_size_than_announced_is_refused(
    ds: Dataset, syntax: uid.UID, rows: int
) -> None:
    ds.compress(syntax)
    ds.Rows = rows
    with pytest.raises(UndecodableImage, match="the compressed image is damaged"):
        stored_values(ds)


@pytest.mark.parametrize(
    ("syntax", "words"),
    [
        (uid.MPEG2MPML, "not an image compression"),
        (uid.UID("1.2.3.4.5"), "not an image compression"),
        (uid.JPEGLSLossless, "damaged"),
        (uid.RLELossless, "damaged"),
    ],
)
def test_compressions_that_are_none(ds: Dataset, syntax: uid.UID, words: str) -> None:
    ds.file_meta.TransferSyntaxUID = syntax
    ds["PixelData"].is_undefined_length = True
    with pytest.raises(UndecodableImage, match=words):
        stored_values(ds)


def test_pixels_of_floats_are_not_pixel_data(ds: Dataset) -> None:
    del ds.PixelData
    ds.FloatPixelData = bytes(4)
    assert not has_pixel_data(ds)
