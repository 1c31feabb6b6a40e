"""What there is to learn registration from: image files, and DICOM series or pictures."""

from __future__ import annotations

from pathlib import Path

import SimpleITK as sitk

from pipelines.dicom_headers import is_dicom
from pipelines.pair_files import read_pair_image
from registration.cohort import IMAGE_SUFFIXES, Cohort, image_files, read_folder, read_table
from registration.image_files import read_image_file

_HEAD_BYTES = 256
_DIRECTORY_NAME = "DICOMDIR"


def read_cohort(
    images: Path, *, dimension: int, group: str | None = None, subject: str | None = None
) -> Cohort:
    """Images of a folder or of a CSV table; see `registration.cohort`.

    DICOM counts as well. To networks of three axes every folder that holds such files is one
    image, the series in it; to networks of two axes every file is one.

    Args:
        images: Folder, or CSV table, whose paths may be those of DICOM files or series folders.
        dimension: Axes of the networks.
        group: Regular expression for the paths of a folder; see `read_folder`.
        subject: Likewise.

    Raises:
        ValueError: If there is no pair of images, or the table is none.
    """
    if not images.is_dir():
        if group or subject:
            raise ValueError("group and subject of a table must be columns. Received: expressions")
        return read_table(images)
    paths = sorted({*image_files(images), *_dicom_images(images, dimension)})
    if not paths:
        raise ValueError(
            f"there is no image in {images}; images are {', '.join(IMAGE_SUFFIXES)} and DICOM"
        )
    return read_folder(images, group=group, subject=subject, paths=paths)


def read_training_image(path: Path) -> sitk.Image:
    """An image file of any kind that ITK knows, a DICOM file, or the series of a folder.

    Raises:
        UnusableFile: If a folder does not hold one series, or its slices do not fit together.
        RuntimeError: If an image file cannot be read.
    """
    if path.is_dir() or _is_dicom_file(path):
        return read_pair_image(path)
    return read_image_file(path)


def _dicom_images(folder: Path, dimension: int) -> set[Path]:
    """DICOM files below a folder, or the folders of them if images have three axes."""
    files = {
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not path.name.startswith(".")
        and not path.name.lower().endswith(IMAGE_SUFFIXES)
        and path.name.upper() != _DIRECTORY_NAME
        and _is_dicom_file(path)
    }
    return files if dimension == 2 else {path.parent for path in files}


def _is_dicom_file(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return is_dicom(stream.read(_HEAD_BYTES))
    except OSError:
        return False  # whoever reads it as an image says why
