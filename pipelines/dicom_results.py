"""Results as DICOM: a structured report, and pictures that every archive can show.

Both are marked preliminary and unverified: no physician has seen them when they are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import highdicom as hd
import numpy as np
import SimpleITK as sitk
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from pipelines.dicom_sources import DEIDENTIFICATION_METHOD, Sources, digest_uid, read_sources
from pipelines.dicom_values import tolerant_reading
from pipelines.pictures import CONTRIBUTION_FLOOR, DRAWN_SHARE, WINDOW_HU
from pipelines.results import LesionRow, ScanResult
from pipelines.scan_folder import CAPTURES_FOLDER, STRUCTURED_REPORT_NAME
from pipelines.version import program_version

if TYPE_CHECKING:
    from pipelines.report import Evidence

MANUFACTURER = "calcium-score"
NOTICE = "Research use, not a medical device"
SCHEME = "99CALCIUMSCORE"
"""Designator of the codes that DICOM has none for."""

REPORT_SERIES_NUMBER = 8101
CAPTURE_SERIES_NUMBER = 8102

CALCIUM_SCORE = CodedConcept("112058", "DCM", "Calcium score")
AGATSTON_METHOD = CodedConcept("112055", "DCM", "Agatston")
VOLUME_METHOD = CodedConcept("112056", "DCM", "Volume")
NO_UNITS = CodedConcept("1", "UCUM", "no units")
CUBIC_MILLIMETER = CodedConcept("mm3", "UCUM", "cubic millimeter")
CALCIFICATION = CodedConcept("36222008", "SCT", "Calcification")
CORONARY_ARTERY = CodedConcept("41801008", "SCT", "Coronary artery")

LISTED_LESIONS = 100
"""Lesions with a measurement group of their own, the largest first."""

OVERLAY_RGB = (255, 91, 46)
"""Color of what counts, as in the report."""

OVERLAY_OPACITY = 0.6

Identifiers = Literal["pseudonym", "keep"]


def write_dicom_results(
    folder: Path, result: ScanResult, evidence: Evidence, *, identifiers: Identifiers
) -> bool:
    """Write `sr.dcm` and `sc/*.dcm` for a scored scan.

    Args:
        folder: Where to.
        result: What is said.
        evidence: The scan and its feedback map.
        identifiers: Whether the results name the patient.

    Returns:
        False if nothing was written, because there is no score or the scan is not DICOM.
    """
    scan, score = evidence.scan, evidence.score
    if scan is None or score is None or scan.acquisition.modality is None:
        return False
    sources = read_sources(
        [Path(name) for name in scan.files],
        result.scan_id,
        identifiers,
        slice_count=scan.grid.size[2],
    )
    with tolerant_reading():  # what is copied from a header may be as odd as it was there
        report = structured_report(result, sources, score.feedback)
        _save(report, folder / STRUCTURED_REPORT_NAME, sources)
        captures = folder / CAPTURES_FOLDER
        pictures = capture_images(result, sources, scan.image, score.feedback)
        for number, picture in enumerate(pictures):
            captures.mkdir(exist_ok=True)
            _save(picture, captures / f"{number + 1:04d}.dcm", sources)
    return True


def structured_report(
    result: ScanResult, sources: Sources, feedback: NDArray[np.floating]
) -> hd.sr.EnhancedSR:
    """Measurements of a scan as an Enhanced SR by template TID 1500.

    Args:
        result: A scored scan.
        sources: The images it was computed from.
        feedback: Contribution of every voxel, shape `(z, y, x)`.

    Source:
        DICOM PS3.16 TID 1500 and 1501; codes of CID 3738 (calcium scoring).
    """
    slices = np.flatnonzero(feedback.sum(axis=(1, 2), dtype=float) >= CONTRIBUTION_FLOOR)
    groups = [_whole_scan(result, sources, slices.tolist())]
    for number, lesion in enumerate(result.lesions[:LISTED_LESIONS]):
        groups.append(_lesion(number + 1, lesion, result, sources))
    context = hd.sr.ObservationContext(
        observer_device_context=hd.sr.ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
                uid=digest_uid(f"{MANUFACTURER} {program_version()}"),
                name=MANUFACTURER,
                manufacturer_name=MANUFACTURER,
                model_name=result.model,
            ),
        )
    )
    content = hd.sr.MeasurementReport(
        observation_context=context,
        procedure_reported=CodedConcept("77477000", "SCT", "Computed tomography"),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    report = hd.sr.EnhancedSR(
        evidence=sources.datasets(),
        content=content[0],
        series_instance_uid=generate_uid(prefix=None),
        series_number=REPORT_SERIES_NUMBER,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=False,
        is_final=False,
        is_verified=False,
        series_description=f"Calcium score, {NOTICE.lower()}",
        **_equipment(result),
    )
    return report


def capture_images(
    result: ScanResult, sources: Sources, image: sitk.Image, feedback: NDArray[np.floating]
) -> Iterator[hd.sc.SCImage]:
    """One color picture for each slice that contributes, in slice order.

    Args:
        result: A scored scan.
        sources: The images it was computed from.
        image: Scan in HU.
        feedback: Contribution of every voxel, shape `(z, y, x)`.
    """
    per_slice = feedback.sum(axis=(1, 2), dtype=float)
    series_uid = generate_uid(prefix=None)
    volume_hu = sitk.GetArrayViewFromImage(image)
    spacing = image.GetSpacing()
    peak = float(feedback.max())
    for number, k in enumerate(np.flatnonzero(per_slice >= CONTRIBUTION_FLOOR).tolist()):
        text = (
            f"slice {k + 1} of {len(volume_hu)}: Agatston {per_slice[k]:.1f} of "
            f"{result.agatston:.1f} ({result.preset})"
        )
        picture = hd.sc.SCImage(
            pixel_array=marked_slice(volume_hu[k], feedback[k], peak, text),
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            study_instance_uid=sources.study_instance_uid,
            series_instance_uid=series_uid,
            series_number=CAPTURE_SERIES_NUMBER,
            sop_instance_uid=generate_uid(prefix=None),
            instance_number=number + 1,
            manufacturer=MANUFACTURER,
            pixel_spacing=(spacing[1], spacing[0]),
            patient_orientation=_orientation(image),
            series_description=f"Calcium score, {NOTICE.lower()}",
            **_subject(sources),
            **_equipment(result),
        )
        picture.DerivationDescription = "Voxels that add to the Agatston score in color"
        picture.SourceImageSequence = _references(sources, k)
        picture.BurnedInAnnotation = "NO"
        picture.BodyPartExamined = "HEART"
        yield picture


def marked_slice(
    slice_hu: NDArray[Any], feedback: NDArray[np.floating], peak: float, text: str
) -> NDArray[np.uint8]:
    """A slice in gray with what counts in color and a line of text, as RGB.

    Args:
        slice_hu: Attenuation in HU, shape `(rows, columns)`.
        feedback: Contribution of every pixel, same shape.
        peak: Largest contribution of a voxel in the scan.
        text: Written into the upper left corner.

    Returns:
        uint8, shape `(rows, columns, 3)`.
    """
    low, high = WINDOW_HU
    gray = np.clip((np.asarray(slice_hu, np.float32) - low) / (high - low), 0.0, 1.0) * 255.0
    rgb = np.repeat(gray[..., None], 3, axis=-1)
    counts = (feedback > 0.0) & (feedback >= DRAWN_SHARE * peak)
    color = np.array(OVERLAY_RGB, np.float32)
    rgb[counts] = (1 - OVERLAY_OPACITY) * rgb[counts] + OVERLAY_OPACITY * color
    picture = Image.fromarray(rgb.astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    draw.text((6, 4), f"{text}\n{NOTICE}", fill=(255, 255, 255))
    return np.asarray(picture)


def _whole_scan(
    result: ScanResult, sources: Sources, slices: list[int]
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    evaluations = [
        _evaluation("RISK_CATEGORY", "Risk category", result.risk_label, result.risk_category),
        _evaluation("CAC_DRS", "CAC-DRS category", result.cac_drs, result.cac_drs),
        _evaluation("PRESET", "Definition of the score", result.preset, result.preset),
        _evaluation("STATUS", "Status of the result", result.status, result.status),
    ]
    for finding in result.findings:
        evaluations.append(_evaluation("GUARD", "Guard that fired", finding.code, finding.code))
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=generate_uid(prefix=None), identifier="All lesions"
        ),
        finding_type=CALCIFICATION,
        finding_sites=[hd.sr.FindingSite(CORONARY_ARTERY)],
        algorithm_id=_algorithm(result),
        measurements=_measurements(result.agatston or 0.0, result.volume_mm3 or 0.0),
        qualitative_evaluations=evaluations,
        source_images=_source_images(sources, slices),
    )


def _lesion(
    number: int, lesion: LesionRow, result: ScanResult, sources: Sources
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=generate_uid(prefix=None), identifier=f"Lesion {number}"
        ),
        finding_type=CALCIFICATION,
        finding_sites=[hd.sr.FindingSite(CORONARY_ARTERY)],
        algorithm_id=_algorithm(result),
        measurements=_measurements(lesion.agatston, lesion.volume_mm3),
        source_images=_source_images(sources, list(lesion.slice_indices)),
    )


def _measurements(agatston: float, volume_mm3: float) -> list[hd.sr.Measurement]:
    return [
        hd.sr.Measurement(CALCIUM_SCORE, agatston, NO_UNITS, method=AGATSTON_METHOD),
        hd.sr.Measurement(CALCIUM_SCORE, volume_mm3, CUBIC_MILLIMETER, method=VOLUME_METHOD),
    ]


def _evaluation(
    code: str, meaning: str, said: str | None, value: str | None
) -> hd.sr.QualitativeEvaluation:
    return hd.sr.QualitativeEvaluation(
        CodedConcept(code, SCHEME, meaning),
        CodedConcept(value or "NONE", SCHEME, said or "none"),
    )


def _algorithm(result: ScanResult) -> hd.sr.AlgorithmIdentification:
    return hd.sr.AlgorithmIdentification(
        name=f"{MANUFACTURER}, {result.model}", version=program_version()
    )


def _source_images(
    sources: Sources, slices: list[int]
) -> list[hd.sr.SourceImageForMeasurementGroup]:
    shown = dict.fromkeys(instance for k in slices for instance in sources.instances_of(k))
    return [
        hd.sr.SourceImageForMeasurementGroup(i.sop_class_uid, i.sop_instance_uid) for i in shown
    ]


def _references(sources: Sources, slice_index: int) -> list[Dataset]:
    references = []
    for instance in sources.instances_of(slice_index):
        ds = Dataset()
        ds.ReferencedSOPClassUID = instance.sop_class_uid
        ds.ReferencedSOPInstanceUID = instance.sop_instance_uid
        references.append(ds)
    return references


def _subject(sources: Sources) -> dict[str, Any]:
    subject = sources.subject
    return {
        "patient_name": subject["PatientName"],
        "patient_id": subject["PatientID"],
        "patient_birth_date": subject["PatientBirthDate"],
        "patient_sex": subject["PatientSex"] or None,
        "accession_number": subject["AccessionNumber"],
        "study_id": subject["StudyID"],
        "study_date": subject["StudyDate"],
        "study_time": subject["StudyTime"],
        "referring_physician_name": subject["ReferringPhysicianName"],
    }


def _equipment(result: ScanResult) -> dict[str, Any]:
    return {
        "manufacturer_model_name": result.model,
        "software_versions": program_version(),
        "device_serial_number": "0",
    }


def _orientation(image: sitk.Image) -> tuple[str, str]:
    """Where rows and columns lead: the nearest side of the patient."""
    direction = np.array(image.GetDirection()).reshape(3, 3)
    return _side(direction[:, 0]), _side(direction[:, 1])


def _side(axis: NDArray[np.floating]) -> str:
    largest = int(np.argmax(np.abs(axis)))
    return ("LPH" if axis[largest] > 0 else "RAF")[largest]


def _save(ds: Dataset, path: Path, sources: Sources) -> None:
    ds.SpecificCharacterSet = "ISO_IR 192"
    if sources.is_pseudonymous:
        ds.PatientIdentityRemoved = "YES"
        ds.DeidentificationMethod = DEIDENTIFICATION_METHOD
    ds.preamble = b"\0" * 128
    ds.save_as(path, enforce_file_format=True)
