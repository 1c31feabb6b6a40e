"""Label images of a cohort: checked before a build begins, and kept until it ends with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from atlas.subjects import Subject
from atlas.work_folder import WorkFolder
from pipelines.pair_files import UnusableFile, read_pair_image
from registration.atomic_files import placing
from registration.geometry import ImageGrid

LEAST_INSIDE = 0.5
"""Share of the labeled voxels that must lie in the image; a header that was lost leaves few."""

LOOKED_AT = 100_000
"""Labeled voxels that are looked at, at most."""


def keep_label(path: Path, grid: ImageGrid, copy: Path) -> None:
    """Copy a label image to the working files, if it is one of the subject.

    Args:
        path: Label image of a subject.
        grid: Grid of the subject's image.
        copy: Where it goes, a NRRD file.

    Raises:
        UnusableFile: If it cannot be read, is no volume, or does not lie on the image.
    """
    label = _read(path)
    inside = _share_inside(label, grid)
    if inside < LEAST_INSIDE:
        raise UnusableFile(
            f"its label {path.name} does not lie on the image: {100 * inside:.0f} % of it do"
        )
    _write(label, copy)


def keep_other_labels(
    subjects: Iterable[Subject], work: WorkFolder, report: Callable[[str], None]
) -> None:
    """Copy labels of subjects that were prepared by a version that kept none.

    Args:
        subjects: The cohort; labels that are kept already stay as they are.
        work: Working files of the build.
        report: Told whose label cannot be carried over, and why.
    """
    for subject in subjects:
        copy = work.label(subject.subject_id)
        if subject.label is None or copy.exists():
            continue
        if not subject.label.exists():
            report(f"{subject.subject_id}: its label is gone and is not carried over")
            continue
        try:
            _write(_read(subject.label), copy)
        except UnusableFile as error:
            report(f"{subject.subject_id}: its label is not carried over: {error}")


def _read(path: Path) -> sitk.Image:
    label = read_pair_image(path)
    if label.GetDimension() != 3 or min(label.GetSize()) < 2:
        raise UnusableFile(
            f"its label {path.name} must be a volume; it has the size {label.GetSize()}"
        )
    return label


def _write(label: sitk.Image, copy: Path) -> None:
    with placing(copy) as part:
        sitk.WriteImage(label, str(part), True)


def _share_inside(label: sitk.Image, grid: ImageGrid) -> float:
    """Share of the labeled voxels that lie in an image; of all voxels if none is labeled."""
    array = sitk.GetArrayViewFromImage(label)
    places = np.flatnonzero(array)
    if not places.size:
        places = np.arange(array.size)
    places = places[:: -(-places.size // LOOKED_AT)]
    index = np.stack(np.unravel_index(places, array.shape), axis=-1)
    points = ImageGrid.from_image(label).physical_points(index[:, ::-1])
    return float(grid.contains(points).mean())
