"""Series found by content in any folder, archive or file."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import uid

from pipelines.discovery import SeriesCandidate, _folder_of, find_series
from pipelines.reading import read_scan
from pipelines.reasons import UnusableSeries
from tests.pipelines.dicom_factory import (
    hu_pattern,
    make_enhanced,
    make_slices,
    write_files,
)
from tests.pipelines.only_series import code_of

COUNT = 7


def facts(candidates: list[SeriesCandidate]) -> list[tuple[str, int, str | None]]:
    return [(c.source, len(c.files), c.modality) for c in candidates]


def test_names_and_suffixes_do_not_matter(tmp_path: Path) -> None:
    names = ["a", "b.txt", "c.PDF", "d.nii", "1.2.840.1", "README", "e.zip"]
    write_files(make_slices(COUNT), tmp_path / "scan", names)
    (tmp_path / "scan" / "notes.txt").write_text("of no interest")
    (candidate,) = find_series([tmp_path / "scan"])
    assert facts([candidate]) == [("scan", COUNT, "CT")]
    assert read_scan(candidate).grid.size[2] == COUNT


@pytest.mark.parametrize("keep_meta", [True, False])
def test_files_without_preamble_are_dicom(tmp_path: Path, keep_meta: bool) -> None:
    for number, ds in enumerate(make_slices(COUNT)):
        if not keep_meta:
            del ds.file_meta
        ds.save_as(tmp_path / f"{number}", implicit_vr=False, little_endian=True)
    (candidate,) = find_series([tmp_path])
    assert np.array_equal(sitk.GetArrayFromImage(read_scan(candidate).image), hu_pattern(COUNT))


def test_two_series_in_one_folder_are_told_apart_by_a_file_name(tmp_path: Path) -> None:
    slices = [
        ds for pair in zip(make_slices(COUNT), make_slices(COUNT), strict=True) for ds in pair
    ]
    write_files(slices, tmp_path / "mixed")
    found = find_series([tmp_path / "mixed"])
    assert facts(found) == [
        (f"mixed [IM0001.dcm and {COUNT - 1} more]", COUNT, "CT"),
        (f"mixed [IM0002.dcm and {COUNT - 1} more]", COUNT, "CT"),
    ]
    assert all(read_scan(candidate).grid.size[2] == COUNT for candidate in found)


def test_a_series_over_two_folders_is_one(tmp_path: Path) -> None:
    slices = make_slices(COUNT)
    write_files(slices[:4], tmp_path / "case" / "1")
    write_files(slices[4:], tmp_path / "case" / "2")
    assert facts(find_series([tmp_path / "case"])) == [("case", COUNT, "CT")]


def test_files_given_one_by_one_are_one_series(tmp_path: Path) -> None:
    paths = write_files(make_slices(COUNT), tmp_path / "case")
    assert facts(find_series(paths)) == [("case", COUNT, "CT")]


def test_a_series_over_two_inputs_far_apart_has_the_source_of_its_first_file() -> None:
    files = (Path("/a/first/ct/1.dcm"), Path("/b/second/ct/2.dcm"))
    assert _folder_of(SeriesCandidate(files, "", base=Path("/a"))) == "first/ct"
    assert _folder_of(SeriesCandidate(files, "", base=Path("/"))) == "a/first/ct"


@pytest.mark.parametrize("given", [".", "case", "../here/case"])
def test_sources_begin_with_the_name_of_the_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    write_files(make_slices(COUNT), tmp_path / "here" / "case" / "ct")
    monkeypatch.chdir(tmp_path / "here")
    (candidate,) = find_series([given])
    assert candidate.source == ("here/case/ct" if given == "." else "case/ct")
    monkeypatch.chdir(tmp_path)
    assert read_scan(candidate).grid.size[2] == COUNT


def test_series_without_uid_are_grouped_by_folder_and_number(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        first, second = make_slices(COUNT), make_slices(COUNT + 1, SeriesNumber=5)
        for ds in first + second:
            del ds.SeriesInstanceUID, ds.StudyInstanceUID
        write_files(first + second, tmp_path / folder)
    counts = [len(candidate.files) for candidate in find_series([tmp_path])]
    assert counts == [COUNT, COUNT + 1, COUNT, COUNT + 1]


def test_a_slice_without_uid_joins_the_series_it_lies_in(tmp_path: Path) -> None:
    slices = make_slices(COUNT)
    del slices[-1].SeriesInstanceUID
    write_files(slices, tmp_path)
    (candidate,) = find_series([tmp_path])
    assert read_scan(candidate).grid.size[2] == COUNT


def test_copies_of_files_and_of_series_count_once(tmp_path: Path) -> None:
    paths = write_files(make_slices(COUNT), tmp_path / "a")
    shutil.copy(paths[2], tmp_path / "a" / "copy.dcm")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    image = sitk.GetImageFromArray(hu_pattern(COUNT))
    sitk.WriteImage(image, str(tmp_path / "c.mha"))
    shutil.copy(tmp_path / "c.mha", tmp_path / "d.mha")
    assert facts(find_series([tmp_path])) == [
        (f"{tmp_path.name}/a", COUNT, "CT"),
        (f"{tmp_path.name}/c.mha", 1, None),
    ]


@pytest.mark.parametrize(
    "missing",
    [
        ("SOPInstanceUID",),
        ("SeriesInstanceUID",),
        ("SeriesInstanceUID", "SOPInstanceUID", "StudyInstanceUID"),
    ],
)
def test_copies_of_files_without_uids_count_once(tmp_path: Path, missing: tuple[str, ...]) -> None:
    slices = make_slices(COUNT)
    for ds in slices:
        for keyword in missing:
            delattr(ds, keyword)
    folder = tmp_path / "in" / "a"
    folder.mkdir(parents=True)
    for number, ds in enumerate(slices):
        ds.save_as(folder / f"{number}", implicit_vr=False, little_endian=True)
    shutil.copy(folder / "2", folder / "copy")
    shutil.copytree(folder, tmp_path / "in" / "b")
    (candidate,) = find_series([tmp_path / "in"])
    assert facts([candidate]) == [("in/a", COUNT, "CT")]
    assert read_scan(candidate).grid.size[2] == COUNT


def test_slices_without_uids_that_differ_are_all_kept(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        slices = make_slices(COUNT)
        for ds in slices:
            del ds.SeriesInstanceUID, ds.StudyInstanceUID
            ds.PatientID = folder
        write_files(slices, tmp_path / folder)
    assert [len(candidate.files) for candidate in find_series([tmp_path])] == [COUNT, COUNT]


def test_one_slice_twice_with_different_bytes_is_refused(tmp_path: Path) -> None:
    slices = make_slices(COUNT)
    write_files(slices, tmp_path)
    slices[2].InstanceNumber = 99
    write_files([slices[2]], tmp_path, ["other"])
    (candidate,) = find_series([tmp_path])
    assert code_of(candidate) == "DUPLICATE_SLICE"


def test_files_of_other_kinds_spoil_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(make_slices(COUNT), tmp_path)
    for name in ("notes.txt", "secret.pdf", "._IM0001.dcm", "LICENSE", "voxels.raw"):
        (tmp_path / name).write_bytes(
            b"\x08\x00\x05\x00CS" + bytes(99) if name == "voxels.raw" else b"text"
        )
    (tmp_path / "empty.txt").touch()
    forbid(monkeypatch, tmp_path / "secret.pdf")
    (candidate,) = find_series([tmp_path])
    assert read_scan(candidate).grid.size[2] == COUNT


@pytest.mark.parametrize("name", ["._scan.nii.gz", "__MACOSX/._scan.nrrd", "._scan.mha"])
def test_what_file_managers_leave_beside_a_volume_is_none(tmp_path: Path, name: str) -> None:
    image = sitk.GetImageFromArray(hu_pattern(COUNT))
    sitk.WriteImage(image, str(tmp_path / "scan.nii.gz"))
    beside = tmp_path / name
    beside.parent.mkdir(exist_ok=True)
    beside.write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X" + bytes(100))
    assert [candidate.files[0].name for candidate in find_series([tmp_path])] == ["scan.nii.gz"]


def test_a_volume_may_have_any_name(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(hu_pattern(COUNT)), str(tmp_path / "a.nii"))
    (tmp_path / "a.nii").rename(tmp_path / "._a.nii")
    assert [candidate.kind for candidate in find_series([tmp_path])] == ["volume"]


def test_whatever_is_an_image_series_has_a_row(tmp_path: Path) -> None:
    write_files(make_slices(2, Modality="MR", series_uid="1.1"), tmp_path)
    capture = make_slices(1, series_uid="1.2", SOPClassUID=uid.SecondaryCaptureImageStorage)
    write_files(capture, tmp_path, ["capture"])
    plan = make_slices(
        1, Modality="RTSTRUCT", series_uid="1.3", SOPClassUID=uid.RTStructureSetStorage
    )
    for keyword in ("PixelData", "Rows", "Columns", "ImageOrientationPatient"):
        delattr(plan[0], keyword)
    write_files(plan, tmp_path, ["plan"])
    found = find_series([tmp_path])
    assert [(candidate.modality, code_of(candidate)) for candidate in found] == [
        ("MR", "NOT_CT"),
        ("CT", "NOT_CT"),
        ("RTSTRUCT", "NOT_CT"),
    ]


def test_a_dicomdir_is_no_series(tmp_path: Path) -> None:
    ds = make_slices(1)[0]
    ds.SOPClassUID = "1.2.840.10008.1.3.10"
    write_files([ds], tmp_path, ["DICOMDIR"])
    assert find_series([tmp_path]) == []


def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    assert find_series([tmp_path]) == []


def test_a_missing_input_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_series([tmp_path / "nowhere"])


def test_excluded_folders_are_not_entered(tmp_path: Path) -> None:
    write_files(make_slices(COUNT), tmp_path / "in")
    write_files(make_slices(COUNT), tmp_path / "in" / "out")
    found = find_series([tmp_path / "in"], exclude=[tmp_path / "in" / "out"])
    assert facts(found) == [("in", COUNT, "CT")]


def test_links_in_a_loop_end(tmp_path: Path) -> None:
    write_files(make_slices(COUNT), tmp_path / "a" / "b")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a" / "self")
    assert [len(candidate.files) for candidate in find_series([tmp_path])] == [COUNT]


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "IM0001.dcm")
    assert find_series([tmp_path]) == []


@pytest.mark.parametrize("rest", [0, 100, 200, 400, 700, 1000, 1200])
def test_a_truncated_file_spoils_the_series_it_lies_beside(tmp_path: Path, rest: int) -> None:
    paths = write_files(make_slices(COUNT), tmp_path)
    paths[-1].write_bytes(paths[-1].read_bytes()[:rest])
    (candidate,) = find_series([tmp_path])
    assert len(candidate.files) == COUNT
    with pytest.raises(UnusableSeries, match=f"CORRUPT_FILE.*{paths[-1].name}"):
        read_scan(candidate)


@pytest.mark.parametrize("name", ["DONE", "lock"])
def test_an_empty_file_that_is_not_named_like_the_slices_spoils_nothing(
    tmp_path: Path, name: str
) -> None:
    write_files(make_slices(COUNT), tmp_path)
    (tmp_path / name).write_bytes(b"")
    (candidate,) = find_series([tmp_path])
    assert len(candidate.files) == COUNT


def test_an_empty_file_among_slices_without_suffix_may_be_one_of_them(tmp_path: Path) -> None:
    write_files(make_slices(COUNT), tmp_path, [f"IM{n}" for n in range(COUNT)])
    (tmp_path / "IM9").write_bytes(b"")
    (candidate,) = find_series([tmp_path])
    assert code_of(candidate) == "CORRUPT_FILE"


def test_a_file_that_may_not_be_read_spoils_the_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    paths = write_files(make_slices(COUNT), tmp_path)
    forbid(monkeypatch, paths[-1])
    with caplog.at_level(logging.WARNING):
        (candidate,) = find_series([tmp_path])
    assert f"{paths[-1].name}: Permission denied" in caplog.text
    with pytest.raises(
        UnusableSeries, match=rf"CORRUPT_FILE.*{paths[-1].name} \(Permission denied"
    ):
        read_scan(candidate)


def forbid(monkeypatch: pytest.MonkeyPatch, forbidden: Path) -> None:
    """Deny reading of one file, also to a superuser, who can read everything."""
    import builtins

    allowed = builtins.open

    def guarded(file: object, *args: object, **kwargs: object) -> object:
        if file == forbidden:
            raise PermissionError(13, "Permission denied")
        return allowed(file, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(builtins, "open", guarded)


def test_a_damaged_file_between_two_series_is_a_row_of_its_own(tmp_path: Path) -> None:
    write_files(make_slices(COUNT) + make_slices(COUNT), tmp_path)
    (tmp_path / "IM9999.dcm").write_bytes(b"")
    found = find_series([tmp_path])
    assert [len(candidate.files) for candidate in found] == [COUNT, COUNT, 1]
    assert code_of(found[2]) == "CORRUPT_FILE"


def test_order_does_not_depend_on_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b", "a", "c"):
        write_files(make_slices(COUNT), tmp_path / name)
    expected = find_series([tmp_path])
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: reversed(list(listed(path))))
    assert find_series([tmp_path]) == expected
    assert [candidate.source[-1] for candidate in expected] == ["a", "b", "c"]


def test_candidates_travel_to_other_processes(tmp_path: Path) -> None:
    write_files([make_enhanced(COUNT)], tmp_path)
    (candidate,) = find_series([tmp_path])
    again = pickle.loads(pickle.dumps(candidate))
    assert again == candidate
    assert again.scan_id == candidate.scan_id


def test_headers_are_read_without_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_files(make_slices(COUNT), tmp_path)
    for path in paths:
        with path.open("r+b") as stream:
            stream.truncate(path.stat().st_size - 100)
    (candidate,) = find_series([tmp_path])
    assert facts([candidate]) == [(tmp_path.name, COUNT, "CT")]
    assert code_of(candidate) == "CORRUPT_FILE"
