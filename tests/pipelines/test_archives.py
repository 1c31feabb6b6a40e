"""Series in zip archives, read in place."""

from __future__ import annotations

import contextlib
import logging
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from pipelines.discovery import find_series
from pipelines.reading import read_scan
from pipelines.reasons import UnusableSeries
from tests.pipelines.dicom_factory import (
    hu_pattern,
    make_slices,
    write_files,
    write_zip,
)
from tests.pipelines.only_series import code_of

COUNT = 7


def test_zip_is_read_in_place(tmp_path: Path) -> None:
    paths = write_files(make_slices(COUNT), tmp_path / "series")
    members = {f"study/ct/{path.name}": path for path in paths}
    archive = write_zip(tmp_path / "given.zip", members)
    before = sorted(tmp_path.rglob("*"))
    (candidate,) = find_series([archive])
    scan = read_scan(candidate)
    assert candidate.source == "given.zip/study/ct"
    assert np.array_equal(sitk.GetArrayFromImage(scan.image), hu_pattern(COUNT))
    (unpacked,) = find_series([tmp_path / "series"])
    assert scan.content_hash == unpacked.content_hash
    assert sorted(tmp_path.rglob("*")) == before


def test_volumes_in_a_zip_are_read_with_their_data_file(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(hu_pattern(COUNT))
    sitk.WriteImage(image, str(tmp_path / "v.mhd"))
    files = {"x/v.mhd": tmp_path / "v.mhd", "x/v.raw": tmp_path / "v.raw"}
    (candidate,) = find_series([write_zip(tmp_path / "given.zip", files)])
    assert len(candidate.files) == 2
    assert np.array_equal(sitk.GetArrayFromImage(read_scan(candidate).image), hu_pattern(COUNT))


@pytest.mark.parametrize("name", ["../evil.dcm", "/evil.dcm", "a/../../evil.dcm", "..\\evil.dcm"])
def test_zip_members_that_lead_outside_are_passed_over(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    (path,) = write_files(make_slices(1), tmp_path / "series")
    archive = tmp_path / "deep" / "given.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as opened:
        info = zipfile.ZipInfo("x")
        info.filename = name
        opened.writestr(info, path.read_bytes())
    with caplog.at_level(logging.WARNING):
        assert find_series([archive]) == []
    assert "leads outside" in caplog.text
    assert not list(tmp_path.rglob("evil*"))


def test_a_broken_zip_and_a_broken_member_are_survived(tmp_path: Path) -> None:
    paths = write_files(make_slices(COUNT), tmp_path / "series")
    archive = write_zip(tmp_path / "given.zip", {path.name: path for path in paths})
    content = bytearray(archive.read_bytes())
    content[200:260] = bytes(60)
    archive.write_bytes(content)
    (tmp_path / "half.zip").write_bytes(bytes(content[: len(content) // 2]))
    for given in (archive, tmp_path / "half.zip"):
        assert [code_of(candidate) for candidate in find_series([given])] == ["CORRUPT_FILE"]


@pytest.mark.parametrize("seed", range(30))
def test_damaged_archives_end_in_rows_or_in_nothing(tmp_path: Path, seed: int) -> None:
    paths = write_files(make_slices(COUNT), tmp_path / "series")
    archive = write_zip(tmp_path / "given.zip", {path.name: path for path in paths})
    content = bytearray(archive.read_bytes())
    chance = np.random.default_rng(seed)
    start = 4 if seed % 2 else len(content) - 450  # the members, or their directory
    content[start + int(chance.integers(400))] = int(chance.integers(256))
    archive.write_bytes(content)
    for candidate in find_series([archive]):
        with contextlib.suppress(UnusableSeries):
            assert read_scan(candidate).grid.size[2] >= COUNT - 1


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nrrd", "scan.mha"])
def test_a_volume_that_cannot_be_unpacked_is_told(tmp_path: Path, name: str) -> None:
    """Of an encrypted archive, every volume is a row of its own, not nothing at all."""
    archive = tmp_path / "study.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(name, b"whatever" * 100)
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1  # says that the member is encrypted
    archive.write_bytes(content)
    (candidate,) = find_series([tmp_path])
    with pytest.raises(UnusableSeries, match=r"CORRUPT_FILE.*cannot be unpacked"):
        read_scan(candidate)
