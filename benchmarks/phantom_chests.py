"""Chest phantoms as images and organs for registration, cached as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from registration_pairs import center_image

from pipelines.phantoms import STANDARD, make_phantom
from pipelines.phantoms.mediastinum import LABELS

MATRIX = 128
"""Rows and columns: pixels of about 3 mm, near the slice spacing."""

RENDER_SPACING_MM = 2.5
"""Voxel size the organs are drawn at."""

SLICE_SPACINGS_MM = (3.0,)

HU_WINDOW = (-1000.0, 500.0)
"""Attenuation kept, HU: padding outside the reconstruction circle would be an edge."""

Organs = Mapping[str, Sequence[str]]
"""Names of the phantoms' labels by measured organ."""


def make_chest(seed: int, organs: Organs, cache: Path) -> tuple[sitk.Image, sitk.Image]:
    """CT and organs of one seed, numbered from 1 in the order of `organs`, centered."""
    image_path, label_path = (cache / f"chest-{seed}-{n}.mha" for n in ("hu", "organs"))
    if not (image_path.is_file() and label_path.is_file()):
        acquisition = replace(STANDARD.acquisition, chest_slice_spacing_mm=SLICE_SPACINGS_MM)
        settings = replace(
            STANDARD,
            acquisition=acquisition,
            matrix=MATRIX,
            render_spacing_mm=RENDER_SPACING_MM,
        )
        phantom = make_phantom("chest", seed, settings=settings)
        cache.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(phantom.labels, str(label_path))
        sitk.WriteImage(phantom.image, str(image_path))
    return _prepared(sitk.ReadImage(str(image_path)), sitk.ReadImage(str(label_path)), organs)


def read_chest(folder: Path, organs: Organs) -> tuple[sitk.Image, sitk.Image]:
    """CT and organs of one phantom of a written cohort, centered.

    Raises:
        ValueError: If the folder has no label image.
    """
    labels = folder / "truth" / "organs.seg.nrrd"
    if not labels.is_file():
        raise ValueError(f"a phantom needs its organs in truth/{labels.name}. Received: {folder}")
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder / "series"))
    return _prepared(sitk.ReadImage(names), sitk.ReadImage(str(labels)), organs)


def _prepared(
    image: sitk.Image, labels: sitk.Image, organs: Organs
) -> tuple[sitk.Image, sitk.Image]:
    array = sitk.GetArrayViewFromImage(labels)
    measured = np.zeros(array.shape, dtype=np.uint8)
    for number, names in enumerate(organs.values(), start=1):
        measured[np.isin(array, [LABELS[name] for name in names])] = number
    organ_image = sitk.GetImageFromArray(measured)
    organ_image.CopyInformation(labels)
    clipped = sitk.Clamp(sitk.Cast(image, sitk.sitkFloat32), sitk.sitkFloat32, *HU_WINDOW)
    return center_image(clipped), center_image(organ_image)
