"""How files of a DICOM series are altered: harmlessly, beyond use, or so that their headers lie.

A change gets the files by name, ordered from feet to head, and alters them in place: a dataset is
written as DICOM, bytes as they are. `fault_kinds.py` says what is made of them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from copy import deepcopy
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

Files = dict[str, Any]
"""Datasets or bytes by file name."""


def encoded(dataset: Dataset) -> bytes:
    """A dataset as the bytes of a DICOM file."""
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def set_values(**values: Any) -> Callable[[Files], None]:
    """Give every file the values of these keywords."""

    def change(files: Files) -> None:
        for dataset in files.values():
            for keyword, value in values.items():
                setattr(dataset, keyword, value)

    return change


def _middle(files: Files) -> str:
    return list(files)[len(files) // 2]


def middle_one(change: Callable[[Dataset], None]) -> Callable[[Files], None]:
    return lambda files: change(files[_middle(files)])


def _position(dataset: Dataset) -> NDArray[np.float64]:
    return np.array([float(value) for value in dataset.ImagePositionPatient])


def _place(dataset: Dataset, position: NDArray[np.float64]) -> None:
    dataset.ImagePositionPatient = [f"{value:.6f}" for value in position]


def _axes(dataset: Dataset) -> NDArray[np.float64]:
    """Directions of a row, of a column, and of the stack."""
    row, column = np.array([float(v) for v in dataset.ImageOrientationPatient]).reshape(2, 3)
    return np.array([row, column, np.cross(row, column)])


def _spacing(files: Files) -> float:
    """Distance between the slices in the middle, mm."""
    first, second = list(files.values())[len(files) // 2 - 1 : len(files) // 2 + 1]
    return float(np.linalg.norm(_position(second) - _position(first)))


def _with_pixels(
    dataset: Dataset, change: Callable[[NDArray[np.int32]], NDArray[np.int32]]
) -> None:
    """Change the stored values; they are written uncompressed, with the sign they had."""
    values = change(dataset.pixel_array.astype(np.int32))
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    kind = np.int16 if dataset.PixelRepresentation else np.uint16
    bounds = np.iinfo(kind)
    dataset.Rows, dataset.Columns = values.shape
    dataset.PixelData = np.clip(values, bounds.min, bounds.max).astype(kind).tobytes()
    dataset["PixelData"].VR = "OW"


def _replace(files: Files, new: Files) -> None:
    files.clear()
    files.update(new)


# Nothing is wrong


def leave(files: Files) -> None:
    pass


def rename(files: Files) -> None:
    order = np.random.default_rng(0).permutation(len(files))
    items = list(files.values())
    _replace(files, {f"A{n:05d}": items[k] for n, k in enumerate(order)})


def add_other_files(files: Files) -> None:
    files["notes.txt"] = b"see also the other folder\n"
    files["Thumbs.db"] = bytes(range(256)) * 16
    files["empty"] = b""
    files["report.pdf"] = b"%PDF-1.4\n%nothing of ours\n"


def write_twice(files: Files) -> None:
    files.update({f"copy-{name}": encoded(item) for name, item in files.items()})


def put_in_zip(files: Files) -> None:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, item in files.items():
            archive.writestr(f"series/{name}", encoded(item))
    _replace(files, {"series.zip": stream.getvalue()})


def decompress(dataset: Dataset) -> None:
    _with_pixels(dataset, lambda values: values)


def compress(dataset: Dataset) -> None:
    decompress(dataset)
    dataset.compress(RLELossless, generate_instance_uid=False)


def make_implicit(dataset: Dataset) -> None:
    decompress(dataset)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


def drop_preamble(files: Files) -> None:
    for name, item in files.items():
        files[name] = encoded(item)[128 + 4 :]


def store_from_below(dataset: Dataset) -> None:
    """The same image with its last row first, as its orientation then says."""
    row, column, _ = _axes(dataset)
    height = float(dataset.PixelSpacing[0]) * (dataset.Rows - 1)
    _place(dataset, _position(dataset) + height * column)
    dataset.ImageOrientationPatient = [f"{value:.6f}" for value in (*row, *-column)]
    _with_pixels(dataset, lambda values: values[::-1])


def store_hu(dataset: Dataset) -> None:
    """Hounsfield units themselves, signed, with an intercept of zero."""
    slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
    values = dataset.pixel_array.astype(np.float64) * slope + intercept
    dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 1, 16, 15
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    if "PixelPaddingValue" in dataset:
        del dataset.PixelPaddingValue
    _with_pixels(dataset, lambda _: np.round(values).astype(np.int32))


def round_positions(dataset: Dataset) -> None:
    dataset.ImagePositionPatient = [f"{value:.2f}" for value in _position(dataset)]


def add_localizer(files: Files) -> None:
    scout = deepcopy(files[_middle(files)])
    scout.SOPClassUID, scout.SOPInstanceUID = CTImageStorage, generate_uid()
    scout.file_meta.MediaStorageSOPInstanceUID = scout.SOPInstanceUID
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    files["scout.dcm"] = scout


# The files cannot be scored


def drop_middle(files: Files) -> None:
    del files[_middle(files)]


def drop_several(files: Files) -> None:
    names = list(files)
    for share in (0.4, 0.5, 0.6):
        files.pop(names[int(share * len(names))])


def cut_file(files: Files) -> None:
    name = _middle(files)
    whole = encoded(files[name])
    files[name] = whole[: len(whole) * 2 // 3]


def empty_file(files: Files) -> None:
    files[_middle(files)] = b""


def break_zip(files: Files) -> None:
    put_in_zip(files)
    files["series.zip"] = files["series.zip"][: len(files["series.zip"]) // 2]


def second_image(files: Files) -> None:
    other = deepcopy(files[_middle(files)])
    _with_pixels(other, lambda values: values[:, ::-1])
    other.SOPInstanceUID = generate_uid()
    other.file_meta.MediaStorageSOPInstanceUID = other.SOPInstanceUID
    files["again.dcm"] = other


def move_one(files: Files) -> None:
    dataset = files[_middle(files)]
    _place(dataset, _position(dataset) + 0.3 * _spacing(files) * _axes(dataset)[2])


def tilt(files: Files) -> None:
    start = _position(next(iter(files.values())))
    for dataset in files.values():
        _, column, normal = _axes(dataset)
        along = (_position(dataset) - start) @ normal
        _place(dataset, _position(dataset) + np.tan(np.radians(12.0)) * along * column)


def turn_one(dataset: Dataset) -> None:
    angle = np.radians(5.0)
    row, column, _ = _axes(dataset)
    turned = np.cos(angle) * row + np.sin(angle) * column
    dataset.ImageOrientationPatient = [
        f"{v:.6f}" for v in (*turned, *(np.cos(angle) * column - np.sin(angle) * row))
    ]


def zoom_one(dataset: Dataset) -> None:
    dataset.PixelSpacing = [1.2 * float(value) for value in dataset.PixelSpacing]


def drop_keyword(keyword: str) -> Callable[[Dataset], None]:
    return lambda dataset: delattr(dataset, keyword)


def keep_part(first: float, last: float) -> Callable[[Files], None]:
    """Keep the slices between two shares of the stack, from the feet."""

    def change(files: Files) -> None:
        names = list(files)
        kept = names[int(first * len(names)) : max(1, int(last * len(names)))]
        _replace(files, {name: files[name] for name in kept})

    return change


def keep_four(files: Files) -> None:
    _replace(files, dict(list(files.items())[:4]))


def make_coronal(files: Files) -> None:
    start, step = _position(next(iter(files.values()))), _spacing(files)
    for number, dataset in enumerate(files.values()):
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
        _place(dataset, start + np.array([0.0, step * number, 0.0]))


def raise_values(dataset: Dataset) -> None:
    dataset.RescaleIntercept = float(dataset.RescaleIntercept) + 1024.0


def export_window(dataset: Dataset) -> None:
    """256 gray values of a mediastinal window, as some viewers export, under the old header."""
    slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
    _with_pixels(
        dataset,
        lambda v: np.clip((v * slope + intercept + 135.0) / 350.0 * 255.0, 0, 255).astype(np.int32),
    )


# Sound files that are not what their headers say


def turn_upside_down(files: Files) -> None:
    places = [list(item.ImagePositionPatient) for item in files.values()]
    for item, place in zip(files.values(), reversed(places), strict=True):
        item.ImagePositionPatient = place


def shuffle(files: Files) -> None:
    places = [list(item.ImagePositionPatient) for item in files.values()]
    order = np.random.default_rng(1).permutation(len(places))
    for item, k in zip(files.values(), order, strict=True):
        item.ImagePositionPatient = places[k]


def stretch(files: Files) -> None:
    start = _position(next(iter(files.values())))
    for dataset in files.values():
        _place(dataset, start + 2.0 * (_position(dataset) - start))


def scale_pixels(factor: float) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        dataset.PixelSpacing = [factor * float(value) for value in dataset.PixelSpacing]

    return change


def pixels(
    change: Callable[[NDArray[np.int32]], NDArray[np.int32]],
) -> Callable[[Dataset], None]:
    return lambda dataset: _with_pixels(dataset, change)


def each(change: Callable[[Dataset], None]) -> Callable[[Files], None]:
    """Do it to every file of a series."""

    def change_all(files: Files) -> None:
        for dataset in files.values():
            change(dataset)

    return change_all


def mix_voltages(files: Files) -> None:
    for number, dataset in enumerate(files.values()):
        dataset.KVP = 100 if number > len(files) // 2 else 120
