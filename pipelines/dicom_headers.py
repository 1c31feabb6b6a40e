"""What discovery needs of a DICOM file: a few attributes, read without the pixels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from pipelines.dicom_values import integer, number, numbers, text, texts
from pipelines.storage import UnreadableFile, open_file

CT_SOP_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.2",  # CT Image Storage
        "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT Image Storage
        "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT Image Storage
    }
)
"""SOP classes of CT slices (DICOM PS3.4 B.5)."""

DIRECTORY_SOP_CLASS = "1.2.840.10008.1.3.10"
"""SOP class of a DICOMDIR, which lists files and holds no image (DICOM PS3.4 B.5)."""

_KEYWORDS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "PatientID",
    "FrameOfReferenceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "ImageType",
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "ConvolutionKernel",
    "SliceThickness",
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "NominalPercentageOfCardiacPhase",
    "TriggerTime",
    "KVP",
]


@dataclass(frozen=True, slots=True)
class FileHeader:
    """The attributes of one file by which series are told apart; `None` where absent.

    Args:
        path: Where the file is.
        modality: Modality; `"CT"` also for a CT SOP class without one.
        patient: Digest of the patient's number, which is never kept.
        frame_of_reference_uid: Coordinate system of the positions.
        is_slice: False if the SOP class is not one of CT slices, as for screen captures.
        orientation: ImageOrientationPatient, row then column direction in LPS.
        position: ImagePositionPatient, LPS mm.
    """

    path: Path
    modality: str | None = None
    is_slice: bool = True
    patient: str | None = None
    frame_of_reference_uid: str | None = None
    study_uid: str | None = None
    series_uid: str | None = None
    instance_uid: str | None = None
    series_number: int | None = None
    image_type: tuple[str, ...] = ()
    rows: int | None = None
    columns: int | None = None
    pixel_spacing_mm: tuple[float, ...] | None = None
    orientation: tuple[float, ...] | None = None
    position: tuple[float, ...] | None = None
    convolution_kernel: str | None = None
    slice_thickness_mm: float | None = None
    kvp: float | None = None
    acquisition_number: int | None = None
    temporal_position: int | None = None
    cardiac_phase_percent: float | None = None
    trigger_time_ms: float | None = None

    @property
    def is_localizer(self) -> bool:
        """True for a scout view (DICOM PS3.3 C.8.2.1.1.1: ImageType value 3)."""
        return "LOCALIZER" in self.image_type


def is_dicom(head: bytes) -> bool:
    r"""Whether a file is DICOM, by its first 256 bytes.

    Files without the 128-byte preamble are recognized by a first element of group 0002
    or 0008 with a value representation, or with a length that could be true.

    Example:
        >>> is_dicom(bytes(128) + b"DICM" + bytes(20))
        True
        >>> is_dicom(b"\x89PNG" + bytes(200))
        False
    """
    if has_preamble(head):
        return True
    group, element = head[:2], head[2:4]
    if group not in (b"\x02\x00", b"\x08\x00") or len(head) < 16 or element[1:] != b"\x00":
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return explicit or int.from_bytes(head[4:8], "little") <= 256


def has_preamble(head: bytes) -> bool:
    """Whether a file says that it is DICOM (DICOM PS3.10 section 7.1)."""
    return head[128:132] == b"DICM"


def read_header(path: Path) -> FileHeader | None:
    """Header of a DICOM file, `None` for a DICOMDIR.

    Raises:
        UnreadableFile: If the file cannot be opened, or breaks off before it says what
            series it belongs to.
    """
    ds = _read_dataset(path)
    if text(ds.file_meta, "MediaStorageSOPClassUID") == DIRECTORY_SOP_CLASS:
        return None
    if is_broken_off(ds):
        raise UnreadableFile("the header is damaged")
    return FileHeader(
        path,
        modality=modality_of(ds),
        is_slice=text(ds, "SOPClassUID") in CT_SOP_CLASSES | {None},
        patient=_digest(text(ds, "PatientID")),
        frame_of_reference_uid=text(ds, "FrameOfReferenceUID"),
        study_uid=text(ds, "StudyInstanceUID"),
        series_uid=text(ds, "SeriesInstanceUID"),
        instance_uid=text(ds, "SOPInstanceUID"),
        series_number=integer(ds, "SeriesNumber"),
        image_type=tuple(value.upper() for value in texts(ds, "ImageType")),
        rows=integer(ds, "Rows"),
        columns=integer(ds, "Columns"),
        pixel_spacing_mm=numbers(ds, "PixelSpacing", 2),
        orientation=numbers(ds, "ImageOrientationPatient", 6),
        position=numbers(ds, "ImagePositionPatient", 3),
        convolution_kernel=text(ds, "ConvolutionKernel"),
        slice_thickness_mm=number(ds, "SliceThickness"),
        kvp=number(ds, "KVP"),
        acquisition_number=integer(ds, "AcquisitionNumber"),
        temporal_position=integer(ds, "TemporalPositionIdentifier"),
        cardiac_phase_percent=number(ds, "NominalPercentageOfCardiacPhase"),
        trigger_time_ms=number(ds, "TriggerTime"),
    )


def is_broken_off(ds: Dataset) -> bool:
    """Whether a file ends before it says what series it belongs to, or in the header of an image.

    A file that ends within a SeriesInstanceUID seems to have a series of its own; that a
    CT slice has no Rows gives it away.
    """
    if integer(ds, "Rows") is not None:
        return False
    is_slice = text(ds, "SOPClassUID") in CT_SOP_CLASSES
    return is_slice or text(ds, "SeriesInstanceUID") is None


def modality_of(ds: Dataset) -> str | None:
    """Modality (0008,0060), or CT where only the SOP class says so."""
    if modality := text(ds, "Modality"):
        return modality.upper()
    return "CT" if text(ds, "SOPClassUID") in CT_SOP_CLASSES else None


def _digest(value: str | None) -> str | None:
    return None if value is None else hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()


def _read_dataset(path: Path) -> Dataset:
    try:
        with open_file(path) as stream:
            return dcmread(
                stream,
                force=True,
                stop_before_pixels=True,
                specific_tags=list(_KEYWORDS),
            )
    except UnreadableFile:
        raise
    except Exception as error:  # pydicom raises almost anything on a damaged header
        raise UnreadableFile("the header is damaged") from error
