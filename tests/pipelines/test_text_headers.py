"""NRRD and MetaImage headers as other programs write them: read alike, or refused by name."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from pipelines.discovery import find_series
from pipelines.reading import read_scan
from pipelines.reasons import UnusableSeries
from pipelines.volume_contents import read_image
from pipelines.volume_headers import FORMATS
from tests.pipelines.dicom_factory import hu_pattern
from tests.pipelines.only_series import read, refusal

COUNT = 7
VOXELS = hu_pattern(COUNT).astype("<i2").tobytes()
SPACING = (0.5, 0.5, 3.0)


def metaimage(path: Path, voxels: bytes, **fields: object) -> Path:
    """A MetaImage file with these fields beside, or instead of, the usual ones."""
    size = hu_pattern(COUNT).shape[::-1]
    usual = {
        "NDims": 3,
        "DimSize": " ".join(map(str, size)),
        "ElementType": "MET_SHORT",
        "ElementSpacing": "0.5 0.5 3",
    }
    lines = [f"{key} = {value}" for key, value in (usual | fields).items() if value is not None]
    header = "\n".join(["ObjectType = Image", *lines, "ElementDataFile = LOCAL", ""])
    path.write_bytes(header.encode() + voxels)
    return path


def damage(path: Path) -> str:
    refused = refusal(path)
    assert refused.code == "CORRUPT_FILE"
    return refused.message


def flipped(content: bytes) -> bytes:
    """One bit of the checksum flipped: the voxels themselves unpack to what they were."""
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("yes", ["True", "true", "TRUE", "T", "1"])
def test_flipped_bits_are_found_however_compression_is_announced(tmp_path: Path, yes: str) -> None:
    packed = zlib.compress(VOXELS)
    fields = {"CompressedData": yes, "CompressedDataSize": len(packed)}
    scan = read(metaimage(tmp_path / "sound.mha", packed, **fields))
    assert np.array_equal(sitk.GetArrayFromImage(scan.image), hu_pattern(COUNT))
    path = metaimage(tmp_path / "scan.mha", flipped(packed), **fields)
    assert "compressed voxels are damaged" in damage(path)


@pytest.mark.parametrize("answer", ["False", "false", "0", None])
def test_voxels_that_are_not_compressed_are_read(tmp_path: Path, answer: str | None) -> None:
    scan = read(metaimage(tmp_path / "scan.mha", VOXELS, CompressedData=answer))
    assert np.array_equal(sitk.GetArrayFromImage(scan.image), hu_pattern(COUNT))


def test_an_unclear_answer_about_compression_is_refused(tmp_path: Path) -> None:
    """ITK takes it for no, and compressed bytes for voxels."""
    path = metaimage(tmp_path / "scan.mha", zlib.compress(VOXELS) * 2, CompressedData="yes")
    assert "whether the voxels are compressed" in damage(path)


def nrrd(path: Path, *lines: str, voxels: bytes = VOXELS) -> Path:
    """A NRRD file with these lines about where its voxels lie."""
    size = " ".join(map(str, hu_pattern(COUNT).shape[::-1]))
    usual = ["type: short", "dimension: 3", f"sizes: {size}", "endian: little", "encoding: raw"]
    path.write_bytes("\n".join(["NRRD0004", *usual, *lines, "", ""]).encode() + voxels)
    return path


LPS = "space: left-posterior-superior"
DIRECTIONS = "space directions: (0.5,0,0) (0,0.5,0) (0,0,3)"


@pytest.mark.parametrize(
    "lines",
    [
        ["spacings: 0.5 0.5 3"],
        ["spacings: 0.5 0.5 3", 'units: "mm" "mm" "mm"'],
        [LPS, DIRECTIONS],
        [LPS, "space directions: ( 0.5 , 0 , 0 ) (0,5e-1,0)(0,0,3)"],
        [LPS, DIRECTIONS, 'space units: "mm" "mm" "mm"'],
        [LPS, DIRECTIONS, 'space units: "millimeters" "Millimeter" ""'],
    ],
)
def test_spacing_in_mm_is_read(tmp_path: Path, lines: list[str]) -> None:
    assert read(nrrd(tmp_path / "scan.nrrd", *lines)).image.GetSpacing() == SPACING


@pytest.mark.parametrize(
    "lines",
    [
        ["spacings: nan nan nan"],
        ["spacings: 0.5 0.5 nan"],
        ["spacings: 0.5 0.5 0"],
        ["spacings:=0.5 0.5 3"],
        [LPS, "space directions: (0.5,0,0) (0,0.5,0) none"],
        [LPS, "space directions: (0.5,0,0) (0,0.5,0) (nan,nan,nan)"],
        [LPS, "space directions: (0.5,0,0) (0,0.5,0) (0,0,0)"],
        [LPS, "space directions: (0.5,0,0) (0,0.5,0) (0,0,three)"],
    ],
)
def test_every_axis_needs_a_spacing(tmp_path: Path, lines: list[str]) -> None:
    assert "no spacing" in damage(nrrd(tmp_path / "scan.nrrd", *lines))


@pytest.mark.parametrize("spacing", ["nan nan nan", "0.5 0.5 0", "0.5 0.5 three"])
def test_every_axis_of_a_metaimage_needs_a_spacing(tmp_path: Path, spacing: str) -> None:
    path = metaimage(tmp_path / "scan.mha", VOXELS, ElementSpacing=spacing)
    assert "no spacing" in damage(path)


@pytest.mark.parametrize(
    "lines",
    [
        [LPS, DIRECTIONS, 'space units: "cm" "cm" "cm"'],
        [LPS, DIRECTIONS, 'space units: "mm" "mm" "um"'],
        [LPS, DIRECTIONS, 'spaceunits: "cm" "cm" "cm"'],
        ["spacings: 0.05 0.05 0.3", 'units: "cm" "cm" "cm"'],
    ],
)
def test_units_other_than_mm_are_refused(tmp_path: Path, lines: list[str]) -> None:
    assert "not in mm" in damage(nrrd(tmp_path / "scan.nrrd", *lines))


def test_units_of_a_metaimage_other_than_mm_are_refused(tmp_path: Path) -> None:
    path = metaimage(tmp_path / "scan.mha", VOXELS, DistanceUnits="cm")
    assert "not in mm" in damage(path)
    assert read(metaimage(path, VOXELS, DistanceUnits="mm")).image.GetSpacing() == SPACING


def test_an_axis_of_colors_needs_no_spacing(tmp_path: Path) -> None:
    color = sitk.GetImageFromArray(np.zeros((COUNT, 12, 16, 3), np.uint8), isVector=True)
    for name in ("color.nrrd", "color.mha"):
        sitk.WriteImage(color, str(tmp_path / name))
        with pytest.raises(UnusableSeries, match=r"NOT_CT: .*color or vector"):
            read(tmp_path / name)


def test_a_metaimage_with_colons_is_held_to_the_same_rules(tmp_path: Path) -> None:
    """MetaIO reads `key : value` like `key = value`."""
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.raw").write_bytes(VOXELS)
    path = metaimage(tmp_path / "in" / "scan.mhd", b"")
    lines = path.read_text().replace("LOCAL", "../secret.raw").replace(" = ", " : ")
    path.write_text(lines)
    assert "not in the folder" in damage(path)
    path.write_text(lines.replace("../secret", "scan"))
    (tmp_path / "in" / "scan.raw").write_bytes(VOXELS)
    assert np.array_equal(sitk.GetArrayFromImage(read(path).image), hu_pattern(COUNT))


@pytest.mark.parametrize("zipped", [False, True])
def test_a_data_file_may_be_named_from_the_folder_of_the_header(
    tmp_path: Path, zipped: bool
) -> None:
    nrrd(tmp_path / "scan.nhdr", LPS, DIRECTIONS, "data file: ./scan.raw", voxels=b"")
    (tmp_path / "scan.raw").write_bytes(VOXELS)
    given = tmp_path / "scan.nhdr"
    if zipped:
        given = tmp_path / "scan.zip"
        with zipfile.ZipFile(given, "w") as archive:
            for name in ("scan.nhdr", "scan.raw"):
                archive.write(tmp_path / name, name)
    (candidate,) = find_series([given])
    assert [path.name for path in candidate.files] == ["scan.nhdr", "scan.raw"]
    image = read_scan(candidate).image
    assert np.array_equal(sitk.GetArrayFromImage(image), hu_pattern(COUNT))


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.nrrd", "scan.mha"])
def test_content_decides_against_the_suffix(tmp_path: Path, name: str) -> None:
    paths = [nrrd(tmp_path / name, LPS, DIRECTIONS), metaimage(tmp_path / f"2{name}", VOXELS)]
    for path in paths:
        assert np.array_equal(sitk.GetArrayFromImage(read(path).image), hu_pattern(COUNT))


READ_ALL = """
import os, sys
from pathlib import Path
from pipelines.discovery import find_series
from pipelines.reading import read_scan
for candidate in find_series([Path(os.fsdecode(bytes.fromhex(sys.argv[1])))]):
    scan = read_scan(candidate)
    print(len(candidate.files), scan.image.GetSize(), int(scan.image[3, 2, 1]))
"""
"""Run in a process of its own, which ITK aborts on names that are not UTF-8."""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every file name is Unicode")
@pytest.mark.parametrize(("folder", "stem"), [(b"case", b"caf\xe9"), (b"caf\xe9", b"scan")])
def test_names_that_are_not_utf_8_are_read(tmp_path: Path, folder: bytes, stem: bytes) -> None:
    given = os.path.join(os.fsencode(tmp_path), folder)
    os.mkdir(given)
    for suffix in FORMATS:
        image = sitk.GetImageFromArray(hu_pattern(COUNT))
        sitk.WriteImage(image, str(tmp_path / f"written{suffix}"))
        for path in tmp_path.glob("written*"):
            content = path.read_bytes().replace(b"written", stem)  # in headers with a data file
            name = os.fsencode(path.name).replace(b"written", stem + suffix[1:].encode())
            with open(os.path.join(given, name), "wb") as stream:
                stream.write(content.replace(stem + b".", stem + suffix[1:].encode() + b"."))
            path.unlink()
    command = [sys.executable, "-c", READ_ALL, given.hex()]
    done = subprocess.run(command, capture_output=True, text=True)
    told = f"{hu_pattern(COUNT).shape[::-1]} {hu_pattern(COUNT)[1, 2, 3]}"
    counts = [2 if suffix in (".nhdr", ".mhd") else 1 for suffix in sorted(FORMATS)]
    assert done.stdout.splitlines() == [f"{count} {told}" for count in counts], done.stderr


@pytest.mark.parametrize("name", ["käse.raw", "Datei 1.raw"])
def test_a_data_file_of_any_name_is_part_of_the_identity(tmp_path: Path, name: str) -> None:
    path = metaimage(tmp_path / "scan.mhd", b"")
    path.write_text(path.read_text().replace("LOCAL", name), encoding="utf-8")
    (tmp_path / name).write_bytes(VOXELS)
    before = read(path).content_hash
    (tmp_path / name).write_bytes(VOXELS[:-2] + b"\1\0")
    assert read(path).content_hash != before


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every file name is Unicode")
def test_a_missing_data_file_whose_name_is_not_utf_8_is_a_refusal(tmp_path: Path) -> None:
    path = nrrd(tmp_path / "scan.nhdr", LPS, DIRECTIONS, "data file: scan.raw", voxels=b"")
    path.write_bytes(path.read_bytes().replace(b"scan.raw", b"caf\xe9.raw"))
    (candidate,) = find_series([path])
    with pytest.raises(UnusableSeries, match=r"CORRUPT_FILE: scan.nhdr: No such file"):
        read_image(candidate.files, "scan.nhdr")


@pytest.mark.parametrize("change", [None, 0, -1000])
def test_the_length_of_compressed_voxels_must_be_said(tmp_path: Path, change: int | None) -> None:
    """Without it, MetaIO takes the bytes of the header for voxels."""
    packed = zlib.compress(VOXELS)
    size = {None: None, 0: 0}.get(change, len(packed) + (change or 0))
    fields = {"CompressedData": True, "CompressedDataSize": size}
    assert "how long the compressed" in damage(metaimage(tmp_path / "a.mha", packed, **fields))


def test_compressed_voxels_that_are_too_few_are_refused(tmp_path: Path) -> None:
    """MetaIO leaves the rest to chance."""
    packed = zlib.compress(VOXELS[:-100])
    fields = {"CompressedData": True, "CompressedDataSize": len(packed)}
    assert "cut short" in damage(metaimage(tmp_path / "scan.mha", packed, **fields))
