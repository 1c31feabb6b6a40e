"""A scan whose coronary calcium is known: what training and validation are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calcium.anatomy_maps import NO_ANATOMY, AnatomyPoints
from registration.geometry import ImageGrid


@dataclass(frozen=True)
class LabeledScan:
    """Attenuation, place of the heart, and which calcium is coronary; axes along (S, P, L).

    Training turns the labels into scores of crops and forgets them.

    Args:
        name: Unique among the scans of a training.
        group: Patient or phantom the anatomy comes from; groups never train and validate both.
        kind: `"cardiac"` or `"chest"`.
        volume_hu: Attenuation, HU, shape of `grid`.
        grid: Native grid.
        atlas_to_scan: Homogeneous matrix from atlas to scan, LPS mm.
        coronary: True where calcium counts, shape of `grid`.
        ignored: True where it is unknown whether calcium counts; `None` for nowhere.
        anatomy: What is known of where arteries, aorta and valves lie; nothing by default.
    """

    name: str
    group: str
    kind: str
    volume_hu: NDArray[np.floating | np.integer]
    grid: ImageGrid
    atlas_to_scan: NDArray[np.float64]
    coronary: NDArray[np.bool_]
    ignored: NDArray[np.bool_] | None = None
    anatomy: AnatomyPoints = NO_ANATOMY
