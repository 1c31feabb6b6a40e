"""Frames of short-axis cine MR as Sunnybrook's data and their contours come.

Frame number n of a patient is phase (n - 1) % 20 of slice (n - 1) // 20.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

PHASES = 20
"""Frames per slice of the Sunnybrook Cardiac Data."""

LABEL_THRESHOLD = 127
"""Gray value above which a label picture means inside, of 0 and 255."""

_FRAME_NAME = re.compile(r"(?P<patient>.+)-IM-\d+-(?P<number>\d+)")


@dataclass(frozen=True, slots=True, order=True)
class CineFrame:
    """One picture of one slice at one phase.

    Args:
        patient: Name of the patient.
        number: Frame number, from 1.
        image_path: Gray picture.
        label_path: Picture of the left ventricle, same name.
    """

    patient: str
    number: int
    image_path: Path
    label_path: Path

    @property
    def slice_number(self) -> int:
        """Number of the slice, from 0."""
        return (self.number - 1) // PHASES

    @property
    def phase(self) -> int:
        """Phase of the heart cycle, from 0."""
        return (self.number - 1) % PHASES

    def image(self) -> sitk.Image:
        """The picture, float32, spacing 1: the pixel size is not known."""
        return sitk.GetImageFromArray(_gray(self.image_path).astype(np.float32))

    def labels(self) -> sitk.Image:
        """1 inside the left ventricle."""
        inside = _gray(self.label_path) > LABEL_THRESHOLD
        return sitk.GetImageFromArray(inside.astype(np.uint8))


def find_frames(folder: Path) -> list[CineFrame]:
    """Frames of a folder with `images/` and `labels/`, by patient and number.

    Raises:
        ValueError: If a name is not understood, a label is missing, or there is no frame.
    """
    frames = []
    for path in sorted((folder / "images").glob("[!.]*.png")):
        match = _FRAME_NAME.match(path.name)
        if match is None:
            raise ValueError(
                f"frames must be named SC-<group>-<number>-IM-0001-<frame>… . Received: {path.name}"
            )
        label = folder / "labels" / path.name
        if not label.is_file():
            raise ValueError(f"every image needs a label of its name. Missing: {label}")
        frames.append(CineFrame(match["patient"], int(match["number"]), path, label))
    if not frames:
        raise ValueError(f"there must be pictures in images/*.png. Received: {folder}")
    return sorted(frames)


def slices_at_two_phases(frames: Sequence[CineFrame]) -> list[tuple[CineFrame, CineFrame]]:
    """Slices drawn at exactly two phases, the earlier phase first; others are left out."""
    slices: dict[tuple[str, int], list[CineFrame]] = {}
    for frame in sorted(frames):
        slices.setdefault((frame.patient, frame.slice_number), []).append(frame)
    return [(group[0], group[1]) for group in slices.values() if len(group) == 2]


def patient_key(name: str) -> str:
    """Name of a patient without the leading zeros that only some folders write.

    Example:
        >>> patient_key("SC-HF-I-05")
        'SC-HF-I-5'
    """
    return re.sub(r"-0+(\d)", r"-\1", name)


def _gray(path: Path) -> NDArray[np.uint8]:
    """First channel of a picture whose channels are equal."""
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    return array[..., 0] if array.ndim == 3 else array
