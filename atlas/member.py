"""A subject as the builder sees it: one small volume, its field of view, one file."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from registration.alignment_volume import AlignmentVolume
from registration.atomic_files import placing
from registration.geometry import ImageGrid
from registration.pair_preparation import IntensityScaling, on_grid
from registration.preprocessing import (
    HIGHEST_HU,
    LOWEST_HU,
    axis_aligned_grid,
    prepare_volume,
)

Modality = Literal["ct", "other"]

CT_LIMITS_HU = (-1000.0, 1500.0)
"""Attenuation that a CT atlas keeps [HU]: air to dense bone; beyond lie padding and metal."""

FULL_SCALE = 1000.0
"""Value of the 99.5th percentile of images that are not CT; the 0.5th is 0."""

WORKING_VOXEL_UNITS = 4.0
"""Edge of a voxel in the units in which affines are sought; those of the affine refinement are
made for scans with voxels of 4 mm, so images of any size are brought to that scale."""

LEAST_CONTRAST = 1e-3
"""Standard deviation in shares of the range below which an image shows nothing."""


class UnusableImageError(ValueError):
    """An image that cannot take part in an atlas; the message says why."""


@dataclass(frozen=True, slots=True)
class Member:
    """One prepared subject.

    Args:
        volume: HU, or percentile-scaled values up to `FULL_SCALE`; axes along L, P, S.
        counts: 1 where the images are compared: in the field of view, and in the mask if
            there is one; float32, shape of the volume.
        modality: What the values are.
    """

    volume: AlignmentVolume
    counts: NDArray[np.float32]
    modality: Modality

    @property
    def grid(self) -> ImageGrid:
        """Lattice of the volume."""
        return self.volume.grid

    def to_unit_scale(self) -> AlignmentVolume:
        """The volume in units of `WORKING_VOXEL_UNITS` per voxel, to be compared where it counts.

        CT is clipped as for the alignment of scans, so that bone and metal do not outweigh
        everything else once the volume is smoothed.
        """
        volume = self.volume
        hu = np.clip(volume.hu, LOWEST_HU, HIGHEST_HU) if self.modality == "ct" else volume.hu
        grid = unit_grid(volume.grid)
        factor = unit_factor(volume.grid)
        start = tuple(float(v) * factor for v in volume.start_mm)
        return AlignmentVolume(hu, self.counts, grid, start, volume.wide)  # type: ignore[arg-type]


def unit_factor(grid: ImageGrid) -> float:
    """Units per mm on a lattice of cubic voxels."""
    return WORKING_VOXEL_UNITS / grid.spacing[0]


def unit_grid(grid: ImageGrid) -> ImageGrid:
    """The lattice in units of `WORKING_VOXEL_UNITS` per voxel."""
    factor = unit_factor(grid)
    return ImageGrid(
        grid.size,
        tuple(s * factor for s in grid.spacing),
        tuple(o * factor for o in grid.origin),
        grid.direction,
    )


def prepare_member(
    image: sitk.Image,
    *,
    modality: Modality,
    spacing_mm: float,
    mask: sitk.Image | None = None,
) -> Member:
    """Bring an image of any grid to cubic voxels along L, P and S.

    CT keeps its HU within `CT_LIMITS_HU`; padding is masked, and the table is removed where
    the field of view is wide enough to show it. Other images are scaled so that their 0.5th
    and 99.5th percentiles (within the mask, if there is one) are 0 and `FULL_SCALE`.

    Args:
        image: Three-dimensional scalar image.
        modality: `"ct"` for HU, `"other"` for arbitrary intensities.
        spacing_mm: Edge of a voxel.
        mask: Nonzero where the images are compared; any grid.

    Raises:
        UnusableImageError: If the image is not three-dimensional, shows nothing, holds values
            that are not numbers, or its mask is empty.
    """
    if image.GetDimension() != 3:
        raise UnusableImageError(f"it has {image.GetDimension()} axes; an atlas needs three")
    values = sitk.GetArrayViewFromImage(image)
    if not np.isfinite(values).all():
        raise UnusableImageError("it holds values that are not numbers")
    if modality == "ct":
        volume = prepare_volume(image, spacing_mm=spacing_mm, limits_hu=CT_LIMITS_HU)
    else:
        volume = _scaled_volume(image, spacing_mm, mask)
    counts = volume.valid
    if mask is not None:
        drawn = on_grid(mask, volume.grid, labels=True) > 0
        counts = counts * drawn.astype(np.float32)
        if not counts.any():
            raise UnusableImageError("its mask is empty")
        volume = replace(volume, start_mm=_centroid(counts, volume.grid))
    shown = volume.hu[counts > 0]
    if shown.size == 0:
        raise UnusableImageError("it holds padding alone")
    scale = HIGHEST_HU - LOWEST_HU if modality == "ct" else FULL_SCALE
    seen = np.clip(shown, LOWEST_HU, HIGHEST_HU) if modality == "ct" else shown
    if float(seen.std()) < LEAST_CONTRAST * scale:
        raise UnusableImageError(
            f"it shows nothing: all values are about {float(np.median(shown)):g}"
        )
    return Member(volume, counts, modality)


def write_member(member: Member, path: Path) -> None:
    """Write a member as one file; values are rounded to whole numbers."""
    volume = member.volume
    facts = {
        "size": volume.grid.size,
        "spacing": volume.grid.spacing,
        "origin": volume.grid.origin,
        "start_mm": volume.start_mm,
        "wide": volume.wide,
        "modality": member.modality,
    }
    with placing(path) as part, part.open("wb") as stream:
        np.savez_compressed(
            stream,
            values=np.rint(volume.hu).astype(np.int16),
            valid=np.packbits(volume.valid > 0),
            counts=np.packbits(member.counts > 0),
            facts=np.array(json.dumps(facts)),
        )


def read_member(path: Path) -> Member:
    """Read what `write_member` wrote."""
    with np.load(path, allow_pickle=False) as data:
        facts = json.loads(str(data["facts"]))
        values = data["values"].astype(np.float32)
        bits = {
            name: np.unpackbits(data[name], count=values.size).reshape(values.shape)
            for name in ("valid", "counts")
        }
    grid = ImageGrid(tuple(facts["size"]), tuple(facts["spacing"]), tuple(facts["origin"]))
    valid, counts = (bits[name].astype(np.float32) for name in ("valid", "counts"))
    start = tuple(float(v) for v in facts["start_mm"])
    volume = AlignmentVolume(values, valid, grid, start, bool(facts["wide"]))  # type: ignore[arg-type]
    return Member(volume, counts, facts["modality"])


def _scaled_volume(
    image: sitk.Image, spacing_mm: float, mask: sitk.Image | None
) -> AlignmentVolume:
    own = ImageGrid.from_image(image)
    grid = axis_aligned_grid(own, spacing_mm)
    values = np.asarray(sitk.GetArrayFromImage(image))
    if mask is not None:
        inside = on_grid(mask, own, labels=True) > 0
        values = values[inside] if inside.any() else values
    limits = IntensityScaling().limits(values)
    if not limits[1] > limits[0]:
        limits = float(values.min()), float(values.max())
    scaled = IntensityScaling().apply(on_grid(image, grid), limits) * np.float32(FULL_SCALE)
    valid = own.contains(grid.voxel_points()).astype(np.float32)
    scaled = scaled * valid
    weight = scaled if scaled.any() else valid
    return AlignmentVolume(scaled, valid, grid, _centroid(weight, grid), False)


def _centroid(weight: NDArray[np.floating], grid: ImageGrid) -> tuple[float, float, float]:
    """Center of mass, LPS mm."""
    total = float(weight.sum(dtype=float))
    index = [
        float((weight.sum(axis=tuple(a for a in range(3) if a != axis), dtype=float)
               * np.arange(weight.shape[axis])).sum() / total)
        for axis in (2, 1, 0)
    ]  # fmt: skip
    x, y, z = grid.physical_points(index).tolist()
    return x, y, z
