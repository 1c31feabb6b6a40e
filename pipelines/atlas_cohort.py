"""The cohort of an atlas: found in folders, archives and tables, read, refused or prepared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from atlas.member import Modality, UnusableImageError, prepare_member, write_member
from atlas.subjects import Subject, in_order, read_subjects, stem
from pipelines.atlas_labels import keep_label
from pipelines.discovery import SeriesCandidate, find_series
from pipelines.hounsfield import AIR_CEILING_HU
from pipelines.pair_files import UnusableFile, read_pair_image
from pipelines.reading import read_scan
from pipelines.reasons import UnusableSeries
from pipelines.volume_contents import read_image
from registration.atomic_files import write_atomically
from registration.geometry import ImageGrid
from registration.image_files import has_plain_name

if TYPE_CHECKING:
    from collections.abc import Mapping

CT_SPACING_MM = 3.0
"""Voxel of an atlas of CT [mm]: that of the model's own atlas."""

MOST_VOXELS = 2.0**22
"""Voxels of an atlas at most, unless a spacing is given: what a laptop averages in seconds."""

MOST_MEASURED = 20
"""DICOM series that are read to find the size of a voxel, spread over the cohort."""

CONTRAST_CODE = "CONTRAST"
"""Review of a scan whose header names a contrast agent; `run` looks at the heart as well, which an
atlas has yet to find."""

IMAGES_FOLDER, LABELS_FOLDER, MASKS_FOLDER = "images", "labels", "masks"
"""A cohort folder may hold these three, with files of the same names."""


@dataclass(frozen=True, slots=True)
class CohortEntry:
    """A subject and the files it is read from.

    Args:
        subject: Id, mask, label and group.
        candidate: Its series.
    """

    subject: Subject
    candidate: SeriesCandidate


@dataclass(frozen=True, slots=True)
class PrepareTask:
    """Read one subject, and write it as the builder wants it, or why it cannot be used.

    Args:
        entry: The subject.
        modality: What its values are.
        spacing_mm: Edge of a voxel.
        out: Prepared subject.
        label: Copy of its label image, if it has one.
        refusal: JSON with the reason, written instead of `out`.
        facts: JSON with the content hash, written last.
    """

    entry: CohortEntry
    modality: Modality
    spacing_mm: float
    out: Path
    label: Path
    refusal: Path
    facts: Path


def read_entries(cohort: Path, *, exclude: Sequence[Path] = ()) -> tuple[CohortEntry, ...]:
    """Subjects of a CSV table or of a folder, by id.

    A table is described in `atlas.subjects.read_subjects`; its paths lead to image files, to
    DICOM folders or to archives that hold one series each. In a folder every series is a subject:
    image files go by their names, DICOM series by the pseudonym that `run` gives them.

    Raises:
        ValueError: If nothing is found, or a path of a table does not lead to one series.
    """
    if cohort.is_file() and cohort.suffix.lower() == ".csv":
        entries = [_entry_of(subject) for subject in read_subjects(cohort)]
    else:
        entries = _entries_of_folder(cohort, exclude)
    if not entries:
        raise ValueError(f"no images or CT series are in {cohort}")
    names = [subject.subject_id for subject in in_order([entry.subject for entry in entries])]
    by_name = {entry.subject.subject_id: entry for entry in entries}
    return tuple(by_name[name] for name in names)


def find_modality(entries: Sequence[CohortEntry]) -> Modality:
    """Whether a cohort is CT: if a DICOM series is; otherwise the first image decides.

    Image files are judged by their values. What cannot be read says nothing.
    """
    if any(entry.candidate.modality == "CT" for entry in entries):
        return "ct"
    for entry in entries:
        try:
            image = _read_other(entry.candidate)
        except UnusableSeries:
            continue
        if entry.candidate.kind == "dicom":
            return "other"
        return "ct" if float(sitk.GetArrayViewFromImage(image).min()) <= AIR_CEILING_HU else "other"
    return "other"


def find_spacing_mm(entries: Sequence[CohortEntry], modality: Modality) -> float:
    """Edge of the atlas' voxels where none is given.

    For CT a fixed one; otherwise the cube root of the median voxel of the cohort, coarser where
    that would make more than `MOST_VOXELS`. Of image files the headers are read, of DICOM series
    at most `MOST_MEASURED`.

    Raises:
        ValueError: If no image can be read.
    """
    if modality == "ct":
        return CT_SPACING_MM
    series = [entry.candidate for entry in entries if entry.candidate.kind == "dicom"]
    step = -(-len(series) // MOST_MEASURED) or 1
    measured = [_measures_of_series(candidate) for candidate in series[::step]]
    measured += [
        _measures_of_file(entry.candidate.files[0])
        for entry in entries
        if entry.candidate.kind == "volume"
    ]
    found = np.array([each for each in measured if each is not None])
    if not found.size:
        raise ValueError("none of the images can be read")
    volume, extent = np.median(found, axis=0)
    return float(f"{max(volume, extent / MOST_VOXELS) ** (1 / 3):.3g}")


def _measures_of_file(path: Path) -> tuple[float, float] | None:
    """Volume of a voxel and of an image, mm³, by its header; `None` if it cannot be read."""
    if not has_plain_name(path):
        return None
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    voxel = float(np.prod(reader.GetSpacing()[:3]))
    return voxel, voxel * float(np.prod(reader.GetSize()[:3]))


def _measures_of_series(candidate: SeriesCandidate) -> tuple[float, float] | None:
    """The same of a DICOM series."""
    try:
        image = _read_other(candidate)
    except UnusableSeries:
        return None
    voxel = float(np.prod(image.GetSpacing()))
    return voxel, voxel * image.GetNumberOfPixels()


def prepare(task: PrepareTask) -> None:
    """Do a `PrepareTask`; what cannot be used is refused as `run` refuses it.

    Of the guards of `run` those that need no model are applied. The codes of what asks for a
    person are kept with the facts.
    """
    if task.facts.exists():
        return
    task.facts.parent.mkdir(parents=True, exist_ok=True)
    facts: dict[str, object] = {"sha256": None}
    try:
        mask, label = task.entry.subject.mask, task.entry.subject.label
        image, facts["review"] = _read(task.entry.candidate, task.modality)
        member = prepare_member(
            image,
            modality=task.modality,
            spacing_mm=task.spacing_mm,
            mask=None if mask is None else read_pair_image(mask),
        )
        if label is not None:
            keep_label(label, ImageGrid.from_image(image), task.label)
        write_member(member, task.out)
        facts["sha256"] = task.entry.candidate.content_hash
    except UnusableSeries as reason:
        _refuse(task, reason.code, reason.message)
    except (UnusableFile, UnusableImageError) as reason:
        _refuse(task, "", str(reason))
    write_atomically(task.facts, json.dumps(facts) + "\n")


def read_refusal(path: Path) -> Mapping[str, str] | None:
    """Code and message of a refused subject, `None` if it was not refused."""
    if not path.exists():
        return None
    refusal: Mapping[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return refusal


def _refuse(task: PrepareTask, code: str, message: str) -> None:
    refusal = {"code": code, "message": message}
    write_atomically(task.refusal, json.dumps(refusal, ensure_ascii=False) + "\n")


def _read(candidate: SeriesCandidate, modality: Modality) -> tuple[sitk.Image, list[str]]:
    """Voxels of a series, and the codes of guards that ask for a person.

    Raises:
        UnusableSeries: If it cannot be used, also by a guard that needs no model.
        UnusableFile: If it is no volume.
    """
    if modality == "ct":
        return _read_ct(candidate)
    image = _read_other(candidate)
    while image.GetDimension() > 3:
        image = image[..., 0]
    size = image.GetSize()
    if min(size) < 2:
        raise UnusableFile(f"it has the size {size}; an atlas needs volumes")
    return image, []


def _read_ct(candidate: SeriesCandidate) -> tuple[sitk.Image, list[str]]:
    from pipelines.guards import scan_findings

    scan = read_scan(candidate)
    findings = scan_findings(scan)
    for finding in findings:
        if finding.severity == "reject":
            raise UnusableSeries(finding.code, finding.message)
    codes = {*scan.warnings, *(finding.code for finding in findings)}
    if scan.acquisition.contrast_agent:
        codes.add(CONTRAST_CODE)
    return scan.image, sorted(codes)


def _read_other(candidate: SeriesCandidate) -> sitk.Image:
    """Voxels of a file or of a DICOM series of any modality; damaged ones are refused."""
    if candidate.kind == "volume":
        return read_image(candidate.files, candidate.name_of(candidate.files[0]))
    return read_scan(candidate, any_modality=True).image


def _entry_of(subject: Subject) -> CohortEntry:
    candidates = find_series([subject.path])
    if len(candidates) != 1:
        raise ValueError(
            f"the path of {subject.subject_id} must lead to one series; it leads to "
            f"{len(candidates)}"
        )
    return CohortEntry(subject, candidates[0])


def _entries_of_folder(cohort: Path, exclude: Sequence[Path]) -> list[CohortEntry]:
    has_parts = (cohort / IMAGES_FOLDER).is_dir()
    images = cohort / IMAGES_FOLDER if has_parts else cohort
    candidates = find_series([images], exclude=exclude)
    names = [_name(candidate) for candidate in candidates]
    entries = []
    for candidate, name in zip(candidates, names, strict=True):
        path = candidate.files[0]
        # the same file name in two folders: the folder tells them apart
        unique = name if names.count(name) == 1 else f"{stem(path.parent)}_{name}"
        beside = {
            folder: cohort / folder / path.relative_to(images.resolve())
            for folder in (LABELS_FOLDER, MASKS_FOLDER)
            if has_parts and path.is_relative_to(images.resolve())
        }
        label, mask = (
            beside.get(folder) if folder in beside and beside[folder].is_file() else None
            for folder in (LABELS_FOLDER, MASKS_FOLDER)
        )
        entries.append(CohortEntry(Subject(unique, path, mask, label), candidate))
    return entries


def _name(candidate: SeriesCandidate) -> str:
    """Id of a series: the name its user gave the file, or nothing that a header says."""
    return stem(candidate.files[0]) if candidate.kind == "volume" else candidate.scan_id
