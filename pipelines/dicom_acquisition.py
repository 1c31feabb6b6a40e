"""How a CT series was made, as its headers tell it."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

from pipelines.dicom_frames import FrameAttributes
from pipelines.dicom_values import first_item, number, numbers, text, texts
from pipelines.scan import Acquisition

NO_CONTRAST_WORDS = frozenset({"NO", "NONE", "N", "0", "NO CONTRAST", "WITHOUT", "NATIVE", "-"})
"""Entries of Contrast/Bolus Agent (0018,0010) that mean there was none (own collection)."""

LOSSY_SYNTAXES = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless})
"""Transfer syntaxes that always lose something; JPEG 2000 may or may not, the header tells."""


def read_acquisition(
    frames: Sequence[FrameAttributes], gantry_tilt_deg: float
) -> tuple[Acquisition, tuple[str, ...]]:
    """Acquisition facts of a series and the reason codes that call for a second look.

    Slices may have been made with different settings; then all kernels are given, joined
    by a slash, and no tube voltage.

    Args:
        frames: Slices in order.
        gantry_tilt_deg: Angle between slice normal and stacking direction, degrees.
    """
    first = frames[0]
    kernels = sorted(
        {text(f.holder("ConvolutionKernel"), "ConvolutionKernel") or "" for f in frames}
    )
    voltages = {number(f.holder("KVP"), "KVP") for f in frames}
    acquisition = Acquisition(
        modality="CT",
        kvp=_positive(next(iter(voltages))) if len(voltages) == 1 else None,
        convolution_kernel="/".join(filter(None, kernels)) or None,
        slice_thickness_mm=_positive(number(first.holder("SliceThickness"), "SliceThickness")),
        contrast_agent=_has_contrast_agent(first),
        gantry_tilt_deg=gantry_tilt_deg,
        manufacturer=_manufacturer(first),
        body_part=text(first.ds, "BodyPartExamined"),
        image_type=texts(first.holder("FrameType"), "FrameType") or texts(first.ds, "ImageType"),
        calibration_factor_mg_per_hu_cm3=_calibration_factor(first),
    )
    warnings = []
    if len(kernels) > 1 or len(voltages) > 1:
        warnings.append("MIXED_SETTINGS")
    if any(_is_lossy(frame) for frame in frames):
        warnings.append("LOSSY")
    return acquisition, tuple(warnings)


def _is_lossy(frame: FrameAttributes) -> bool:
    syntax = text(frame.ds.file_meta, "TransferSyntaxUID")
    return syntax in LOSSY_SYNTAXES or text(frame.ds, "LossyImageCompression") == "01"


def _positive(value: float | None) -> float | None:
    return value if value is not None and value > 0 else None


def _manufacturer(frame: FrameAttributes) -> str | None:
    words = (text(frame.ds, "Manufacturer"), text(frame.ds, "ManufacturerModelName"))
    return " ".join(filter(None, words)) or None


def _has_contrast_agent(frame: FrameAttributes) -> bool | None:
    """True if an agent is named, False if the header says there was none, else `None`."""
    agent = text(frame.ds, "ContrastBolusAgent")
    if agent is not None:
        return agent.upper() not in NO_CONTRAST_WORDS
    return True if first_item(frame.ds, "ContrastBolusAgentSequence") else None


def _calibration_factor(frame: FrameAttributes) -> float | None:
    """Factor for this patient; that of the device only if it is one for all patient sizes."""
    patient = _positive(number(frame.ds, "CalciumScoringMassFactorPatient"))
    device = set(numbers(frame.ds, "CalciumScoringMassFactorDevice") or ())
    return patient or (_positive(device.pop()) if len(device) == 1 else None)
