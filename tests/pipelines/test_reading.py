"""CT series in DICOM: what is read, in which order, and what is refused by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from pipelines.discovery import find_series
from pipelines.reading import read_scan
from pipelines.reasons import REASONS, UnusableSeries
from pipelines.scan import Scan
from tests.pipelines import dicom_factory as factory
from tests.pipelines.dicom_factory import (
    AXIAL,
    CORONAL,
    OBLIQUE,
    ORIGIN,
    PATIENT,
    PIXEL_SPACING_MM,
    SAGITTAL,
    SPACING_MM,
    hu_pattern,
    make_enhanced,
    make_slices,
    slice_positions,
    write_files,
)

COUNT = 9


def read(folder: Path) -> Scan:
    (candidate,) = find_series([folder])
    return read_scan(candidate)


def refusal(folder: Path) -> UnusableSeries:
    (candidate,) = find_series([folder])
    with pytest.raises(UnusableSeries, match=r"^[A-Z_]+: ") as caught:
        read_scan(candidate)
    assert PATIENT not in str(caught.value)
    assert "4711" not in str(caught.value)
    return caught.value


def voxels(scan: Scan) -> np.ndarray:
    return sitk.GetArrayFromImage(scan.image)


def test_slices_come_in_hu_on_their_own_oblique_grid(tmp_path: Path) -> None:
    write_files(make_slices(COUNT), tmp_path)
    scan = read(tmp_path)
    assert voxels(scan).dtype == np.int16
    assert np.array_equal(voxels(scan), hu_pattern(COUNT))
    normal = np.cross(OBLIQUE[:3], OBLIQUE[3:])
    # Pixel (row 3, column 5) of slice 2, from the definition in DICOM PS3.3 C.7.6.2.1.1.
    expected = (
        np.array(ORIGIN)
        + 5 * PIXEL_SPACING_MM[1] * np.array(OBLIQUE[:3])
        + 3 * PIXEL_SPACING_MM[0] * np.array(OBLIQUE[3:])
        + 2 * SPACING_MM * normal
    )
    assert scan.grid.physical_points([5, 3, 2]) == pytest.approx(expected, abs=1e-6)
    assert scan.slice_spacing_mm == pytest.approx(SPACING_MM, abs=1e-6)


def test_order_of_files_does_not_matter(tmp_path: Path) -> None:
    names = [f"{n:02d}" for n in np.random.default_rng(3).permutation(COUNT)]
    paths = write_files(make_slices(COUNT), tmp_path, names)
    scan = read(tmp_path)
    assert np.array_equal(voxels(scan), hu_pattern(COUNT))
    assert scan.files == tuple(str(path) for path in paths)


@pytest.mark.parametrize(
    "orientation", [AXIAL, (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0), (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)]
)
def test_slices_run_towards_the_head_and_no_pixel_changes_place(
    tmp_path: Path, orientation: tuple[float, ...]
) -> None:
    slices = make_slices(COUNT, orientation=orientation)
    write_files(slices, tmp_path)
    scan = read(tmp_path)
    assert scan.grid.direction_matrix[2, 2] == 1.0
    for number, place in enumerate(slice_positions(COUNT, orientation=orientation)):
        index = np.rint(scan.grid.indices(place)).astype(int)
        assert index[:2].tolist() == [0, 0]
        assert np.array_equal(voxels(scan)[index[2]], hu_pattern(COUNT)[number])


def test_feet_first_series_keep_position_and_orientation(tmp_path: Path) -> None:
    orientation = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    write_files(make_slices(COUNT, orientation=orientation, PatientPosition="FFS"), tmp_path)
    scan = read(tmp_path)
    assert scan.grid.origin == pytest.approx((-31.0, 12.5, -140.0 - 8 * 3.0))
    assert scan.grid.direction_matrix[:, 0].tolist() == [-1, 0, 0]
    assert np.array_equal(voxels(scan), hu_pattern(COUNT)[::-1])


def test_spacing_comes_from_positions_not_from_thickness(tmp_path: Path) -> None:
    slices = make_slices(COUNT, spacing_mm=4.0, SliceThickness=5, SpacingBetweenSlices=5)
    write_files(slices, tmp_path)
    scan = read(tmp_path)
    assert scan.slice_spacing_mm == pytest.approx(4.0, abs=1e-6)
    assert scan.acquisition.slice_thickness_mm == 5.0


def test_rescale_may_differ_from_slice_to_slice(tmp_path: Path) -> None:
    slices = make_slices(COUNT)
    slices[2].RescaleSlope = 2
    slices[5].RescaleIntercept = -1000
    write_files(slices, tmp_path)
    expected = hu_pattern(COUNT).astype(int)
    expected[2] = 2 * (expected[2] + 1024) - 1024
    expected[5] += 24
    assert np.array_equal(voxels(read(tmp_path)), expected)


def test_fractional_rescale_gives_floats(tmp_path: Path) -> None:
    slices = make_slices(COUNT)
    slices[4].RescaleSlope = "0.5"
    write_files(slices, tmp_path)
    expected = hu_pattern(COUNT).astype(float)
    expected[4] = 0.5 * (expected[4] + 1024) - 1024
    scan = read(tmp_path)
    assert voxels(scan).dtype == np.float32
    assert np.array_equal(voxels(scan), expected)


def test_values_beyond_int16_are_not_wrapped(tmp_path: Path) -> None:
    slices = make_slices(COUNT)
    for ds in slices:
        ds.BitsStored, ds.HighBit = 16, 15
    stored = np.frombuffer(slices[3].PixelData, "<u2").copy()
    stored[7] = 65535
    slices[3].PixelData = stored.tobytes()
    write_files(slices, tmp_path)
    expected = hu_pattern(COUNT).astype(np.float32)
    expected[3].flat[7] = 65535 - 1024
    assert np.array_equal(voxels(read(tmp_path)), expected)


def test_signed_padding_is_kept_as_read(tmp_path: Path) -> None:
    slices = make_slices(COUNT)
    for ds, hu in zip(slices, hu_pattern(COUNT), strict=True):
        stored = (hu + 1024).astype("<i2")
        stored[:2] = -2000
        ds.PixelData = stored.tobytes()
        ds.PixelRepresentation, ds.BitsStored, ds.HighBit = 1, 16, 15
    write_files(slices, tmp_path)
    expected = hu_pattern(COUNT)
    expected[:, :2] = -2000 - 1024
    assert np.array_equal(voxels(read(tmp_path)), expected)


@pytest.mark.parametrize("signed", [False, True])
def test_overlays_in_unused_bits_do_not_reach_the_values(tmp_path: Path, signed: bool) -> None:
    slices = make_slices(COUNT)
    for ds, hu in zip(slices, hu_pattern(COUNT), strict=True):
        stored = (hu + (0 if signed else 1024)).astype("<u2")
        ds.PixelData = ((stored & 0x0FFF) | 0x3000).astype("<u2").tobytes()
        ds.PixelRepresentation, ds.RescaleIntercept = int(signed), 0 if signed else -1024
    write_files(slices, tmp_path)
    assert np.array_equal(voxels(read(tmp_path)), hu_pattern(COUNT))


@pytest.mark.parametrize(
    "syntax",
    [uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.RLELossless, uid.JPEGLosslessSV1],
    ids=lambda syntax: syntax.keyword or syntax.name,
)
@pytest.mark.parametrize("signed", [False, True])
def test_lossless_compression_changes_nothing(
    tmp_path: Path, syntax: uid.UID, signed: bool
) -> None:
    shape = (40, 36)  # OpenJPEG wants at least 32 pixels each way
    slices = make_slices(COUNT, shape=shape, intercept=0 if signed else -1024)
    for ds in slices:
        if signed:
            ds.PixelRepresentation, ds.BitsStored, ds.HighBit = 1, 16, 15
        if syntax != uid.JPEGLosslessSV1:
            ds.compress(syntax, generate_instance_uid=False)
    paths = write_files(slices, tmp_path)
    if syntax == uid.JPEGLosslessSV1:
        factory.compress_with_gdcm(paths)
    assert np.array_equal(voxels(read(tmp_path)), hu_pattern(COUNT, shape))


@pytest.mark.parametrize(
    "syntax",
    [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian],
    ids=lambda syntax: syntax.keyword,
)
def test_other_encodings_of_plain_pixels(tmp_path: Path, syntax: uid.UID) -> None:
    slices = make_slices(COUNT)
    for ds in slices:
        if syntax == uid.ExplicitVRBigEndian:
            ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
        ds.file_meta.TransferSyntaxUID = syntax
    write_files(slices, tmp_path)
    assert np.array_equal(voxels(read(tmp_path)), hu_pattern(COUNT))


def test_enhanced_multi_frame_has_its_own_rescale_per_frame(tmp_path: Path) -> None:
    slopes = [1.0, 2.0, 1.0, 4.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    (path,) = write_files([make_enhanced(COUNT, slopes=slopes)], tmp_path)
    scan = read(tmp_path)
    hu = hu_pattern(COUNT).astype(float)
    scale = np.array(slopes)[:, None, None]
    assert np.array_equal(voxels(scan), np.round((hu + 1024) / scale) * scale - 1024)
    assert scan.grid.origin == pytest.approx(ORIGIN, abs=1e-6)
    assert scan.slice_spacing_mm == pytest.approx(SPACING_MM, abs=1e-6)
    assert (scan.acquisition.kvp, scan.acquisition.convolution_kernel) == (100.0, "Qr36")
    assert scan.files == (str(path),)


def test_enhanced_frame_without_position_is_named(tmp_path: Path) -> None:
    ds = make_enhanced(COUNT)
    del ds.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence
    write_files([ds], tmp_path)
    refused = refusal(tmp_path)
    assert refused.code == "CORRUPT_FILE"
    assert "IM0001.dcm, frame 4" in refused.message


def test_acquisition_facts(tmp_path: Path) -> None:
    slices = make_slices(
        COUNT,
        ContrastBolusAgent="Iohexol",
        BodyPartExamined="HEART",
        CalciumScoringMassFactorPatient=0.743,
    )
    write_files(slices, tmp_path)
    facts = read(tmp_path).acquisition
    assert (facts.modality, facts.kvp, facts.convolution_kernel) == ("CT", 120.0, "B35f")
    assert (facts.contrast_agent, facts.manufacturer) == (True, "Maker Model 1")
    assert (facts.body_part, facts.image_type) == ("HEART", ("ORIGINAL", "PRIMARY", "AXIAL"))
    assert facts.calibration_factor_mg_per_hu_cm3 == pytest.approx(0.743)


@pytest.mark.parametrize(
    ("agent", "expected"), [("none", False), ("", None), ("Omnipaque 350", True)]
)
def test_contrast_agent_is_what_the_header_names(
    tmp_path: Path, agent: str, expected: bool | None
) -> None:
    write_files(make_slices(COUNT, ContrastBolusAgent=agent), tmp_path)
    assert read(tmp_path).acquisition.contrast_agent is expected


@pytest.mark.parametrize(("factors", "expected"), [([0.7, 0.8, 0.9], None), ([0.8] * 3, 0.8)])
def test_device_factor_counts_only_if_it_holds_for_all_patients(
    tmp_path: Path, factors: list[float], expected: float | None
) -> None:
    write_files(make_slices(COUNT, CalciumScoringMassFactorDevice=factors), tmp_path)
    factor = read(tmp_path).acquisition.calibration_factor_mg_per_hu_cm3
    assert factor == (None if expected is None else pytest.approx(expected))


def test_mixed_kernels_and_lossy_compression_are_noted(tmp_path: Path) -> None:
    slices = make_slices(COUNT)
    slices[0].ConvolutionKernel = "B60f"
    slices[1].LossyImageCompression = "01"
    write_files(slices, tmp_path)
    scan = read(tmp_path)
    assert scan.warnings == ("MIXED_SETTINGS", "LOSSY")
    assert scan.acquisition.convolution_kernel == "B35f/B60f"


def test_identity_depends_on_content_alone(tmp_path: Path) -> None:
    slices = make_slices(COUNT)
    write_files(slices, tmp_path / "a")
    write_files(slices[::-1], tmp_path / "b", [f"x{n}" for n in range(COUNT)])
    first, second = read(tmp_path / "a"), read(tmp_path / "b")
    assert first.content_hash == second.content_hash
    assert first.scan_id == first.content_hash[:12] == find_series([tmp_path / "b"])[0].scan_id
    slices[0].InstanceNumber = 77
    write_files(slices, tmp_path / "c")
    assert read(tmp_path / "c").content_hash != first.content_hash


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
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"], "Modality": "OT"}, "NOT_CT"),
    ],
)
def test_what_is_no_stack_of_ct_slices_is_refused(
    tmp_path: Path, attributes: dict[str, Any], code: str
) -> None:
    write_files(make_slices(COUNT, **attributes), tmp_path)
    assert refusal(tmp_path).code == code


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
