"""CT series in DICOM that are refused, by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from pipelines.dicom_values import tolerant_reading
from pipelines.reasons import REASONS, UnusableSeries
from tests.pipelines.dicom_factory import (
    AXIAL,
    CORONAL,
    OBLIQUE,
    ORIGIN,
    SAGITTAL,
    hu_pattern,
    make_enhanced,
    make_slices,
    write_files,
    write_zip,
)
from tests.pipelines.only_series import read, refusal, voxels

COUNT = 9


def drop_one(slices: list[Dataset]) -> None:
    del slices[4]


def repeat_one(slices: list[Dataset]) -> None:
    slices[5].ImagePositionPatient = slices[4].ImagePositionPatient


def move_one(slices: list[Dataset]) -> None:
    x, y, z = (float(v) for v in slices[4].ImagePositionPatient)
    normal = np.cross(OBLIQUE[:3], OBLIQUE[3:])
    slices[4].ImagePositionPatient = [f"{v:.6f}" for v in np.array([x, y, z]) + 0.4 * normal]


def shift_one_sideways(slices: list[Dataset]) -> None:
    x, y, z = (float(v) for v in slices[4].ImagePositionPatient)
    moved = np.array([x, y, z]) + 6.0 * np.array(OBLIQUE[:3])
    slices[4].ImagePositionPatient = [f"{v:.6f}" for v in moved]


def drift(slices: list[Dataset]) -> None:
    normal = np.cross(OBLIQUE[:3], OBLIQUE[3:])
    for number, ds in enumerate(slices):
        place = np.array(ORIGIN) + (3.0 * number + 0.1 * max(0, number - 4)) * normal
        ds.ImagePositionPatient = [f"{v:.6f}" for v in place]


def tilt(slices: list[Dataset]) -> None:
    for number, ds in enumerate(slices):
        ds.ImagePositionPatient = [ORIGIN[0], ORIGIN[1], ORIGIN[2] + 3.0 * number]


def turn_one(slices: list[Dataset]) -> None:
    slices[4].ImageOrientationPatient = list(AXIAL)


def turn_one_far(slices: list[Dataset]) -> None:
    slices[8].ImageOrientationPatient = list(CORONAL)


def reshape_one(slices: list[Dataset]) -> None:
    ds = slices[8]
    ds.Rows, ds.Columns = ds.Columns, ds.Rows


def zoom_one(slices: list[Dataset]) -> None:
    slices[8].PixelSpacing = [0.71, 0.5]


def drop_rescale(slices: list[Dataset]) -> None:
    del slices[4].RescaleIntercept


def void_slope(slices: list[Dataset]) -> None:
    slices[4].RescaleSlope = 0


def map_iodine(slices: list[Dataset]) -> None:
    slices[4].RescaleType = "MGML"


def drop_pixels(slices: list[Dataset]) -> None:
    del slices[4].PixelData


def shorten_pixels(slices: list[Dataset]) -> None:
    slices[4].PixelData = slices[4].PixelData[:-40]


def drop_position(slices: list[Dataset]) -> None:
    del slices[4].ImagePositionPatient


def drop_orientation(slices: list[Dataset]) -> None:
    slices[4].ImageOrientationPatient = [1, 0, 0]


def void_pixel_spacing(slices: list[Dataset]) -> None:
    slices[4].PixelSpacing = [0.7, 0]


def color_one(slices: list[Dataset]) -> None:
    slices[4].SamplesPerPixel = 3


def multiply_frames(slices: list[Dataset]) -> None:
    slices[4].NumberOfFrames = 2


def keep_four(slices: list[Dataset]) -> None:
    del slices[4:]


@pytest.mark.parametrize(
    ("mutate", "code", "words"),
    [
        (drop_one, "MISSING_SLICE", r"8 slices every 3\.00 mm, but 6\.00 mm between .*IM0004"),
        (repeat_one, "DUPLICATE_SLICE", r"IM0005\.dcm and .*IM0006\.dcm at -\d+\.\d\d mm"),
        (move_one, "UNEVEN_SPACING", r"3\.40 mm between .*IM0004\.dcm.*IM0005\.dcm"),
        (shift_one_sideways, "UNEVEN_SPACING", r"IM0005\.dcm is shifted sideways by 6\.0 mm"),
        (drift, "UNEVEN_SPACING", r"changes along the scan; .*IM0005\.dcm lies 0\.20 mm"),
        (tilt, "GANTRY_TILT", r"stacked at 5\.0°"),
        (turn_one, "MIXED_ORIENTATION", r"another orientation in .*IM0005\.dcm$"),
        (turn_one_far, "MIXED_ORIENTATION", r"another orientation in .*IM0009\.dcm$"),
        (reshape_one, "MIXED_ORIENTATION", r"12 × 16 pixels, but not .*IM0009\.dcm$"),
        (zoom_one, "MIXED_ORIENTATION", r"another pixel spacing in .*IM0009\.dcm$"),
        (drop_rescale, "NOT_HU", r"RescaleIntercept in .*IM0005\.dcm$"),
        (void_slope, "NOT_HU", r"RescaleSlope .* in .*IM0005\.dcm$"),
        (map_iodine, "NOT_HU", r"IM0005\.dcm are MGML, not HU"),
        (drop_pixels, "CORRUPT_FILE", r"no image in .*IM0005\.dcm, unlike the others"),
        (shorten_pixels, "CORRUPT_FILE", r"IM0005\.dcm: the image is cut short"),
        (drop_position, "CORRUPT_FILE", r"no valid ImagePositionPatient in .*IM0005\.dcm$"),
        (drop_orientation, "CORRUPT_FILE", r"ImageOrientationPatient in .*IM0005\.dcm$"),
        (void_pixel_spacing, "CORRUPT_FILE", r"PixelSpacing is not positive in .*IM0005\.dcm"),
        (color_one, "NOT_CT", r"IM0005\.dcm is a color image"),
        (multiply_frames, "CORRUPT_FILE", r"IM0005\.dcm holds 2 images"),
        (keep_four, "TOO_FEW_SLICES", r"4 slice\(s\)"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_faulty_series_is_refused_by_name(
    tmp_path: Path, mutate: object, code: str, words: str
) -> None:
    slices = make_slices(COUNT)
    names = [f"IM{n + 1:04d}.dcm" for n in range(COUNT)]
    kept = dict(zip([ds.SOPInstanceUID for ds in slices], names, strict=True))
    mutate(slices)  # type: ignore[operator]
    write_files(slices, tmp_path / "series", [kept[ds.SOPInstanceUID] for ds in slices])
    refused = refusal(tmp_path)
    assert refused.code == code
    assert re.search(words, refused.message), refused.message


@pytest.mark.parametrize("orientation", [CORONAL, SAGITTAL])
def test_reformats_are_refused(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    write_files(make_slices(COUNT, orientation=orientation), tmp_path)
    refused = refusal(tmp_path)
    assert refused.code == "NOT_AXIAL"
    assert "90°" in refused.message


def test_positions_rounded_to_a_tenth_are_no_fault(tmp_path: Path) -> None:
    slices = make_slices(COUNT, orientation=AXIAL)
    for number, ds in enumerate(slices):
        ds.ImagePositionPatient = [-31, 12.5, round(-140 + 0.625 * number, 1)]
    write_files(slices, tmp_path)
    assert read(tmp_path).slice_spacing_mm == pytest.approx(0.625, abs=1e-9)


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"Modality": "MR"}, "NOT_CT"),
        ({"Modality": "PT", "SOPClassUID": uid.PositronEmissionTomographyImageStorage}, "NOT_CT"),
        ({"SOPClassUID": uid.SecondaryCaptureImageStorage}, "NOT_CT"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "LOCALIZER"),
        ({"Rows": 0}, "CORRUPT_FILE"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"], "Modality": "OT"}, "NOT_CT"),
    ],
)
def test_what_is_no_stack_of_ct_slices_is_refused(
    tmp_path: Path, attributes: dict[str, Any], code: str
) -> None:
    write_files(make_slices(COUNT, **attributes), tmp_path)
    assert refusal(tmp_path).code == code


def test_a_localizer_may_be_spelled_in_small_letters(tmp_path: Path) -> None:
    with tolerant_reading():
        write_files(make_slices(COUNT, ImageType=["ORIGINAL", "PRIMARY", "localizer"]), tmp_path)
        assert refusal(tmp_path).code == "LOCALIZER"


@pytest.mark.parametrize("count", [COUNT - 1, COUNT + 1, 10**6])
def test_an_enhanced_file_describes_every_image(tmp_path: Path, count: int) -> None:
    ds = make_enhanced(COUNT)
    ds.NumberOfFrames = count
    write_files([ds], tmp_path)
    refused = refusal(tmp_path)
    assert refused.code == "CORRUPT_FILE"
    assert f"holds {count} images and describes {COUNT}" in refused.message


def test_an_archive_in_an_archive_is_told(tmp_path: Path) -> None:
    inner = write_zip(tmp_path / "in.zip", {"a": write_files(make_slices(1), tmp_path / "s")[0]})
    (tmp_path / "study").mkdir()
    write_zip(tmp_path / "study" / "out.zip", {"in.zip": inner})
    refused = refusal(tmp_path / "study")
    assert refused.code == "CORRUPT_FILE"
    assert "lies in another one" in refused.message


def test_near_lossless_compression_is_noted(tmp_path: Path) -> None:
    slices = make_slices(COUNT)
    for ds in slices:
        ds.compress(uid.JPEGLSNearLossless, jls_error=2, generate_instance_uid=False)
    write_files(slices, tmp_path)
    scan = read(tmp_path)
    assert scan.warnings == ("LOSSY",)
    assert np.abs(voxels(scan).astype(int) - hu_pattern(COUNT)).max() <= 2


def test_more_bytes_than_accepted_are_not_even_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(make_slices(COUNT), tmp_path)
    monkeypatch.setattr("pipelines.dicom_series.MAX_SERIES_BYTES", 1000)
    assert refusal(tmp_path).code == "TOO_LARGE"


def test_series_without_any_pixels(tmp_path: Path) -> None:
    slices = make_slices(COUNT)
    for ds in slices:
        del ds.PixelData
    write_files(slices, tmp_path)
    assert refusal(tmp_path).code == "NO_PIXEL_DATA"


def test_structure_sets_are_not_ct(tmp_path: Path) -> None:
    ds = make_slices(1, Modality="RTSTRUCT", SOPClassUID=uid.RTStructureSetStorage)[0]
    del ds.PixelData, ds.Rows, ds.Columns
    ds.StructureSetROISequence = DicomSequence([Dataset()])
    write_files([ds], tmp_path)
    assert refusal(tmp_path).code == "NOT_CT"


def test_more_voxels_than_accepted_are_refused_before_decoding(tmp_path: Path) -> None:
    slices = make_slices(COUNT)
    for ds in slices:
        ds.Rows, ds.Columns = 65535, 65535
    write_files(slices, tmp_path)
    assert refusal(tmp_path).code == "TOO_LARGE"


def test_values_without_air_are_not_hu(tmp_path: Path) -> None:
    write_files(make_slices(COUNT, RescaleIntercept=0), tmp_path)
    refused = refusal(tmp_path)
    assert (refused.code, "air" in refused.message) == ("NOT_HU", True)


def test_run_lengths_that_overrun_are_a_damaged_file(tmp_path: Path) -> None:
    slices = make_slices(COUNT)
    for ds in slices:
        ds.compress(uid.RLELossless, generate_instance_uid=False)
    content = slices[3].PixelData
    # Behind the 80 bytes of item tags and offsets: ten runs of 128 bytes for 192 pixels.
    slices[3].PixelData = content[:80] + bytes([129, 7] * 10) + content[100:]
    write_files(slices, tmp_path)
    refused = refusal(tmp_path)
    assert (refused.code, "IM0004.dcm" in refused.message) == ("CORRUPT_FILE", True)


def test_codes_have_sentences_and_no_others_exist() -> None:
    assert all(sentence.endswith(".") for sentence in REASONS.values())
    with pytest.raises(ValueError, match="code must be one of"):
        UnusableSeries("BECAUSE", "no reason")
