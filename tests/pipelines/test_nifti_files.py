"""NIfTI headers written by hand, byte by byte: what ITK would read in silence is refused."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from pipelines.discovery import find_series
from pipelines.reading import read_scan
from pipelines.reasons import UnusableSeries
from registration.geometry import ImageGrid
from tests.pipelines.dicom_factory import hu_pattern
from tests.pipelines.only_series import read, refusal

COUNT = 7
SPACING = (0.5, 0.5, 3.0)
_DATATYPES = {"i2": 4, "f4": 16, "f8": 64}


def nifti(
    values: NDArray[np.generic],
    *,
    order: str = "<",
    pixdim: tuple[float, ...] = SPACING,
    codes: tuple[int, int] = (0, 1),
) -> bytes:
    """A file whose sform says 0.5 × 0.5 × 3 mm, by the offsets of nifti1.h."""
    header = bytearray(352)
    rows = (SPACING[0], 0, 0, -31, 0, SPACING[1], 0, 12, 0, 0, SPACING[2], -140)
    datatype, bits = _DATATYPES[values.dtype.str[1:]], values.dtype.itemsize * 8
    struct.pack_into(f"{order}i", header, 0, 348)
    struct.pack_into(f"{order}8h", header, 40, 3, *values.shape[::-1], 1, 1, 1, 1)
    struct.pack_into(f"{order}2h", header, 70, datatype, bits)
    struct.pack_into(f"{order}4f", header, 76, 1, *pixdim)
    struct.pack_into(f"{order}f", header, 108, len(header))
    header[123] = 2  # mm
    struct.pack_into(f"{order}2h", header, 252, *codes)
    struct.pack_into(f"{order}12f", header, 280, *rows)
    header[344:348] = b"n+1\0"
    return bytes(header) + values.astype(values.dtype.newbyteorder(order)).tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_sound_header_is_read(tmp_path: Path, order: str) -> None:
    path = tmp_path / "scan.nii"
    path.write_bytes(nifti(hu_pattern(COUNT), order=order))
    scan = read(path)
    assert scan.image.GetSpacing() == pytest.approx(SPACING)
    assert np.array_equal(sitk.GetArrayFromImage(scan.image), hu_pattern(COUNT))


def test_nifti_2_is_named_as_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    path.write_bytes(struct.pack("<i8s", 540, b"n+2\0\r\n\x1a\n") + bytes(9999))
    refused = refusal(path)
    assert (refused.code, "NIfTI-1" in refused.message) == ("CORRUPT_FILE", True)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("pixdim", [(1.0, 1.0, 1.0), (0.5, 0.5, 2.99)])
def test_pixdim_and_sform_must_agree(tmp_path: Path, order: str, pixdim: tuple[float, ...]) -> None:
    path = tmp_path / "scan.nii"
    path.write_bytes(nifti(hu_pattern(COUNT), order=order, pixdim=pixdim))
    refused = refusal(path)
    assert refused.code == "CORRUPT_FILE"
    assert "pixdim and sform give different spacings" in refused.message


def test_without_sform_pixdim_alone_counts(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    path.write_bytes(nifti(hu_pattern(COUNT), pixdim=(0.7, 0.7, 2.5), codes=(1, 0)))
    assert read(path).image.GetSpacing() == pytest.approx((0.7, 0.7, 2.5))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("spacing", [(0.683594, 0.683594, 2.5), (1 / 3, 1 / 3, 0.6)])
@pytest.mark.parametrize("angle_deg", [0.0, 11.0])
@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_headers_that_itk_writes_agree(
    tmp_path: Path, suffix: str, spacing: tuple[float, ...], angle_deg: float, mirror: float
) -> None:
    cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    about_x = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    about_z = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    directions = about_x @ about_z @ np.diag([mirror, 1, 1])
    grid = ImageGrid(
        (16, 12, COUNT), spacing, (-131.0, 212.5, -1140.0), tuple(directions.ravel().tolist())
    )
    sitk.WriteImage(grid.to_image(hu_pattern(COUNT)), str(tmp_path / f"scan{suffix}"))
    assert read(tmp_path).image.GetSpacing() == pytest.approx(spacing, rel=1e-5)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("value", [np.nan, -np.inf, None])
def test_values_that_are_not_numbers_are_refused(
    tmp_path: Path, order: str, dtype: type, compressed: bool, value: float | None
) -> None:
    values = hu_pattern(COUNT).astype(dtype)
    if value is not None:
        values[-1, -1, -1] = value
    content = nifti(values, order=order) + bytes(3)
    (tmp_path / "scan").write_bytes(gzip.compress(content) if compressed else content)
    if value is None:
        assert np.array_equal(sitk.GetArrayFromImage(read(tmp_path).image), values)
        return
    refused = refusal(tmp_path)
    assert (refused.code, "not numbers" in refused.message) == ("NOT_HU", True)


def test_a_data_type_larger_than_its_bits_is_refused(tmp_path: Path) -> None:
    """Of the two sizes of a voxel that a header gives, ITK goes by the data type."""
    content = bytearray(nifti(hu_pattern(COUNT).astype(np.float32)))
    struct.pack_into("<h", content, 70, _DATATYPES["f8"])
    (tmp_path / "scan.nii").write_bytes(content)
    refused = refusal(tmp_path)
    assert (refused.code, "cut short" in refused.message) == ("CORRUPT_FILE", True)


@pytest.mark.parametrize(("name", "compressed"), [("scan.nii", True), ("scan.nii.gz", False)])
def test_content_decides_against_the_suffix(tmp_path: Path, name: str, compressed: bool) -> None:
    content = nifti(hu_pattern(COUNT))
    (tmp_path / name).write_bytes(gzip.compress(content) if compressed else content)
    assert np.array_equal(sitk.GetArrayFromImage(read(tmp_path).image), hu_pattern(COUNT))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_pair_of_header_and_image_is_one_refusal(tmp_path: Path, suffix: str) -> None:
    content = nifti(hu_pattern(COUNT)).replace(b"n+1\0", b"ni1\0")
    pack = gzip.compress if suffix else bytes
    for number, stem in enumerate(("a", "b")):  # two scans with the same header
        (tmp_path / f"{stem}.hdr{suffix}").write_bytes(pack(content[:348]))
        (tmp_path / f"{stem}.img{suffix}").write_bytes(pack(content[352:] + bytes(number)))
    candidates = find_series([tmp_path])
    sources = [f"{tmp_path.name}/{stem}.hdr{suffix}" for stem in "ab"]
    assert [candidate.source for candidate in candidates] == sources
    for candidate in candidates:
        with pytest.raises(UnusableSeries, match=r"CORRUPT_FILE: .*single \.nii file"):
            read_scan(candidate)
