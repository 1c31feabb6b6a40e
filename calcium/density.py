"""The Agatston density: what each voxel of a scan adds to the score if it counts.

A component of voxels at or above 130 HU scores area x weight x spacing / 3 mm. Spread
evenly over its voxels this is a *density*, so that a score is the plain sum of the
density over the voxels that are coronary calcium, and a picture of that sum is the
score. Only candidate voxels are ever listed: they are 1-3 % of a CT, which makes the
whole computation a matter of tens of milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from calcium.presets import (
    CALCIUM_THRESHOLD_HU,
    DEFAULT_PRESET,
    IN_PLANE_CONNECTIVITIES,
    REFERENCE_SLICE_SPACING_MM,
    WEIGHT_EDGES_HU,
    Preset,
    to_preset,
)
from registration.geometry import ImageGrid

MIN_SIZE_RTOL = 1e-6
"""Relative slack on least areas and volumes, so that 4 pixels of 0.5 mm make 1 mm²."""


@dataclass(frozen=True)
class Candidates:
    """The voxels of a scan at or above 130 HU, in array order, and what each would score.

    Args:
        shape: Shape of the scan, `(z, y, x)`.
        flat_index: Position of each candidate in the flattened scan, ascending,
            int64, shape `(n,)`.
        hu: Attenuation of each candidate, HU, float64, shape `(n,)`.
        component: Label of the component it belongs to, from 0, int32, shape `(n,)`.
            Within a slice for presets with in-plane connectivity, across slices else.
        density: Contribution to the Agatston score, float64, shape `(n,)`; zero in
            components the preset finds too small.

    Source:
        Own.
    """

    shape: tuple[int, ...]
    flat_index: NDArray[np.int64]
    hu: NDArray[np.float64]
    component: NDArray[np.int32]
    density: NDArray[np.float64]

    @property
    def n_components(self) -> int:
        """Number of components, those too small to score among them."""
        return int(self.component.max()) + 1 if self.component.size else 0

    @cached_property
    def index(self) -> NDArray[np.int64]:
        """Array index (z, y, x) of each candidate, shape `(n, 3)`."""
        return np.stack(np.unravel_index(self.flat_index, self.shape), axis=-1)

    def to_volume(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """A float32 volume, shape `(z, y, x)`, of one value per candidate, zero elsewhere."""
        volume = np.zeros(self.shape, dtype=np.float32)
        volume.reshape(-1)[self.flat_index] = values
        return volume


def find_candidates(
    volume_hu: NDArray[np.floating | np.integer],
    grid: ImageGrid,
    preset: str | Preset = DEFAULT_PRESET,
    *,
    mask: NDArray[np.bool_] | None = None,
) -> Candidates:
    """Voxels that may be calcium, their components and their Agatston density.

    Components are formed *inside* `mask`: a voxel outside it neither connects two
    parts nor lends its peak.

    Args:
        volume_hu: Attenuation in HU, shape `(z, y, x)`, any real type. NaN never counts.
        grid: Native grid of the scan; its third spacing is the distance between slice
            positions, not the slice thickness.
        preset: Definition of the score, by name or as a `Preset`.
        mask: True where a voxel may count, same shape; everywhere if left out.

    Returns:
        The candidates; of length zero if no voxel reaches 130 HU.

    Raises:
        ValueError: If the shapes of volume, grid and mask differ.

    Source:
        Agatston et al., J Am Coll Cardiol 1990;15:827-832; the density is own.
    """
    preset = to_preset(preset)
    if volume_hu.shape != grid.shape or len(grid.shape) != 3:
        raise ValueError(
            "volume_hu must have the 3-D shape of its grid. "
            f"Received: volume {volume_hu.shape}, grid {grid.shape}"
        )
    if mask is not None and mask.shape != volume_hu.shape:
        raise ValueError(
            "mask must have the shape of the scan. "
            f"Received: mask {mask.shape}, scan {volume_hu.shape}"
        )
    is_candidate = volume_hu >= CALCIUM_THRESHOLD_HU
    if mask is not None:
        is_candidate &= mask.astype(bool, copy=False)
    flat_index = np.flatnonzero(is_candidate)
    hu = volume_hu.reshape(-1)[flat_index].astype(np.float64)
    component = label_voxels(flat_index, volume_hu.shape, preset.connectivity)
    density = _density(flat_index, hu, component, grid, preset)
    return Candidates(volume_hu.shape, flat_index, hu, component, density)


def agatston_density(
    volume_hu: NDArray[np.floating | np.integer],
    grid: ImageGrid,
    preset: str | Preset = DEFAULT_PRESET,
    *,
    mask: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Contribution of every voxel to the Agatston score, were it coronary calcium.

    The sum over a component is its Agatston score, 3 mm normalization included; the
    sum over the volume counts bone and all.

    Args:
        volume_hu: Attenuation in HU, shape `(z, y, x)`.
        grid: Native grid of the scan.
        preset: Definition of the score, by name or as a `Preset`.
        mask: True where a voxel may count, same shape; everywhere if left out.

    Returns:
        The density, float32, same shape; zero everywhere if nothing reaches 130 HU.

    Raises:
        ValueError: If the shapes of volume, grid and mask differ.

    Source:
        Own.

    Example:
        >>> hu = np.zeros((1, 4, 4)); hu[0, 1:3, 1:3] = 250.0
        >>> grid = ImageGrid((4, 4, 1), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0))
        >>> density = agatston_density(hu, grid)
        >>> float(density.sum()), float(density[0, 1, 1])
        (8.0, 2.0)
    """
    candidates = find_candidates(volume_hu, grid, preset, mask=mask)
    return candidates.to_volume(candidates.density)


def structuring_element(connectivity: int) -> NDArray[np.bool_]:
    """Which of the 3 x 3 x 3 neighbors touch the middle voxel, bool, axes (z, y, x).

    Args:
        connectivity: 4 or 8 within a slice; 6, 18 or 26 across slices.

    Raises:
        ValueError: If `connectivity` is none of these.

    Source:
        Own.

    Example:
        >>> int(structuring_element(8).sum()), int(structuring_element(18).sum())
        (9, 19)
    """
    rank = {4: 1, 8: 2, 6: 1, 18: 2, 26: 3}
    if connectivity not in rank:
        raise ValueError(f"connectivity must be one of {tuple(rank)}. Received: {connectivity}")
    element = ndimage.generate_binary_structure(3, rank[connectivity])
    if connectivity in IN_PLANE_CONNECTIVITIES:
        element[[0, 2]] = False
    return np.asarray(element, dtype=bool)


def label_voxels(
    flat_index: NDArray[np.int64], shape: tuple[int, ...], connectivity: int
) -> NDArray[np.int32]:
    """Connected component of each of some voxels of a large volume.

    Args:
        flat_index: Positions in the flattened volume, ascending, shape `(n,)`.
        shape: Shape of the volume, `(z, y, x)`.
        connectivity: 4 or 8 within a slice; 6, 18 or 26 across slices.

    Returns:
        Labels from 0, int32, shape `(n,)`.

    Raises:
        ValueError: If `connectivity` is unknown.

    Source:
        Own; `scipy.ndimage.label` on the bounding box.
    """
    element = structuring_element(connectivity)
    if not flat_index.size:
        return np.zeros(0, dtype=np.int32)
    index = np.unravel_index(flat_index, shape)
    first = [int(i.min()) for i in index]
    box = np.zeros([int(i.max()) + 1 - low for i, low in zip(index, first, strict=True)], bool)
    local = tuple(i - low for i, low in zip(index, first, strict=True))
    box[local] = True
    labels, _ = ndimage.label(box, element)
    return np.asarray(labels[local] - 1, dtype=np.int32)


def agatston_weight(peak_hu: NDArray[np.floating]) -> NDArray[np.int64]:
    """Weight 0 to 4 of peaks in HU, any shape; NaN weighs 0.

    Source:
        Agatston et al., J Am Coll Cardiol 1990;15:827-832.

    Example:
        >>> agatston_weight(np.array([129.9, 130.0, 199.9, 200.0, 300.0, 400.0])).tolist()
        [0, 1, 1, 2, 3, 4]
    """
    peak = np.nan_to_num(np.asarray(peak_hu, dtype=np.float64), nan=-np.inf, posinf=np.inf)
    return np.searchsorted(WEIGHT_EDGES_HU, peak, side="right")


def _density(
    flat_index: NDArray[np.int64],
    hu: NDArray[np.float64],
    component: NDArray[np.int32],
    grid: ImageGrid,
    preset: Preset,
) -> NDArray[np.float64]:
    """Agatston contribution of each candidate voxel, shape `(n,)`."""
    if not flat_index.size:
        return np.zeros(0)
    pixel_area_mm2 = grid.spacing[0] * grid.spacing[1]
    voxels = np.bincount(component)
    counts = voxels >= preset.min_voxels
    counts &= voxels * pixel_area_mm2 >= preset.min_area_mm2 * (1 - MIN_SIZE_RTOL)
    counts &= voxels * grid.voxel_volume_mm3 >= preset.min_volume_mm3 * (1 - MIN_SIZE_RTOL)
    part = component
    if preset.crosses_slices and preset.peak == "slice":
        n_slices, slice_size = grid.shape[0], grid.shape[1] * grid.shape[2]
        key = component.astype(np.int64) * n_slices + flat_index // slice_size
        part = np.unique(key, return_inverse=True)[1].astype(np.int32)
    peak_hu = np.full(int(part.max()) + 1, -np.inf)
    np.maximum.at(peak_hu, part, hu)
    slice_factor = grid.spacing[2] / REFERENCE_SLICE_SPACING_MM
    weight = agatston_weight(peak_hu)[part] * counts[component]
    return np.asarray(weight * (pixel_area_mm2 * slice_factor), dtype=np.float64)
