"""Stored values of DICOM images, decompressed but not yet rescaled."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from pipelines.dicom_values import integer, text

_NATIVE = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)

_PLUGINS = ("pyjpegls", "pydicom", "pylibjpeg", "gdcm")
"""Decoders by preference. One of them decides: pydicom would try the next after a failure, and
some return an image of a damaged file. pyjpegls takes half of GDCM's time on 512² CT slices;
pydicom's own reads run lengths, slower than pylibjpeg but without a crash on damaged ones."""


class UndecodableImage(ValueError):  # noqa: N818 (says what is wrong with the image)
    """Pixel data that cannot be decoded; the message does not name the file."""


def has_pixel_data(ds: Dataset) -> bool:
    """Whether the file holds integer pixel data (7FE0,0010) with any bytes in it."""
    try:
        return "PixelData" in ds and bool(ds.PixelData)
    except Exception:  # a damaged element
        return False


def transfer_syntax(ds: Dataset) -> UID:
    """Transfer syntax of the file, from how it was parsed if the file does not say."""
    if name := text(ds.file_meta, "TransferSyntaxUID"):
        return UID(name)
    implicit, little = ds.original_encoding
    if little is False:
        return ExplicitVRBigEndian
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian


def stored_values(ds: Dataset) -> NDArray[np.integer]:
    """All frames of a gray image as stored, shape `(frames, rows, columns)`.

    Bits beyond BitsStored are cleared, or filled with the sign: old files keep overlays
    in them.

    Args:
        ds: A whole file, pixels included.

    Raises:
        UndecodableImage: If the pixels are missing, cut short, in color, in a
            compression nobody here can read, or do not fit the header.
    """
    if not has_pixel_data(ds):
        raise UndecodableImage("the file holds no pixel data")
    if (samples := integer(ds, "SamplesPerPixel")) not in (None, 1):
        raise UndecodableImage(f"the image has {samples} color channels")
    syntax = transfer_syntax(ds)
    frames = _native_frames(ds, syntax) if syntax in _NATIVE else _decoded_frames(ds, syntax)
    if frames.shape != _shape(ds):
        raise UndecodableImage(f"decoded to {frames.shape}, the header says {_shape(ds)}")
    return frames


def _shape(ds: Dataset) -> tuple[int, int, int]:
    rows, columns = integer(ds, "Rows"), integer(ds, "Columns")
    frames = integer(ds, "NumberOfFrames") or 1
    if not rows or not columns or min(rows, columns, frames) < 1:
        raise UndecodableImage("the header gives no image size")
    return frames, rows, columns


def _native_frames(ds: Dataset, syntax: UID) -> NDArray[np.integer]:
    allocated, stored = integer(ds, "BitsAllocated"), integer(ds, "BitsStored")
    if allocated not in (8, 16, 32) or not stored or not 1 <= stored <= allocated:
        raise UndecodableImage(f"{stored} bits stored in {allocated} cannot be read")
    if (high := integer(ds, "HighBit")) not in (None, stored - 1):
        # old scanners stored values at the upper end of a word; nobody may since
        raise UndecodableImage(f"the highest of {stored} stored bits is said to be bit {high}")
    signed = integer(ds, "PixelRepresentation") == 1
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    shape = _shape(ds)
    expected = int(np.prod(shape)) * allocated // 8
    if len(ds.PixelData) < expected:
        raise UndecodableImage(
            f"the image is cut short: {len(ds.PixelData)} of {expected} bytes are there"
        )
    dtype = np.dtype(f"{order}{'i' if signed else 'u'}{allocated // 8}")
    frames = np.frombuffer(ds.PixelData, dtype, count=int(np.prod(shape))).reshape(shape)
    return _stored_bits(frames.astype(dtype.newbyteorder("="), copy=False), stored)


def _stored_bits(frames: NDArray[np.integer], stored: int) -> NDArray[np.integer]:
    unused = 8 * frames.dtype.itemsize - stored
    return (frames << unused) >> unused if unused else frames


def _decoded_frames(ds: Dataset, syntax: UID) -> NDArray[np.integer]:
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise UndecodableImage(f"{syntax.name} is not an image compression") from error
    if not set(decoder.available_plugins) & set(_PLUGINS):
        raise UndecodableImage(f"{syntax.name} compression cannot be read")
    plugin = next(name for name in _PLUGINS if name in decoder.available_plugins)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="The decoded RLE segment")
            frames, _ = decoder.as_array(ds, raw=True, decoding_plugin=plugin)
    except Exception as error:  # decoders raise almost anything on damaged data
        raise UndecodableImage("the compressed image is damaged") from error
    return frames.reshape((-1, *frames.shape[-2:]))
