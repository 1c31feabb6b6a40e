from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from pipelines.dicom_results import marked_slice, write_dicom_results
from pipelines.dicom_sources import read_sources
from pipelines.dicom_values import tolerant_reading
from pipelines.report import Evidence
from pipelines.results import Finding, LesionRow, ScanResult
from pipelines.scan import Acquisition, Scan
from registration.geometry import ImageGrid
from tests.pipelines.dicom_factory import write_zip

GRID = ImageGrid((40, 32, 6), (0.6, 0.8, 3.0), (-12.0, 7.0, 100.0))
PATIENT = "Miller^Anna"
STUDY_UID = "1.2.826.0.1.3680043.8.498.1"


def write_headers(folder: Path, **attributes: object) -> tuple[str, ...]:
    """One CT file per slice, without pixels; attributes set to `None` are left out."""
    folder.mkdir(exist_ok=True)
    names = []
    series = generate_uid(entropy_srcs=["series"])
    for k in range(GRID.size[2]):
        ds = Dataset()
        ds.SOPClassUID = CTImageStorage
        ds.SOPInstanceUID = generate_uid(entropy_srcs=[f"image {k}"])
        ds.SeriesInstanceUID, ds.StudyInstanceUID = series, STUDY_UID
        ds.PatientName, ds.PatientID, ds.PatientSex = PATIENT, "MRN-4711", "F"
        ds.PatientBirthDate, ds.StudyDate, ds.StudyTime = "19500102", "20240304", "101112"
        ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = "S1", "A815", "House^Greg"
        ds.Modality = "CT"
        for keyword, value in attributes.items():
            if value is None:
                del ds[keyword]
            else:
                setattr(ds, keyword, value)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[f"image {k}"])
        path = folder / f"{k}.dcm"
        ds.save_as(path, enforce_file_format=True)
        names.append(str(path))
    return tuple(names)


def scored(files: tuple[str, ...], modality: str | None = "CT") -> tuple[ScanResult, Evidence]:
    feedback = np.zeros(GRID.shape, np.float32)
    feedback[2, 10:12, 20:23] = 2.0
    feedback[4, 5, 6] = 1.5
    image = GRID.to_image(np.full(GRID.shape, 40, np.int16))
    result = ScanResult(
        scan_id="abc123def456",
        status="review",
        source="s",
        model="default 1.0",
        findings=(Finding("ALIGNMENT_UNCERTAIN", "review", "poor match"),),
        agatston=13.5,
        risk_category="11-100",
        risk_label="moderate",
        cac_drs="A1",
        volume_mm3=10.1,
        preset="agatston-1990",
        lesions=(
            LesionRow((1.0, 2.0, 3.0), 12.0, 8.6, 300.0, (2,)),
            LesionRow((1.0, 2.0, 9.0), 1.5, 1.4, 210.0, (4,)),
        ),
    )
    scan = Scan("abc123def456", image, 3.0, Acquisition(modality=modality), files=files)
    score = SimpleNamespace(feedback=feedback)
    return result, Evidence(scan, None, score, None)  # type: ignore[arg-type]


def write(tmp_path: Path, identifiers: str = "pseudonym", **attributes: object) -> Path:
    with tolerant_reading():
        files = write_headers(tmp_path / "in", **attributes)
    out = tmp_path / "out"
    out.mkdir()
    result, evidence = scored(files)
    assert write_dicom_results(out, result, evidence, identifiers=identifiers)  # type: ignore[arg-type]
    return out


def numbers(content: Dataset) -> list[tuple[str, str, float]]:
    """Method, unit and value of every calcium score in a content tree."""
    found = []
    for item in content.get("ContentSequence", []):
        if item.ValueType == "NUM":
            assert item.ConceptNameCodeSequence[0].CodeValue == "112058"
            method = item.ContentSequence[0].ConceptCodeSequence[0].CodeValue
            value = item.MeasuredValueSequence[0]
            unit = value.MeasurementUnitsCodeSequence[0].CodeValue
            found.append((method, unit, float(value.NumericValue)))
        else:
            found.extend(numbers(item))
    return found


def test_structured_report_holds_the_scores_under_their_codes(tmp_path: Path) -> None:
    report = pydicom.dcmread(write(tmp_path) / "sr.dcm")
    assert report.SOPClassUID.name == "Enhanced SR Storage"
    assert numbers(report) == [
        ("112055", "1", 13.5),
        ("112056", "mm3", 10.1),
        ("112055", "1", 12.0),
        ("112056", "mm3", 8.6),
        ("112055", "1", 1.5),
        ("112056", "mm3", 1.4),
    ]


def test_results_are_preliminary_and_unverified(tmp_path: Path) -> None:
    report = pydicom.dcmread(write(tmp_path) / "sr.dcm")
    assert report.CompletionFlag == "PARTIAL"
    assert report.PreliminaryFlag == "PRELIMINARY"
    assert report.VerificationFlag == "UNVERIFIED"


def test_each_contributing_slice_has_a_color_picture_that_names_its_source(tmp_path: Path) -> None:
    out = write(tmp_path, "keep")
    pictures = [pydicom.dcmread(path) for path in sorted((out / "sc").iterdir())]
    assert [p.SourceImageSequence[0].ReferencedSOPInstanceUID for p in pictures] == [
        generate_uid(entropy_srcs=["image 2"]),
        generate_uid(entropy_srcs=["image 4"]),
    ]
    assert [p.InstanceNumber for p in pictures] == [1, 2]
    assert pictures[0].pixel_array.shape == (32, 40, 3)
    is_colored = np.ptp(pictures[1].pixel_array.astype(int), axis=-1) > 0
    assert np.argwhere(is_colored).tolist() == [[5, 6]]
    assert [float(v) for v in pictures[0].PixelSpacing] == [0.8, 0.6]
    assert list(pictures[0].PatientOrientation) == ["L", "P"]


def test_pseudonym_leads_nowhere(tmp_path: Path) -> None:
    out = write(tmp_path)
    for path in (out / "sr.dcm", *(out / "sc").iterdir()):
        content = path.read_bytes()
        for secret in ("Miller", "MRN-4711", "19500102", "20240304", "A815", "House", STUDY_UID):
            assert secret.encode() not in content
        ds = pydicom.dcmread(path)
        assert ds.PatientID == "abc123def456"
        assert ds.PatientIdentityRemoved == "YES"
        assert content[:128] == b"\0" * 128


def test_identifiers_are_kept_when_asked_for(tmp_path: Path) -> None:
    out = write(tmp_path, "keep")
    for path in (out / "sr.dcm", out / "sc" / "0001.dcm"):
        ds = pydicom.dcmread(path)
        assert ds.PatientName == PATIENT
        assert ds.PatientID == "MRN-4711"
        assert ds.StudyInstanceUID == STUDY_UID
        assert ds.StudyDate == "20240304"
        assert "PatientIdentityRemoved" not in ds


def test_names_outside_latin_script_survive(tmp_path: Path) -> None:
    out = write(tmp_path, "keep", SpecificCharacterSet="ISO_IR 192", PatientName="山田^太郎")
    assert pydicom.dcmread(out / "sr.dcm").PatientName == "山田^太郎"


def test_malformed_dates_are_left_out(tmp_path: Path) -> None:
    out = write(tmp_path, "keep", StudyDate="last week", StudyTime="10.11", PatientSex="W")
    report = pydicom.dcmread(out / "sr.dcm")
    assert (report.StudyDate, report.StudyTime, report.PatientSex) == ("", "", "")


MISSING = {
    "PatientName": None,
    "PatientID": None,
    "PatientSex": None,
    "PatientBirthDate": None,
    "StudyDate": None,
    "StudyTime": None,
    "StudyID": None,
    "AccessionNumber": None,
    "ReferringPhysicianName": None,
    "StudyInstanceUID": None,
    "SeriesInstanceUID": None,
    "SOPInstanceUID": None,
}


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyDate", "20240231"),
        ("PatientBirthDate", "19991350"),
        ("StudyTime", "246000"),
        ("StudyTime", "101175"),
    ],
)
def test_dates_and_times_that_do_not_exist_are_left_out(
    tmp_path: Path, keyword: str, value: str
) -> None:
    with tolerant_reading():
        out = write(tmp_path, "keep", **{keyword: value})
    assert not pydicom.dcmread(out / "sr.dcm")[keyword].value


def test_a_number_with_a_backslash_is_kept(tmp_path: Path) -> None:
    with tolerant_reading():
        out = write(tmp_path, "keep", PatientID="a\\b")
    assert pydicom.dcmread(out / "sr.dcm").PatientID == ["a", "b"]


@pytest.mark.parametrize("identifiers", ["keep", "pseudonym"])
def test_anonymized_headers_without_tags_will_do(tmp_path: Path, identifiers: str) -> None:
    out = write(tmp_path, identifiers, **MISSING)
    assert pydicom.dcmread(out / "sr.dcm").StudyInstanceUID.is_valid


def test_members_of_archives_are_referred_to(tmp_path: Path) -> None:
    files = write_headers(tmp_path / "in")
    members = {f"s/{k}.dcm": Path(name) for k, name in enumerate(files)}
    archive = write_zip(tmp_path / "study.zip", members)
    (tmp_path / "out").mkdir()
    result, evidence = scored(tuple(str(archive / name) for name in members))
    assert write_dicom_results(tmp_path / "out", result, evidence, identifiers="keep")
    picture = pydicom.dcmread(tmp_path / "out" / "sc" / "0001.dcm")
    [source] = picture.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == generate_uid(entropy_srcs=["image 2"])


def test_slices_of_a_multi_frame_image_refer_to_it(tmp_path: Path) -> None:
    files = write_headers(tmp_path / "in")
    (tmp_path / "out").mkdir()
    result, evidence = scored(files[:1])
    assert write_dicom_results(tmp_path / "out", result, evidence, identifiers="keep")
    for path in (tmp_path / "out" / "sc").iterdir():
        [source] = pydicom.dcmread(path).SourceImageSequence
        assert source.ReferencedSOPInstanceUID == generate_uid(entropy_srcs=["image 0"])


def test_pseudonymous_uids_agree_between_the_results(tmp_path: Path) -> None:
    out = write(tmp_path)
    report, picture = (pydicom.dcmread(out / name) for name in ("sr.dcm", "sc/0001.dcm"))
    assert report.StudyInstanceUID == picture.StudyInstanceUID
    sources = read_sources(
        [tmp_path / "in" / f"{k}.dcm" for k in range(6)],
        "abc123def456",
        "pseudonym",
        slice_count=6,
    )
    assert len({instance.sop_instance_uid for instance in sources.instances}) == 6


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy of dicom3tools")
@pytest.mark.parametrize("identifiers", ["keep", "pseudonym"])
@pytest.mark.parametrize("attributes", [{}, MISSING], ids=["complete", "anonymized"])
def test_results_conform(tmp_path: Path, identifiers: str, attributes: dict[str, object]) -> None:
    out = write(tmp_path, identifiers, **attributes)
    for path in (out / "sr.dcm", out / "sc" / "0001.dcm"):
        verdict = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        assert [line for line in verdict.stderr.splitlines() if line.startswith("Error")] == []


def test_scans_that_are_not_dicom_have_no_dicom_results(tmp_path: Path) -> None:
    result, evidence = scored((), modality=None)
    assert not write_dicom_results(tmp_path, result, evidence, identifiers="keep")
    assert list(tmp_path.iterdir()) == []


def test_zero_score_has_a_report_and_no_picture(tmp_path: Path) -> None:
    files = write_headers(tmp_path / "in")
    (tmp_path / "out").mkdir()
    result, evidence = scored(files)
    assert evidence.score is not None
    evidence.score.feedback[:] = 0.0
    assert write_dicom_results(tmp_path / "out", result, evidence, identifiers="pseudonym")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sr.dcm"]


def test_window_turns_hu_into_gray() -> None:
    hu = np.array([[-2000.0, -160.0, 140.0, 440.0, 3000.0]] * 40).repeat(8, axis=1)
    rgb = marked_slice(hu, np.zeros(hu.shape, np.float32), 0.0, "")
    assert rgb[-1, ::8, 0].tolist() == [0, 0, 127, 255, 255]
