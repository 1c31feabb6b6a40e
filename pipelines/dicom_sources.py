"""The instances a DICOM result refers to, and the patient it names or does not name."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID, CTImageStorage
from pydicom.valuerep import DA, TM

from pipelines.dicom_values import text, tolerant_reading
from pipelines.storage import read_bytes

SUBJECT_KEYWORDS = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
"""What a result copies from its images, so that an archive files it with them."""

_IDENTIFIERS = (
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    *SUBJECT_KEYWORDS,
)

_FORMS = {"DA": r"\d{8}", "TM": r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?", "CS": r"[MFO]"}
"""Form of dates, times and of the patient's sex."""

_CALENDAR = {"DA": DA, "TM": TM}
"""What refuses dates and times of the right form that do not exist, such as the 31st of June."""

DEIDENTIFICATION_METHOD = "identifiers replaced by digests, dates removed"


@dataclass(frozen=True, slots=True)
class ReferencedInstance:
    """An image by its identifiers.

    Args:
        sop_class_uid: Kind of object.
        sop_instance_uid: Which one.
        series_instance_uid: Its series.
        study_instance_uid: Its study.
    """

    sop_class_uid: UID
    sop_instance_uid: UID
    series_instance_uid: UID
    study_instance_uid: UID


@dataclass(frozen=True, slots=True)
class Sources:
    """What a result is made from.

    Args:
        subject: Attributes of `SUBJECT_KEYWORDS`, empty where unknown or withheld.
        instances: The images, in slice order; multi-frame objects hold several slices each.
        slice_count: Number of slices of the scan.
        is_pseudonymous: True if nothing leads back to the patient.
    """

    subject: dict[str, str]
    instances: tuple[ReferencedInstance, ...]
    slice_count: int
    is_pseudonymous: bool

    @property
    def study_instance_uid(self) -> UID:
        """The study the result belongs to."""
        return self.instances[0].study_instance_uid

    def instances_of(self, slice_index: int) -> tuple[ReferencedInstance, ...]:
        """The image that holds a slice, or all of them where one image holds several."""
        if len(self.instances) == self.slice_count:
            return self.instances[slice_index : slice_index + 1]
        return self.instances

    def datasets(self) -> list[Dataset]:
        """Just enough of each image for `highdicom` to refer to it."""
        return [self._dataset(instance) for instance in self.instances]

    def _dataset(self, instance: ReferencedInstance) -> Dataset:
        ds = Dataset()
        for keyword in SUBJECT_KEYWORDS:
            setattr(ds, keyword, self.subject[keyword])
        ds.SOPClassUID = instance.sop_class_uid
        ds.SOPInstanceUID = instance.sop_instance_uid
        ds.SeriesInstanceUID = instance.series_instance_uid
        ds.StudyInstanceUID = instance.study_instance_uid
        return ds


def read_sources(
    files: Sequence[Path],
    scan_id: str,
    identifiers: Literal["pseudonym", "keep"],
    *,
    slice_count: int,
) -> Sources:
    """Identifiers of the images of a scan, as they are or replaced.

    Files that lack identifiers, as anonymized ones do, get some that follow from the scan.

    Args:
        files: DICOM files in slice order.
        scan_id: Pseudonym of the scan.
        identifiers: `"keep"` copies the patient's; `"pseudonym"` puts the scan's pseudonym
            in place of name and number, digests in place of UIDs, and leaves out dates.
        slice_count: Number of slices of the scan.
    """
    with tolerant_reading():
        headers = [_read_identifiers(path) for path in files]
        is_pseudonymous = identifiers == "pseudonym"
        subject = dict.fromkeys(SUBJECT_KEYWORDS, "")
        if is_pseudonymous:
            subject["PatientID"] = scan_id
            subject["PatientName"] = f"{scan_id}^"  # a family name alone
        else:
            subject = {keyword: _well_formed(headers[0], keyword) for keyword in SUBJECT_KEYWORDS}
        instances = tuple(
            ReferencedInstance(
                _sop_class(header),
                _uid(header, "SOPInstanceUID", f"{scan_id}/{number}", is_pseudonymous),
                _uid(header, "SeriesInstanceUID", f"{scan_id}/series", is_pseudonymous),
                _uid(headers[0], "StudyInstanceUID", f"{scan_id}/study", is_pseudonymous),
            )
            for number, header in enumerate(headers)
        )
    return Sources(subject, instances, slice_count, is_pseudonymous)


def digest_uid(name: str) -> UID:
    """A valid UID that follows from a name, which cannot be read back from it.

    Source:
        DICOM PS3.5 B.2: a UUID as a decimal number under 2.25.

    Example:
        >>> digest_uid("1.2.3").is_valid, digest_uid("1.2.3") == digest_uid("1.2.3")
        (True, True)
    """
    number = int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest()[:16], "big")
    return UID(f"2.25.{number}")


def _read_identifiers(path: Path) -> Dataset:
    """The identifying attributes of a file, also of one inside an archive."""
    stream = path if path.is_file() else io.BytesIO(read_bytes(path))
    return pydicom.dcmread(
        stream, stop_before_pixels=True, force=True, specific_tags=[*_IDENTIFIERS]
    )


def _uid(header: Dataset, keyword: str, fallback: str, is_pseudonymous: bool) -> UID:
    found = UID(text(header, keyword) or "")
    if found and found.is_valid and not is_pseudonymous:
        return found
    return digest_uid(str(found) or fallback)


def _sop_class(header: Dataset) -> UID:
    found = UID(text(header, "SOPClassUID") or "")
    return found if found and found.is_valid else CTImageStorage


def _well_formed(header: Dataset, keyword: str) -> str:
    """Value of an attribute, empty if absent, not of its form, or no date or time that exists."""
    found = header.get(keyword) or ""
    # a backslash in a name or number makes it several values to pydicom
    value = "\\".join(map(str, found)) if isinstance(found, MultiValue) else str(found)
    value = value.strip(" \0")
    kind = dictionary_VR(keyword)
    if kind in _FORMS and not re.fullmatch(_FORMS[kind], value):
        return ""
    try:
        if value and kind in _CALENDAR:
            _CALENDAR[kind](value)
    except ValueError:
        return ""
    return value
