"""The mean of a round: values, spread and coverage on the lattice of the atlas, in one file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from atlas.member import Modality, unit_grid
from registration.alignment_volume import AlignmentVolume
from registration.atomic_files import placing
from registration.geometry import ImageGrid
from registration.preprocessing import HIGHEST_HU, LOWEST_HU

COVERED_SHARE = 0.1
"""Share of the members that must cover a voxel for it to be compared; at least `COVERED_LEAST`."""

COVERED_LEAST = 3


@dataclass(frozen=True, slots=True)
class AtlasMean:
    """A mean image of members that each cover part of it.

    Args:
        values: Mean per voxel, HU or scaled intensity, float32, shape of the grid.
        deviation: Standard deviation between the members, same unit and shape.
        coverage: Number of members that cover each voxel, float32.
        grid: Lattice; axes along L, P and S.
        members: Number of members averaged.
        modality: What the values are.
    """

    values: NDArray[np.float32]
    deviation: NDArray[np.float32]
    coverage: NDArray[np.float32]
    grid: ImageGrid
    members: int
    modality: Modality

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Where enough members were averaged for the mean to be trusted."""
        return self.coverage >= least_coverage(self.members)

    def to_unit_scale(self) -> AlignmentVolume:
        """The mean as the affine refinement sees it; see `Member.to_unit_scale`."""
        values = self.values
        if self.modality == "ct":
            values = np.clip(values, LOWEST_HU, HIGHEST_HU)
        grid = unit_grid(self.grid)
        x, y, z = grid.center.tolist()
        return AlignmentVolume(values, self.valid.astype(np.float32), grid, (x, y, z), True)

    def image(self) -> sitk.Image:
        """The values as an image in physical space."""
        return self.grid.to_image(self.values)

    def valid_image(self) -> sitk.Image:
        """1 where the mean can be trusted, float32."""
        return self.grid.to_image(self.valid.astype(np.float32))


def least_coverage(members: int) -> float:
    """Members that must cover a voxel."""
    return min(float(members), max(float(COVERED_LEAST), COVERED_SHARE * members))


def write_mean(mean: AtlasMean, path: Path) -> None:
    """Write a mean as one file."""
    facts = {
        "size": mean.grid.size,
        "spacing": mean.grid.spacing,
        "origin": mean.grid.origin,
        "members": mean.members,
        "modality": mean.modality,
    }
    with placing(path) as part, part.open("wb") as stream:
        np.savez(
            stream,
            values=mean.values,
            deviation=mean.deviation,
            coverage=mean.coverage,
            facts=np.array(json.dumps(facts)),
        )


def read_mean(path: Path) -> AtlasMean:
    """Read what `write_mean` wrote."""
    with np.load(path, allow_pickle=False) as data:
        facts = json.loads(str(data["facts"]))
        grid = ImageGrid(tuple(facts["size"]), tuple(facts["spacing"]), tuple(facts["origin"]))
        return AtlasMean(
            data["values"],
            data["deviation"],
            data["coverage"],
            grid,
            int(facts["members"]),
            facts["modality"],
        )


PLANES = ("axial", "coronal", "sagittal")
"""Names of the middle planes, across the array axes z, y and x."""


def middle_planes(array: NDArray[np.generic]) -> dict[str, NDArray[np.generic]]:
    """Middle plane across every array axis, by name."""
    return {
        name: np.take(array, array.shape[axis] // 2, axis=axis) for axis, name in enumerate(PLANES)
    }


def write_planes(mean: AtlasMean, path: Path) -> None:
    """Write the middle planes of a mean; NaN where it cannot be trusted."""
    shown = np.where(mean.valid, mean.values, np.float32(np.nan))
    with placing(path) as part, part.open("wb") as stream:
        planes: dict[str, Any] = dict(middle_planes(shown))
        np.savez_compressed(stream, **planes)


def read_planes(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read what `write_planes` wrote."""
    with np.load(path, allow_pickle=False) as data:
        return {name: data[name] for name in PLANES}
