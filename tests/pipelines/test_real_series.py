"""The real series of a development checkout, against SimpleITK's own reading of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from pipelines.discovery import SeriesCandidate, find_series
from pipelines.reading import read_scan
from pipelines.reasons import UnusableSeries

pytestmark = pytest.mark.shared_data

SPACING_MM = {
    "chest-ct/4d-lung-113": (0.9766, 3.0, 99),
    "chest-ct/acrin-flt-013": (1.3671875, 4.0, 49),
    "chest-ct/lidc-0002": (0.681641, 2.5, 131),
    "chest-ct/lung-dx-a0001": (0.841796875, 5.0, 64),
    "chest-ct/lung-dx-a0002": (0.646484375, 8.0, 30),
    "chest-ct/lung1.nrrd": (0.5703125, 5.0, 48),
    "chest-ct/tcga-de-a4ma": (0.9765625, 2.5, 133),
    "odd-ct/lidc-0001-contrast": (0.703125, 5.0, 67),
    "odd-ct/lungfcp-01-0001-no-heart": (0.759765625, 2.0, 49),
    "qrm-phantom": (0.488, 3.0, 47),
}
"""In-plane and slice spacing (mm) and number of slices, from the README of the data."""


@pytest.fixture(scope="module")
def candidates(shared_data: Path) -> dict[str, SeriesCandidate]:
    folders = ("chest-ct", "odd-ct", "qrm-phantom")
    found = find_series([shared_data / folder for folder in folders])
    return {candidate.source: candidate for candidate in found}


def test_every_series_is_found(candidates: dict[str, SeriesCandidate]) -> None:
    assert sorted(candidates) == sorted(SPACING_MM)


@pytest.mark.parametrize("source", SPACING_MM)
def test_series_are_read_with_the_spacing_of_their_positions(
    candidates: dict[str, SeriesCandidate], source: str
) -> None:
    scan = read_scan(candidates[source])
    pixel_mm, slice_mm, count = SPACING_MM[source]
    assert scan.grid.size == (512, 512, count)
    assert scan.grid.spacing == pytest.approx((pixel_mm, pixel_mm, slice_mm), abs=1e-3)
    assert scan.image.GetPixelID() == sitk.sitkInt16
    middle = sitk.GetArrayViewFromImage(scan.image)[count // 2, 128:384, 128:384]
    assert -1100 < np.percentile(middle, 1) < np.percentile(middle, 99) < 2000


@pytest.mark.parametrize("source", ["qrm-phantom", "odd-ct/lidc-0001-contrast"])
def test_values_and_places_are_those_simpleitk_reads(
    candidates: dict[str, SeriesCandidate], source: str
) -> None:
    """Slice by slice: its reader of single files is right where its series reader may not be."""
    scan = read_scan(candidates[source])
    values = sitk.GetArrayViewFromImage(scan.image)
    assert len(scan.files) == len(values)
    for number, path in enumerate(scan.files):
        alone = sitk.ReadImage(path)
        assert np.array_equal(values[number], sitk.GetArrayViewFromImage(alone)[0])
        assert scan.grid.physical_points([0, 0, number]) == pytest.approx(
            alone.GetOrigin(), abs=0.06
        )


def test_nrrd_is_as_simpleitk_reads_it(
    candidates: dict[str, SeriesCandidate], shared_data: Path
) -> None:
    scan = read_scan(candidates["chest-ct/lung1.nrrd"])
    expected = sitk.ReadImage(str(shared_data / "chest-ct" / "lung1.nrrd"))
    assert scan.image.GetOrigin() == expected.GetOrigin()
    assert scan.image.GetDirection() == expected.GetDirection()
    assert np.array_equal(
        sitk.GetArrayViewFromImage(scan.image), sitk.GetArrayViewFromImage(expected)
    )


def test_contrast_agent_and_settings_of_real_headers(
    candidates: dict[str, SeriesCandidate],
) -> None:
    contrast = read_scan(candidates["odd-ct/lidc-0001-contrast"]).acquisition
    assert (contrast.contrast_agent, contrast.slice_thickness_mm) == (True, 2.5)
    phantom = read_scan(candidates["qrm-phantom"]).acquisition
    assert (phantom.kvp, phantom.convolution_kernel) == (120.0, "FC12")
    gated = read_scan(candidates["chest-ct/4d-lung-113"]).acquisition
    assert (gated.kvp, gated.convolution_kernel, gated.contrast_agent) == (None, None, None)


def test_magnetic_resonance_is_not_ct(shared_data: Path) -> None:
    folder = shared_data / "cine-mr" / "dicom" / "SC-HF-I-1"
    (candidate,) = find_series([folder])
    assert candidate.modality == "MR"
    with pytest.raises(UnusableSeries, match="NOT_CT: the modality is MR"):
        read_scan(candidate)
