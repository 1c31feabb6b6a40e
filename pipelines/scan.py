"""The `Scan`: one CT series as every later step sees it, in HU and LPS millimetres."""

from __future__ import annotations

from dataclasses import dataclass, field

import SimpleITK as sitk

from registration.geometry import ImageGrid


@dataclass(frozen=True, slots=True)
class Acquisition:
    """What the headers say about how the scan was made; `None` where they are silent.

    Args:
        modality: DICOM Modality (0008,0060), `"CT"` expected; `None` for non-DICOM files.
        kvp: Tube voltage, kV (0018,0060).
        convolution_kernel: Vendor's reconstruction kernel (0018,1210).
        slice_thickness_mm: Nominal Slice Thickness (0018,0050), mm: not the spacing.
        contrast_agent: True if Contrast/Bolus Agent (0018,0010) names one.
        gantry_tilt_deg: Angle between slice normal and stacking direction, degrees.
        manufacturer: Vendor and model, free of identifiers.
        body_part: BodyPartExamined (0018,0015).
        image_type: ImageType (0008,0008) values.
        calibration_factor_mg_per_hu_cm3: Calcium mass scoring factor from
            (0018,9351)/(0018,9352), mg/(HU cm³).
    """

    modality: str | None = None
    kvp: float | None = None
    convolution_kernel: str | None = None
    slice_thickness_mm: float | None = None
    contrast_agent: bool | None = None
    gantry_tilt_deg: float | None = None
    manufacturer: str | None = None
    body_part: str | None = None
    image_type: tuple[str, ...] = ()
    calibration_factor_mg_per_hu_cm3: float | None = None


@dataclass(frozen=True, slots=True)
class Scan:
    """One CT volume, ready to be scored.

    Slices run feet to head (index z grows along +S wherever the series allows it);
    padding outside the reconstruction circle is kept as read.

    Args:
        scan_id: Pseudonym, stable for the same file set; safe as a folder name.
        image: Attenuation in HU on the native grid, LPS mm. Never written to.
        slice_spacing_mm: Distance between neighbouring slice positions, mm.
        acquisition: What the headers say.
        files: Paths of the files that hold the pixels, in slice order. A path may lead
            through a zip archive: open it with `pipelines.storage.open_file`.
        source: What the user gave, relative to the input where possible.
        content_hash: SHA-256 over the files' bytes, the key of the journal.
        warnings: Reason codes that do not forbid scoring.
    """

    scan_id: str
    image: sitk.Image
    slice_spacing_mm: float
    acquisition: Acquisition
    files: tuple[str, ...] = ()
    source: str = ""
    content_hash: str = ""
    warnings: tuple[str, ...] = field(default=())

    @property
    def grid(self) -> ImageGrid:
        """The native grid."""
        return ImageGrid.from_image(self.image)
