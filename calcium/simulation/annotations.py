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

OTHER_CLASSES = frozenset(
    {"aorta", "aortic_valve", "bone", "bronchus", "mitral", "node", "noise", "other"}
)
"""Classes of components that do not count."""

SIZE_RTOL = 0.03
"""Largest relative difference between a component's voxel count and its annotation."""


def read_annotations(folder: Path) -> dict[str, dict[str, Any]]:
    """All annotation files of a folder that hold coronary courses, by scan name.

    Returns:
        Annotations; empty if there are none.

    Raises:
        ValueError: If a file is no JSON, lacks a key, has a component of an unknown class, or
            is of a scan that another file is of, too.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            annotation = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path.name} cannot be read as JSON: {error}") from error
        if "coronaries" not in annotation or "components" not in annotation:
            continue
        _check_annotation(annotation, path.name)
        name = str(annotation["scan"])
        if name in found:
            raise ValueError(f"{path.name} is of scan {name!r}, as an earlier file is: keep one")
        found[name] = annotation
    return found


def component_masks(
    annotation: Mapping[str, Any], volume_hu: NDArray[np.floating | np.integer]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The scan's own calcium that is coronary, and that nobody can name.

    Components are the 26-connected ones at or above 130 HU, told apart by their bounding
    box and voxel count.

    Args:
        annotation: One annotation with `components`.
        volume_hu: Attenuation in HU of the annotated scan as it is stored, shape `(z, y, x)`.

    Returns:
        Two masks with the shape of the scan.

    Raises:
        ValueError: If a class is unknown, or the scan has no component where one is annotated
            as coronary or unknown.
    """
    scan = f"annotation of {annotation.get('scan', 'a scan')}"
    coronary, unknown = (np.zeros(volume_hu.shape, bool) for _ in range(2))
    for component in annotation["components"]:
        _check_component(component, scan)
        name = component["class"]
        if name in OTHER_CLASSES:
            continue
        target = coronary if name in CORONARY_CLASSES else unknown
        low, high = component["bbox_ijk"]
        box = tuple(slice(low[k], high[k] + 1) for k in (2, 1, 0))
        labels, count = ndimage.label(volume_hu[box] >= CALCIUM_THRESHOLD_HU, np.ones((3, 3, 3)))
        sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        wrong = np.abs(sizes / component["n_voxels"] - 1.0)
        if not sizes.size or wrong.min() > SIZE_RTOL:
            raise ValueError(
                f"{scan}: a component of class {name} with {component['n_voxels']} voxels must lie "
                f"in bbox_ijk {component['bbox_ijk']}, to {SIZE_RTOL:.0%}. Received: components "
                f"with {sizes.tolist()} voxels at or above {CALCIUM_THRESHOLD_HU:g} HU there"
            )
        target[box] |= labels == int(wrong.argmin()) + 1
    return coronary, unknown


def _check_annotation(annotation: Mapping[str, Any], where: str) -> None:
    if "scan" not in annotation:
        raise ValueError(f"{where} needs the key 'scan', the name of its scan")
    needed: dict[str, tuple[str, ...]] = {
        "coronaries": ("points",),
        "aorta": ("points", "radius_mm"),
    }
    for group, keys in needed.items():
        for name, course in (annotation.get(group) or {}).items():
            for key in keys:
                if key not in course:
                    raise ValueError(f"{where}: {name} of {group} needs the key {key!r}")
    for component in annotation["components"]:
        _check_component(component, where)


def _check_component(component: Mapping[str, Any], where: str) -> None:
    for key in ("class", "bbox_ijk", "n_voxels"):
        if key not in component:
            raise ValueError(f"{where}: a component needs the key {key!r}. Received: {component}")
    known = CORONARY_CLASSES | UNKNOWN_CLASSES | OTHER_CLASSES
    if component["class"] not in known:
        raise ValueError(
            f"{where}: the class of a component must be one of {', '.join(sorted(known))}. "
            f"Received: {component['class']!r} in bbox_ijk {component['bbox_ijk']}"
        )
    if component["n_voxels"] < 1:
        raise ValueError(
            f"{where}: n_voxels of a component must be positive. Received: "
            f"{component['n_voxels']} in bbox_ijk {component['bbox_ijk']}"
        )
