from __future__ import annotations

import numpy as np
import pydicom
import pytest

from pipelines.discovery import find_series
from pipelines.reading import read_scan
from pipelines.reasons import UnusableSeries
from tests.pipelines.dicom_factory import make_slices, write_files

COUNT = 30
SHAPE = (24, 20)


@pytest.fixture
def scripts():
    import fault_kinds
    import faults

    return fault_kinds, faults


@pytest.fixture
def originals(scripts, tmp_path):
    write_files(make_slices(COUNT, shape=SHAPE), tmp_path / "sound")
    (candidate,) = find_series([tmp_path / "sound"])
    return scripts[1].read_series(candidate)


def test_faults_have_folders_of_their_own(scripts):
    kinds, _ = scripts
    assert (
        len({fault.folder for fault in (kinds.UNTOUCHED, *kinds.FAULTS)}) == len(kinds.FAULTS) + 1
    )


def test_harmless_changes_leave_every_value_where_it_is(scripts, originals, tmp_path):
    kinds, script = scripts
    (candidate,) = find_series([tmp_path / "sound"])
    sound = read_scan(candidate).image
    for fault in kinds.FAULTS:
        if fault.expected != "same":
            continue
        script.write_copy(originals, fault, tmp_path / fault.folder)
        stacks = [
            c
            for c in find_series([tmp_path / fault.folder])
            if len(c.files) > 1 or "zip" in str(c.files)
        ]
        scan = read_scan(stacks[0])
        assert scan.image.GetSize() == sound.GetSize(), fault.name
        for index in np.random.default_rng(0).integers(sound.GetSize(), size=(50, 3)).tolist():
            place = sound.TransformIndexToPhysicalPoint(index)
            found = scan.image[scan.image.TransformPhysicalPointToIndex(place)]
            assert found == sound[index], fault.name


def test_faults_that_reading_can_see_are_refused_with_their_reason(scripts, originals, tmp_path):
    kinds, script = scripts
    tried = 0
    for fault in kinds.FAULTS:
        if fault.expected != "refused" or set(fault.codes) & {"HEART_NOT_COVERED", "NOT_HU"}:
            continue
        script.write_copy(originals, fault, tmp_path / fault.folder)
        (candidate,) = find_series([tmp_path / fault.folder])
        with pytest.raises(UnusableSeries) as refused:
            read_scan(candidate)
        assert refused.value.code in fault.codes, fault.name
        tried += 1
    assert tried >= 15


def test_originals_are_not_changed_and_copies_are_nobody(scripts, originals, tmp_path):
    kinds, script = scripts
    before = [item.to_json() for item in originals.values()]
    script.write_copy(originals, kinds.FAULTS[-1], tmp_path / "copy")
    assert [item.to_json() for item in originals.values()] == before
    copy = pydicom.dcmread(next((tmp_path / "copy").iterdir()))
    assert copy.PatientName == copy.PatientID == script.IDENTITY
    assert copy.SeriesInstanceUID != originals["IM0001.dcm"].SeriesInstanceUID
    assert script.files_naming_the_patient(tmp_path / "copy") == COUNT


UNTOUCHED = {"status": "review", "reasons": "THICK_SLICES", "agatston": "57", "n_lesions": "2"}


@pytest.mark.parametrize(
    ("expected", "codes", "row", "verdict"),
    [
        ("same", (), {}, "as expected"),
        ("same", (), {"agatston": "58"}, "other result"),
        ("same", (), {"reasons": "THICK_SLICES;METAL"}, "other result"),
        ("same", (), {"status": "rejected", "reasons": "CORRUPT_FILE"}, "refused in vain"),
        ("refused", ("NOT_HU",), {"status": "rejected", "reasons": "NOT_HU"}, "as expected"),
        ("refused", ("NOT_HU",), {"status": "rejected", "reasons": "METAL"}, "other reason"),
        ("refused", ("NOT_HU",), {"reasons": "NOT_HU"}, "not refused"),
        ("refused", ("NOT_HU",), {}, "unnoticed"),
        ("warned", ("KVP",), {"reasons": "KVP"}, "as expected"),
        ("warned", ("KVP",), {"reasons": "METAL"}, "unnoticed"),
        ("noticed", (), {"reasons": "METAL"}, "as expected"),
        ("noticed", (), {"status": "rejected"}, "as expected"),
        ("noticed", (), {}, "unnoticed"),
        ("noticed", (), {"status": "failed", "reasons": ""}, "failed"),
        ("same", (), None, "lost"),
    ],
)
def test_verdicts(scripts, expected, codes, row, verdict):
    kinds, script = scripts
    fault = kinds.Fault("some", lambda files: None, expected, codes)
    found = {} if row is None else {**UNTOUCHED, **row}
    assert script.verdict(fault, found, UNTOUCHED) == verdict
    assert verdict in script.VERDICTS


def test_the_scan_counts_and_not_the_localizer_beside_it(scripts):
    kinds, script = scripts
    fault = kinds.Fault("some", lambda files: None, "same")
    scout = {"status": "rejected", "reasons": "LOCALIZER", "agatston": "", "n_lesions": ""}
    found = {"untouched": [UNTOUCHED], "some": [scout, UNTOUCHED]}
    (row,) = script.verdicts("case", [fault], found)
    assert row["verdict"] == "as expected"
    (line,) = script.by_fault(
        [fault], [{**row, "seconds": "2.5"}, {**row, "verdict": "lost", "seconds": ""}]
    )
    assert (line["series"], line["as expected"], line["lost"], line["median s"]) == (2, 1, 1, 2.5)
