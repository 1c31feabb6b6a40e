"""CT series in DICOM: what is read, in which order, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import uid

from pipelines.discovery import find_series
from tests.pipelines import dicom_factory as factory
from tests.pipelines.dicom_factory import (
    AXIAL,
    OBLIQUE,
    ORIGIN,
    PIXEL_SPACING_MM,
    SPACING_MM,
    hu_pattern,
    make_enhanced,
    make_slices,
    slice_positions,
    write_files,
)
from tests.pipelines.only_series import read, refusal, voxels

COUNT = 9


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


def test_values_beyond_int16_are_refused_and_not_wrapped(tmp_path: Path) -> None:
    slices = make_slices(COUNT)
    for ds in slices:
        ds.BitsStored, ds.HighBit = 16, 15
    stored = np.frombuffer(slices[3].PixelData, "<u2").copy()
    stored[7] = 65535
    slices[3].PixelData = stored.tobytes()
    write_files(slices, tmp_path)
    refused = refusal(tmp_path)
    assert refused.code == "NOT_HU"
    assert "-999 to 64511" in refused.message


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
