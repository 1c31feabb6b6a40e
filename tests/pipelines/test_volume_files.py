"""NIfTI, NRRD and MetaImage volumes: the same voxels at the same places, or a reason why not."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from registration.geometry import ImageGrid
from tests.pipelines.dicom_factory import hu_pattern
from tests.pipelines.only_series import read, refusal

COUNT = 7
_COS, _SIN = float(np.cos(0.2)), float(np.sin(0.2))
GRID = ImageGrid(
    (16, 12, COUNT),
    (0.5, 0.5, 3.0),
    (-31.0, 12.5, -140.0),
    (_COS, -_SIN, 0.0, _SIN, _COS, 0.0, 0.0, 0.0, 1.0),
)
SUFFIXES = [".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"]


def write(path: Path, array: NDArray[np.generic], grid: ImageGrid = GRID) -> Path:
    sitk.WriteImage(grid.to_image(array), str(path))
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.int32])
def test_every_format_gives_the_same_scan(tmp_path: Path, suffix: str, dtype: type) -> None:
    write(tmp_path / f"scan{suffix}", hu_pattern(COUNT).astype(dtype))
    scan = read(tmp_path)
    assert scan.source == f"{tmp_path.name}/scan{suffix}"
    assert scan.image.GetPixelID() == sitk.sitkInt16
    assert np.array_equal(sitk.GetArrayFromImage(scan.image), hu_pattern(COUNT))
    corners = [[0, 0, 0], [15, 0, 0], [0, 11, 6]]
    assert scan.grid.physical_points(corners) == pytest.approx(
        GRID.physical_points(corners), abs=1e-4
    )
    assert scan.slice_spacing_mm == pytest.approx(3.0, abs=1e-5)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_volume_without_its_suffix_is_recognized(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"scan{suffix}", hu_pattern(COUNT)).rename(tmp_path / "0001")
    assert np.array_equal(sitk.GetArrayFromImage(read(tmp_path).image), hu_pattern(COUNT))


def test_nifti_ras_becomes_lps(tmp_path: Path) -> None:
    """The header, read as plain numbers, says RAS: x and y change sign on the way to LPS."""
    path = write(tmp_path / "scan.nii", hu_pattern(COUNT))
    header = path.read_bytes()[:348]
    rows = np.frombuffer(header[280:328], "<f4").reshape(3, 4)
    ras = rows @ [5.0, 3.0, 2.0, 1.0]
    lps = read(path).grid.physical_points([5, 3, 2])
    assert lps == pytest.approx([-ras[0], -ras[1], ras[2]], abs=1e-4)


def test_fractional_values_stay_floats(tmp_path: Path) -> None:
    array = hu_pattern(COUNT).astype(np.float32) + np.float32(0.25)
    write(tmp_path / "scan.nrrd", array)
    scan = read(tmp_path)
    assert scan.image.GetPixelID() == sitk.sitkFloat32
    assert np.array_equal(sitk.GetArrayFromImage(scan.image), array)


@pytest.mark.parametrize(
    "columns",
    [
        ((1, 0, 0), (0, 1, 0), (0, 0, -1)),
        ((-1, 0, 0), (0, -1, 0), (0, 0, -1)),
        ((0, 0, -1), (1, 0, 0), (0, 1, 0)),
        ((0, 1, 0), (0, 0, 1), (1, 0, 0)),
    ],
)
def test_slices_run_towards_the_head_and_no_voxel_changes_place(
    tmp_path: Path, columns: Sequence[Sequence[int]]
) -> None:
    directions = np.array(columns, dtype=float).T
    body_axis = int(np.argmax(np.abs(directions[2])))
    spacing = [0.6, 0.6, 0.6]
    spacing[body_axis] = 2.5
    grid = ImageGrid(
        (9, 8, 7), tuple(spacing), (5.0, -6.0, 7.0), tuple(directions.ravel().tolist())
    )
    array = hu_pattern(7, (8, 9))
    write(tmp_path / "scan.mha", array, grid)
    scan = read(tmp_path)
    assert scan.grid.direction_matrix[2, 2] == pytest.approx(1.0)
    assert scan.slice_spacing_mm == pytest.approx(2.5)
    values = sitk.GetArrayFromImage(scan.image)
    for index in ([0, 0, 0], [8, 0, 0], [3, 7, 2], [1, 2, 6]):
        x, y, z = np.rint(scan.grid.indices(grid.physical_points(index))).astype(int)
        assert values[z, y, x] == array[index[2], index[1], index[0]]


def test_resliced_volumes_are_not_axial(tmp_path: Path) -> None:
    grid = ImageGrid((16, 12, COUNT), (0.5, 3.0, 0.5), (0.0, 0.0, 0.0))
    write(tmp_path / "coronal.nii.gz", hu_pattern(COUNT), grid)
    assert refusal(tmp_path).code == "NOT_AXIAL"


def test_oblique_volumes_are_not_axial(tmp_path: Path) -> None:
    c, s = float(np.cos(np.radians(35))), float(np.sin(np.radians(35)))
    grid = ImageGrid(GRID.size, GRID.spacing, GRID.origin, (1, 0, 0, 0, c, -s, 0, s, c))
    write(tmp_path / "oblique.nrrd", hu_pattern(COUNT), grid)
    refused = refusal(tmp_path)
    assert (refused.code, "at 35°" in refused.message) == ("NOT_AXIAL", True)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.random.default_rng(0).integers(0, 2, GRID.shape).astype(np.uint8), "0 to 1"),
        (np.random.default_rng(0).integers(0, 4095, GRID.shape).astype(np.uint16), "mask"),
        (np.full(GRID.shape, np.nan, np.float32), "not numbers"),
        (np.linspace(-1, 1, 16 * 12 * COUNT).reshape(GRID.shape).astype(np.float32), "-1 to 1"),
        (np.full(GRID.shape, -1e9, np.float32), "does not look like HU"),
        (np.linspace(-1000, 62512, GRID.shape[0] * 192).reshape(GRID.shape), "Padding"),
        (np.random.default_rng(0).integers(-1024, -768, GRID.shape).astype(np.int16), "picture"),
    ],
)
def test_values_that_cannot_be_hu_are_refused(
    tmp_path: Path, values: NDArray[np.generic], words: str
) -> None:
    write(tmp_path / "scan.nrrd", values)
    refused = refusal(tmp_path)
    assert refused.code == "NOT_HU"
    assert words in refused.message


def test_few_slices_color_and_series_of_volumes_are_refused(tmp_path: Path) -> None:
    flat = sitk.GetImageFromArray(np.full((3, 12, 16), -1000, np.int16))
    color = sitk.GetImageFromArray(np.zeros((COUNT, 12, 16, 3), np.uint8), isVector=True)
    series = sitk.JoinSeries([sitk.GetImageFromArray(hu_pattern(COUNT))] * 2)
    codes = []
    for name, image in (("flat", flat), ("color", color), ("series", series)):
        sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
        codes.append(refusal(tmp_path / f"{name}.nrrd").code)
    assert codes == ["TOO_FEW_SLICES", "NOT_CT", "NOT_CT"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("keep", [0, 30, 200, 0.6, 0.99])
@pytest.mark.parametrize("compressed", [False, True])
def test_truncated_volumes_are_refused(
    tmp_path: Path, suffix: str, keep: float, compressed: bool
) -> None:
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(GRID.to_image(hu_pattern(COUNT)), str(path), useCompression=compressed)
    if suffix == ".mhd":
        path = next(tmp_path.glob("*raw"))
    if suffix == ".nhdr":
        path = next(p for p in tmp_path.iterdir() if p.suffix != suffix)
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    refused = refusal(tmp_path / f"scan{suffix}")
    assert refused.code == "CORRUPT_FILE"
    assert f"scan{suffix}" in refused.message


def test_a_header_without_its_data_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "scan.mhd", hu_pattern(COUNT))
    (tmp_path / "scan.raw").unlink()
    assert refusal(path).code == "CORRUPT_FILE"


@pytest.mark.parametrize("target", ["../secret.raw", "/etc/hostname", "sub/secret.raw"])
def test_a_header_must_not_reach_for_files_elsewhere(tmp_path: Path, target: str) -> None:
    inner = tmp_path / "inner"
    (inner / "sub").mkdir(parents=True)
    path = write(inner / "scan.mhd", hu_pattern(COUNT))
    for place in (tmp_path / "secret.raw", inner / "sub" / "secret.raw"):
        place.write_bytes((inner / "scan.raw").read_bytes())
    path.write_text(path.read_text().replace("scan.raw", target))
    assert refusal(path).code == "CORRUPT_FILE"


def test_data_file_is_part_of_the_identity(tmp_path: Path) -> None:
    path = write(tmp_path / "scan.mhd", hu_pattern(COUNT))
    before = read(path).content_hash
    raw = bytearray((tmp_path / "scan.raw").read_bytes())
    raw[100] ^= 1
    (tmp_path / "scan.raw").write_bytes(raw)
    assert read(path).content_hash != before


def test_a_huge_volume_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    write(path, hu_pattern(COUNT))
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(content)))
    assert refusal(path).code == "TOO_LARGE"


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"])
def test_flipped_bits_in_compressed_voxels_are_found(tmp_path: Path, suffix: str) -> None:
    array = np.tile(hu_pattern(1), (COUNT, 1, 1))
    sitk.WriteImage(GRID.to_image(array), str(tmp_path / f"scan{suffix}"), useCompression=True)
    (voxels,) = [p for p in tmp_path.iterdir() if p.suffix not in (".nhdr", ".mhd")]
    content = bytearray(voxels.read_bytes())
    content[-2] ^= 16  # in the checksum: the voxels themselves unpack to what they were
    voxels.write_bytes(content)
    refused = refusal(tmp_path / f"scan{suffix}")
    assert (refused.code, "damaged" in refused.message) == ("CORRUPT_FILE", True)


@pytest.mark.parametrize(("suffix", "key"), [(".nhdr", "space directions"), (".mhd", "ElementSp")])
def test_a_header_without_spacing_is_refused(tmp_path: Path, suffix: str, key: str) -> None:
    path = write(tmp_path / f"scan{suffix}", hu_pattern(COUNT))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(key)))
    refused = refusal(path)
    assert (refused.code, "no spacing" in refused.message) == ("CORRUPT_FILE", True)


@pytest.mark.parametrize(
    ("start", "stop", "words"), [(252, 256, "how the slices lie"), (80, 92, "no spacing")]
)
def test_a_nifti_header_without_geometry_is_refused(
    tmp_path: Path, start: int, stop: int, words: str
) -> None:
    path = write(tmp_path / "scan.nii", hu_pattern(COUNT))
    content = bytearray(path.read_bytes())
    content[start:stop] = bytes(stop - start)
    path.write_bytes(content)
    refused = refusal(path)
    assert (refused.code, words in refused.message) == ("CORRUPT_FILE", True)


def test_sheared_axes_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "scan.nhdr", hu_pattern(COUNT))
    lines = [
        "space directions: (0.5,0,0) (0,0.5,0) (0,0.3,3)" if "space directions" in line else line
        for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(lines) + "\n")
    assert refusal(path).code == "GANTRY_TILT"
