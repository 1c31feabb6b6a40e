"""Phantoms as ordinary DICOM CT series, with the truth in a file beside them."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from pipelines.phantoms.mediastinum import LABELS
from pipelines.phantoms.phantom import Phantom, make_phantom
from pipelines.phantoms.settings import KINDS, STANDARD, PhantomSettings

IMPLEMENTATION_UID = UID("2.25.210893540285413921460281053341230611829")
"""Implementation Class UID of the writer."""

_NAMESPACE = uuid.UUID("5f0c6d4e-2f1f-4d6e-9a53-0d4a2f3c9b11")
TRUTH_FILE = "truth.json"
"""Name of the file with the truth."""

RESCALE_INTERCEPT = -1024
"""Stored values are HU + 1024, as most scanners write them."""


@dataclass(frozen=True, slots=True)
class CohortRow:
    """One phantom of a written cohort.

    Args:
        name: Folder name.
        kind: `cardiac` or `chest`.
        seed: What it was drawn from.
        agatston: True `agatston-1990` score.
        category: True risk category.
        plaques: Number of coronary plaques drawn.
        slices: Number of slices.
    """

    name: str
    kind: str
    seed: int
    agatston: float
    category: str
    plaques: int
    slices: int


def write_phantom(phantom: Phantom, folder: str | Path) -> Path:
    """Write `folder/series/*.dcm` and `folder/truth.json`, masks beside it.

    The same phantom gives the same bytes. The masks are segmentations, `*.seg.nrrd` in
    `folder/truth`, which `calcium-score run` passes over.

    Returns:
        The folder of the DICOM series.
    """
    base = Path(folder)
    series = base / "series"
    truth = base / "truth"
    for path in (series, truth):
        path.mkdir(parents=True, exist_ok=True)
    array = sitk.GetArrayViewFromImage(phantom.image)
    for index, plane in enumerate(array):
        dataset = _slice_dataset(phantom, index, np.asarray(plane))
        dataset.save_as(series / f"IM{index + 1:04d}.dcm", enforce_file_format=True)
    _write_segments(phantom.calcium_mask, truth / "calcium.seg.nrrd", {"coronary_calcium": 1})
    organs = {name: value for name, value in LABELS.items() if value > 0}
    _write_segments(phantom.labels, truth / "organs.seg.nrrd", organs)
    text = json.dumps(truth_record(phantom), indent=1, sort_keys=True)
    (base / TRUTH_FILE).write_text(text + "\n", encoding="utf-8")
    return series


def _write_segments(image: sitk.Image, path: Path, names: dict[str, int]) -> None:
    """Write labels as a segmentation that 3-D Slicer opens with names, and `run` passes over."""
    labeled = sitk.Image(image)
    for number, (name, value) in enumerate(names.items()):
        labeled.SetMetaData(f"Segment{number}_ID", name)
        labeled.SetMetaData(f"Segment{number}_Name", name)
        labeled.SetMetaData(f"Segment{number}_LabelValue", str(value))
        labeled.SetMetaData(f"Segment{number}_Layer", "0")
    sitk.WriteImage(labeled, str(path), useCompression=True)


def truth_record(phantom: Phantom) -> dict[str, object]:
    """The truth as plain JSON values."""
    return {
        "kind": phantom.kind,
        "seed": phantom.seed,
        "population": phantom.population,
        "series_instance_uid": str(_uid(phantom, "series")),
        "slice_spacing_mm": phantom.grid.spacing[2],
        "slice_thickness_mm": phantom.slice_thickness_mm,
        "kernel": phantom.kernel,
        "kvp": phantom.kvp,
        "noise_hu": round(phantom.noise_hu, 3),
        "truth": asdict(phantom.truth),
        "landmarks_lps_mm": phantom.landmarks,
        "centerlines_lps_mm": {n: np.round(c, 2).tolist() for n, c in phantom.centerlines.items()},
        "plaques": [asdict(p) for p in phantom.plaques],
        "distractors": [asdict(d) for d in phantom.distractors],
    }


def write_cohort(
    out: str | Path,
    *,
    subjects: int,
    seed: int,
    kind: str = "mixed",
    settings: PhantomSettings = STANDARD,
) -> list[CohortRow]:
    """Write `subjects` phantoms, `mixed` alternating cardiac and chest.

    Scores are spread so that every risk category occurs if there are at least five subjects
    in all; the share of zeros follows the settings.

    Returns:
        One row per phantom, in the order of the folders.

    Raises:
        ValueError: If `kind` is unknown or `subjects` is not positive.
    """
    if kind not in (*KINDS, "mixed") or subjects < 1:
        raise ValueError(
            f"kind must be one of {', '.join(KINDS)}, mixed and subjects at least 1. "
            f"Received: kind={kind!r}, subjects={subjects}"
        )
    rows = []
    targets = spread_targets(subjects, seed, settings)
    for number, target in enumerate(targets):
        each = KINDS[number % 2] if kind == "mixed" else kind
        phantom = make_phantom(
            each, seed * 10_000 + number, settings=settings, target_agatston=target
        )
        name = f"{each}-{number + 1:04d}"
        write_phantom(phantom, Path(out) / name)
        score = phantom.truth.agatston["agatston-1990"]
        plaques, slices = len(phantom.plaques), phantom.grid.size[2]
        category = phantom.truth.category
        rows.append(CohortRow(name, each, phantom.seed, score, category, plaques, slices))
    return rows


def spread_targets(subjects: int, seed: int, settings: PhantomSettings) -> list[float]:
    """Intended scores of a cohort, stratified over the categories and shuffled.

    Example:
        >>> sorted(t > 0 for t in spread_targets(6, 0, STANDARD))
        [False, False, True, True, True, True]
    """
    rng = np.random.default_rng([seed, 77])
    zeros = round(settings.calcium.zero_fraction * subjects)
    bounds = ((3.0, 8.5), (16.0, 85.0), (125.0, 350.0), (480.0, settings.calcium.max_score))
    weights = np.array(settings.calcium.category_weights, float)
    counts = weights / weights.sum() * (subjects - zeros)
    order = np.repeat(np.arange(4), np.ceil(counts).astype(int))
    order = np.array([3, 1, 2, 0]) if subjects - zeros < 4 else _trim(order, subjects - zeros)
    targets = [0.0] * zeros
    for level in order[: subjects - zeros]:
        low, high = np.log(bounds[int(level)])
        targets.append(float(np.exp(rng.uniform(low, high))))
    return [targets[i] for i in rng.permutation(subjects)]


def _trim(order: np.ndarray, wanted: int) -> np.ndarray:
    """Drop from the most frequent levels until `wanted` are left."""
    kept = list(order)
    while len(kept) > wanted:
        values, counts = np.unique(kept, return_counts=True)
        kept.remove(values[int(np.argmax(counts))])
    return np.array(kept)


def _uid(phantom: Phantom, part: str) -> UID:
    """UID that follows from the phantom alone (PS3.5 B.2, derived from a UUID)."""
    name = f"{phantom.population}/{phantom.kind}/{phantom.seed}/{phantom.grid.size}/{part}"
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, name).int}")


def _slice_dataset(phantom: Phantom, index: int, plane: np.ndarray) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = _uid(phantom, f"image-{index}")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    meta.ImplementationVersionName = "CALCIUMSCORE"
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    _add_patient_and_study(ds, phantom)
    _add_acquisition(ds, phantom)
    _add_image(ds, phantom, index, plane)
    return ds


def _add_patient_and_study(ds: Dataset, phantom: Phantom) -> None:
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientName = f"Phantom^{phantom.kind.title()} {phantom.seed:04d}"
    ds.PatientID = f"PHANTOM-{phantom.kind.upper()}-{phantom.seed:06d}"
    ds.PatientBirthDate = ""
    ds.PatientSex = "O"
    ds.StudyInstanceUID = _uid(phantom, "study")
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20240101"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "120000"
    ds.AccessionNumber = ""
    ds.ReferringPhysicianName = ""
    ds.StudyID = "1"
    ds.StudyDescription = "Digital phantom"
    ds.Modality = "CT"
    ds.SeriesInstanceUID = _uid(phantom, "series")
    ds.SeriesNumber = 2
    gated = phantom.kind == "cardiac"
    ds.SeriesDescription = "CaScore, phantom" if gated else "Thorax native, phantom"
    ds.ProtocolName = "CaScore" if gated else "Thorax"
    ds.BodyPartExamined = "HEART" if gated else "CHEST"
    ds.PatientPosition = "HFS"
    ds.FrameOfReferenceUID = _uid(phantom, "frame")
    ds.PositionReferenceIndicator = ""
    ds.Manufacturer = "Digital phantom"
    ds.ManufacturerModelName = "Thorax"
    ds.SoftwareVersions = "1"


def _add_acquisition(ds: Dataset, phantom: Phantom) -> None:
    grid = phantom.grid
    ds.SOPClassUID = CTImageStorage
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.KVP = str(phantom.kvp)
    ds.SliceThickness = _decimal(phantom.slice_thickness_mm)
    ds.SpacingBetweenSlices = _decimal(grid.spacing[2])
    ds.DataCollectionDiameter = "500"
    ds.ReconstructionDiameter = _decimal(grid.spacing[0] * grid.size[0])
    ds.ConvolutionKernel = phantom.kernel
    ds.GantryDetectorTilt = "0"
    ds.AcquisitionNumber = 1


def _add_image(ds: Dataset, phantom: Phantom, index: int, plane: np.ndarray) -> None:
    grid = phantom.grid
    position = grid.physical_points([[0, 0, index]])[0]
    ds.SOPInstanceUID = _uid(phantom, f"image-{index}")
    ds.InstanceNumber = index + 1
    ds.ImagePositionPatient = [_decimal(v) for v in position]
    ds.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    ds.SliceLocation = _decimal(position[2])
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = int(grid.size[1]), int(grid.size[0])
    ds.PixelSpacing = [_decimal(grid.spacing[1]), _decimal(grid.spacing[0])]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelRepresentation = 1
    if phantom.padding_hu is not None:
        ds.add_new("PixelPaddingValue", "SS", phantom.padding_hu - RESCALE_INTERCEPT)
    ds.WindowCenter, ds.WindowWidth = "90", "750"
    ds.RescaleIntercept, ds.RescaleSlope = str(RESCALE_INTERCEPT), "1"
    ds.RescaleType = "HU"
    stored = (plane.astype(np.int32) - RESCALE_INTERCEPT).astype("<i2")
    ds.PixelData = stored.tobytes()


def _decimal(value: float) -> str:
    """A DICOM decimal string of at most 16 characters."""
    return f"{float(value):.6f}".rstrip("0").rstrip(".")[:16] or "0"
