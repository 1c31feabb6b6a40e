"""Small synthetic CT series for tests: oblique, off-origin, anisotropic, of known HU.

slices = make_slices(8)                     # pydicom datasets, feet to head
del slices[3]                               # mutate at will
paths = write_files(slices, tmp_path / "series")
expected = hu_pattern(8)                    # shape (8, 12, 16)
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

SHAPE = (12, 16)
PIXEL_SPACING_MM = (0.7, 0.5)
SPACING_MM = 3.0
ORIGIN = (-31.0, 12.5, -140.0)

PATIENT = "Doe^Jane"
"""Name in every file, which must turn up nowhere."""

_YAW, _PITCH = np.radians(8.0), np.radians(5.0)
OBLIQUE = (
    float(np.cos(_YAW)),
    float(np.sin(_YAW)),
    0.0,
    float(-np.sin(_YAW) * np.cos(_PITCH)),
    float(np.cos(_YAW) * np.cos(_PITCH)),
    float(np.sin(_PITCH)),
)
"""ImageOrientationPatient turned by 8° in the plane and then tipped by 5°."""

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def hu_pattern(count: int, shape: tuple[int, int] = SHAPE) -> NDArray[np.int16]:
    """Attenuation of the slices that `make_slices` makes, shape `(count, rows, columns)`."""
    return np.random.default_rng(count).integers(-1000, 1500, (count, *shape)).astype(np.int16)


def slice_positions(
    count: int,
    *,
    orientation: Sequence[float] = OBLIQUE,
    origin: Sequence[float] = ORIGIN,
    spacing_mm: float = SPACING_MM,
) -> NDArray[np.float64]:
    """Positions along the normal, shape `(count, 3)`, LPS mm."""
    normal = np.cross(orientation[:3], orientation[3:])
    return np.array(origin) + spacing_mm * np.arange(count)[:, None] * normal


def make_slices(
    count: int,
    *,
    shape: tuple[int, int] = SHAPE,
    orientation: Sequence[float] = OBLIQUE,
    origin: Sequence[float] = ORIGIN,
    spacing_mm: float = SPACING_MM,
    intercept: float = -1024.0,
    series_uid: str | None = None,
    **attributes: Any,
) -> list[Dataset]:
    """One CT series, a dataset per slice, ordered along the slice normal.

    Args:
        attributes: DICOM keywords and the values they get in every slice.
    """
    series_uid, study_uid, frame_uid = series_uid or generate_uid(), generate_uid(), generate_uid()
    places = slice_positions(count, orientation=orientation, origin=origin, spacing_mm=spacing_mm)
    slices = []
    for number, hu in enumerate(hu_pattern(count, shape)):
        ds = _image(CTImageStorage, hu - int(intercept))
        ds.SeriesInstanceUID, ds.StudyInstanceUID = series_uid, study_uid
        ds.FrameOfReferenceUID = frame_uid
        ds.SeriesNumber, ds.InstanceNumber, ds.AcquisitionNumber = 4, number + 1, 1
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.ImagePositionPatient = [f"{value:.9g}" for value in places[number]]
        ds.ImageOrientationPatient = [f"{value:.9g}" for value in orientation]
        ds.PixelSpacing = list(PIXEL_SPACING_MM)
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = intercept, 1, "HU"
        ds.KVP, ds.ConvolutionKernel, ds.SliceThickness = 120, "B35f", 3
        ds.Manufacturer, ds.ManufacturerModelName = "Maker", "Model 1"
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
        slices.append(ds)
    return slices


def make_enhanced(count: int, *, slopes: Sequence[float] | None = None) -> Dataset:
    """The slices of `make_slices` as one enhanced multi-frame file, frames head to feet.

    Args:
        slopes: RescaleSlope of every frame; stored values are divided by it.
    """
    slopes = slopes or [1.0] * count
    hu = hu_pattern(count)
    stored = np.stack([np.round((a + 1024) / s) for a, s in zip(hu, slopes, strict=True)])
    ds = _image(EnhancedCTImageStorage, stored[::-1])
    ds.SeriesInstanceUID, ds.StudyInstanceUID = generate_uid(), generate_uid()
    ds.NumberOfFrames = count
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    shared = Dataset()
    shared.PlaneOrientationSequence = _item(ImageOrientationPatient=list(OBLIQUE))
    shared.PixelMeasuresSequence = _item(PixelSpacing=list(PIXEL_SPACING_MM), SliceThickness=3)
    shared.CTXRayDetailsSequence = _item(KVP=100)
    shared.CTReconstructionSequence = _item(ConvolutionKernel="Qr36")
    ds.SharedFunctionalGroupsSequence = DicomSequence([shared])
    ds.PerFrameFunctionalGroupsSequence = DicomSequence()
    for place, slope in zip(slice_positions(count)[::-1], slopes[::-1], strict=True):
        group = Dataset()
        group.PlanePositionSequence = _item(
            ImagePositionPatient=[f"{value:.9g}" for value in place]
        )
        group.PixelValueTransformationSequence = _item(
            RescaleIntercept=-1024, RescaleSlope=slope, RescaleType="HU"
        )
        ds.PerFrameFunctionalGroupsSequence.append(group)
    return ds


def write_files(
    datasets: Iterable[Dataset], folder: Path, names: Sequence[str] | None = None
) -> list[Path]:
    """Write one file per dataset, named `IM0001.dcm` and so on unless told otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, ds in enumerate(datasets):
        path = folder / (names[number] if names else f"IM{number + 1:04d}.dcm")
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def write_zip(archive: Path, members: dict[str, Path]) -> Path:
    """Zip files under the names given."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, path in members.items():
            opened.write(path, name)
    return archive


def compress_with_gdcm(paths: Iterable[Path]) -> None:
    """Recompress files in place to JPEG lossless, which pydicom itself cannot write."""
    import gdcm

    for path in paths:
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(path))
        assert writer.Write()


def _image(sop_class: str, stored: NDArray[np.generic]) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, generate_uid()
    ds.Modality = "CT"
    ds.PatientName, ds.PatientID = PATIENT, "MRN-4711"
    ds.Rows, ds.Columns = stored.shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = np.ascontiguousarray(stored).astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def _item(**attributes: object) -> DicomSequence:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return DicomSequence([item])
