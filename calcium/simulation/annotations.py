"""Annotations of real scans made by eye: anatomy, and what their own calcium is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from calcium.presets import CALCIUM_THRESHOLD_HU

CORONARY_CLASSES = frozenset({"LM", "LAD", "LCX", "RCA", "PDA", "D1", "OM", "coronary"})
"""Classes of components that count."""

UNKNOWN_CLASSES = frozenset({"unknown"})
"""Classes of components that are set aside in training."""

SIZE_RTOL = 0.03
"""Largest relative difference between a component's voxel count and its annotation."""


def read_annotations(folder: Path) -> dict[str, dict[str, Any]]:
    """All annotation files of a folder that hold coronary courses, by scan name.

    Returns:
        Annotations; empty if there are none.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        annotation = json.loads(path.read_text(encoding="utf-8"))
        if "coronaries" in annotation and "components" in annotation:
            found[str(annotation["scan"])] = annotation
    return found


def component_masks(
    annotation: Mapping[str, Any], volume_hu: NDArray[np.floating | np.integer]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The scan's own calcium that is coronary, and that nobody can name.

    Components are the 26-connected ones at or above 130 HU, told apart by their bounding
    box and voxel count.

    Args:
        annotation: One annotation with `components`.
        volume_hu: Attenuation in HU of the annotated scan, shape `(z, y, x)`.

    Returns:
        Two masks with the shape of the scan.
    """
    coronary, unknown = (np.zeros(volume_hu.shape, bool) for _ in range(2))
    for component in annotation["components"]:
        name = component["class"]
        target = coronary if name in CORONARY_CLASSES else unknown
        if name not in CORONARY_CLASSES | UNKNOWN_CLASSES:
            continue
        low, high = component["bbox_ijk"]
        box = tuple(slice(low[k], high[k] + 1) for k in (2, 1, 0))
        labels, count = ndimage.label(volume_hu[box] >= CALCIUM_THRESHOLD_HU, np.ones((3, 3, 3)))
        sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        wrong = np.abs(sizes / component["n_voxels"] - 1.0)
        if sizes.size and wrong.min() <= SIZE_RTOL:
            target[box] |= labels == int(wrong.argmin()) + 1
    return coronary, unknown
