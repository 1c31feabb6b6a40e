"""Named definitions of the Agatston score.

The 1990 paper leaves the connectivity, the handling of specks and the meaning of
"lesion" across slices open, and programs differ. A score is only comparable to
another of the same preset, so every score this project prints names its preset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

CALCIUM_THRESHOLD_HU = 130.0
"""Lower bound of calcification at 120 kVp [HU], inclusive (Agatston 1990 with the usual >=)."""

WEIGHT_EDGES_HU = (CALCIUM_THRESHOLD_HU, 200.0, 300.0, 400.0)
"""Peak attenuation [HU] at which the weight becomes 1, 2, 3 and 4, inclusive (Agatston 1990)."""

REFERENCE_SLICE_SPACING_MM = 3.0
"""Slice spacing of the original protocol [mm]; other spacings are scaled to it."""

IN_PLANE_CONNECTIVITIES = (4, 8)
"""Neighbors of a pixel inside its slice: edges only, or edges and corners."""

VOLUME_CONNECTIVITIES = (6, 18, 26)
"""Neighbors of a voxel in three dimensions: faces, and edges, and corners."""


@dataclass(frozen=True, slots=True)
class Preset:
    """One definition of the Agatston score.

    Args:
        name: What is printed beside every score.
        connectivity: 4 or 8: a component lives inside one slice. 6, 18 or 26: a
            component is a lesion that may cross slices.
        peak: What sets the weight: the highest HU of the component within the slice
            (`"slice"`), or of the whole component (`"lesion"`). The same thing for
            in-plane connectivity.
        min_area_mm2: Smaller in-plane components score zero, mm².
        min_volume_mm3: Smaller components score zero, mm³.
        min_voxels: Components with fewer voxels score zero.
        description: One line for tables.
        source: Where the definition stands.

    Raises:
        ValueError: If `connectivity` is unknown, or `min_area_mm2` is set for lesions
            that cross slices.

    Source:
        Agatston et al., J Am Coll Cardiol 1990;15:827-832; variants in `source`.
    """

    name: str
    connectivity: int
    peak: Literal["slice", "lesion"] = "slice"
    min_area_mm2: float = 0.0
    min_volume_mm3: float = 0.0
    min_voxels: int = 1
    description: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        known = IN_PLANE_CONNECTIVITIES + VOLUME_CONNECTIVITIES
        if self.connectivity not in known:
            raise ValueError(f"connectivity must be one of {known}. Received: {self.connectivity}")
        if self.crosses_slices and self.min_area_mm2 > 0:
            raise ValueError(
                "min_area_mm2 needs in-plane connectivity (4 or 8). "
                f"Received: connectivity={self.connectivity}, min_area_mm2={self.min_area_mm2}"
            )

    @property
    def crosses_slices(self) -> bool:
        """True if a component may span several slices."""
        return self.connectivity in VOLUME_CONNECTIVITIES


_ALL = (
    Preset(
        name="agatston-1990",
        connectivity=8,
        min_area_mm2=1.0,
        description="8-connected in each slice, at least 1 mm², peak per slice",
        source=(
            "Agatston et al., J Am Coll Cardiol 1990;15:827-832 (area, weights, 1 mm²); "
            "8-connectivity is this project's reading, the paper names none"
        ),
    ),
    Preset(
        name="agatston-4conn",
        connectivity=4,
        min_area_mm2=1.0,
        description="4-connected in each slice, at least 1 mm², peak per slice",
        source="as agatston-1990, with pixels that touch at a corner counted as separate",
    ),
    Preset(
        name="qurai-2018",
        connectivity=26,
        min_volume_mm3=1.5,
        description="26-connected lesions, at least 1.5 mm³, peak per lesion and slice",
        source=(
            "scores.py and ComputeCalciumScores.py of github.com/sgmvanvelzen/calcium-scoring, "
            "the code of Lessmann et al., IEEE Trans Med Imaging 2018;37:615-625 and "
            "van Velzen et al., Radiology 2020;295:66-79; its upper bound (1e8 mm³) never binds"
        ),
    ),
    Preset(
        name="ai-cac-2025",
        connectivity=6,
        peak="lesion",
        min_voxels=2,
        description="6-connected lesions, at least 2 voxels, one peak for the whole lesion",
        source=(
            "github.com/Raffi-Hagopian/AI-CAC (Hagopian et al., NEJM AI 2025), whose rounding of "
            "every lesion to a whole number and use of Slice Thickness are not reproduced"
        ),
    ),
)

PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in _ALL})
"""Every preset by name, the default first."""

DEFAULT_PRESET = PRESETS["agatston-1990"]
"""What is used unless another is asked for."""


def to_preset(preset: str | Preset) -> Preset:
    """The preset of a name; a `Preset` passes through.

    Raises:
        ValueError: If there is no preset of that name.

    Source:
        Own.

    Example:
        >>> to_preset("agatston-4conn").connectivity
        4
    """
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}. Received: {preset}")
    return PRESETS[preset]
