"""Stacks that lie mixed in one series, taken apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom import uid

from pipelines.discovery import SeriesCandidate, find_series
from pipelines.reading import read_scan
from tests.pipelines.dicom_factory import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    make_slices,
    write_files,
)
from tests.pipelines.only_series import code_of

COUNT = 7


def facts(candidates: list[SeriesCandidate]) -> list[tuple[str, int, str | None]]:
    return [(c.source, len(c.files), c.modality) for c in candidates]


@pytest.mark.parametrize(
    "other", [{"PatientID": "P2"}, {"FrameOfReferenceUID": uid.generate_uid()}]
)
def test_patients_and_coordinate_systems_are_never_mixed(
    tmp_path: Path, other: dict[str, str]
) -> None:
    """Two people under one series UID, as careless anonymization leaves them."""
    first, second = (make_slices(COUNT, series_uid="1.2.3") for _ in range(2))
    for ds in first + second:
        ds.StudyInstanceUID, ds.FrameOfReferenceUID, ds.PatientID = "1.2", "1.2.4", "P1"
    for number, ds in enumerate(second):
        x, y, z = ds.ImagePositionPatient
        ds.ImagePositionPatient = [x, y, float(z) + 200.0]
        ds.SOPInstanceUID = f"1.2.9.{number}"
        for keyword, value in other.items():
            setattr(ds, keyword, value)
    write_files(first, tmp_path / "a")
    write_files(second, tmp_path / "b")
    assert [len(c.files) for c in find_series([tmp_path])] == [COUNT, COUNT]


def test_a_coordinate_system_for_every_file_splits_nothing(tmp_path: Path) -> None:
    slices = make_slices(COUNT)
    for ds in slices:
        ds.FrameOfReferenceUID = uid.generate_uid()
    write_files(slices, tmp_path)
    assert [len(c.files) for c in find_series([tmp_path])] == [COUNT]


def test_localizer_in_a_series_is_split_off_and_reported(tmp_path: Path) -> None:
    slices = make_slices(COUNT, series_uid="1.2.3", StudyInstanceUID="1.2")
    scout = make_slices(1, series_uid="1.2.3", StudyInstanceUID="1.2", orientation=CORONAL)[0]
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write_files([*slices, scout], tmp_path)
    scan, localizer = find_series([tmp_path])
    assert read_scan(scan).grid.size[2] == COUNT
    assert [path.name for path in localizer.files] == [f"IM{COUNT + 1:04d}.dcm"]
    assert code_of(localizer) == "LOCALIZER"


@pytest.mark.parametrize(
    "difference",
    [
        {"ConvolutionKernel": "B60f"},
        {"SliceThickness": 1},
        {"PixelSpacing": [0.9, 0.8]},
        {"AcquisitionNumber": 2},
        {"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]},
        {"NominalPercentageOfCardiacPhase": 75},
    ],
    ids=lambda d: next(iter(d)),
)
def test_reconstructions_of_one_series_become_stacks(
    tmp_path: Path, difference: dict[str, Any]
) -> None:
    common: dict[str, Any] = {"series_uid": "1.2.3", "StudyInstanceUID": "1.2"}
    first = make_slices(COUNT, **common)
    second = make_slices(COUNT, **common, **difference)
    write_files(first + second, tmp_path)
    found = find_series([tmp_path])
    assert [len(candidate.files) for candidate in found] == [COUNT, COUNT]
    for candidate in found:
        assert read_scan(candidate).slice_spacing_mm == pytest.approx(3.0, abs=1e-6)


def test_a_screen_capture_in_a_series_is_split_off(tmp_path: Path) -> None:
    common: dict[str, Any] = {"series_uid": "1.2.3", "StudyInstanceUID": "1.2"}
    slices = make_slices(COUNT, **common)
    capture = make_slices(1, **common, SOPClassUID=uid.SecondaryCaptureImageStorage)
    write_files(slices + capture, tmp_path)
    scan, other = find_series([tmp_path])
    assert read_scan(scan).grid.size[2] == COUNT
    assert code_of(other) == "NOT_CT"


def test_three_planes_in_one_series_become_three(tmp_path: Path) -> None:
    slices = [
        ds
        for plane in (AXIAL, CORONAL, SAGITTAL)
        for ds in make_slices(COUNT, series_uid="1.2.3", StudyInstanceUID="1.2", orientation=plane)
    ]
    write_files(slices, tmp_path)
    axial, coronal, sagittal = find_series([tmp_path])
    assert read_scan(axial).grid.size[2] == COUNT
    assert (code_of(coronal), code_of(sagittal)) == ("NOT_AXIAL", "NOT_AXIAL")


def test_same_series_uid_in_two_studies_stays_apart(tmp_path: Path) -> None:
    write_files(make_slices(COUNT, series_uid="1.2.3"), tmp_path / "a")
    write_files(make_slices(COUNT, series_uid="1.2.3"), tmp_path / "b")
    assert [len(candidate.files) for candidate in find_series([tmp_path])] == [COUNT, COUNT]


def test_step_and_shoot_acquisitions_stay_one_series(tmp_path: Path) -> None:
    slices = make_slices(COUNT + 1)
    for number, ds in enumerate(slices):
        ds.AcquisitionNumber = 1 + number // 4
    write_files(slices, tmp_path)
    assert [len(candidate.files) for candidate in find_series([tmp_path])] == [COUNT + 1]
