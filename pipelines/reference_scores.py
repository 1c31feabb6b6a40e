"""Reference scores of a scan and a mask, read from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from calcium.agatston import AgatstonResult, score_image
from calcium.categories import cac_drs, risk_category
from calcium.presets import PRESETS, Preset
from pipelines.discovery import find_series
from pipelines.reading import read_scan
from pipelines.reasons import UnusableSeries
from pipelines.scan import Scan
from registration.image_files import read_image_file

PRESET_KVP = 120.0
"""Tube voltage that 130 HU is defined for [kV] (Agatston 1990 and scanner practice since)."""


class NoSuchScan(ValueError):  # noqa: N818 (the name says what is wrong, not that it is an error)
    """The input does not hold exactly one scan."""


def read_single_scan(path: Path) -> Scan:
    """The one scan in a folder, archive or file; localizers and the like are passed over.

    Args:
        path: What the user gave.

    Returns:
        The scan, in HU.

    Raises:
        UnusableSeries: If the only series there is cannot be used, with the reason.
        NoSuchScan: If there is no series, or not exactly one that can be used.

    Source:
        Own.
    """
    candidates = find_series([path])
    if not candidates:
        raise NoSuchScan(f"{path} holds no image series")
    scans, refusals = [], []
    for candidate in candidates:
        try:
            scans.append(read_scan(candidate))
        except UnusableSeries as refusal:
            refusals.append(refusal)
    if not scans and len(refusals) == 1:
        raise refusals[0]
    if len(scans) != 1:
        found = "; ".join([scan.source for scan in scans] + [str(r) for r in refusals])
        raise NoSuchScan(
            f"{path} must hold one usable scan, it holds {len(scans)} of {len(candidates)} "
            f"series: {found}"
        )
    return scans[0]


def read_mask(path: Path, labels: Sequence[int] = ()) -> sitk.Image:
    """A mask image, one where it may count.

    Args:
        path: NIfTI, NRRD or MetaImage file.
        labels: Label values that may count; every value but zero if empty.

    Returns:
        Image of zeros and ones, uint8, LPS mm.

    Raises:
        ValueError: If the file cannot be read, or holds none of the labels.

    Source:
        Own.
    """
    try:
        mask = read_image_file(path)
    except RuntimeError:
        raise ValueError(
            f"{path} cannot be read as a mask; it must be a NIfTI, NRRD or MetaImage file"
        ) from None
    if not labels:
        return mask
    values = sitk.GetArrayViewFromImage(mask)
    chosen = sitk.GetImageFromArray(np.isin(values, labels).astype(np.uint8))
    if not np.isin(values, labels).any():
        raise ValueError(f"{path} holds no voxel of label {', '.join(map(str, labels))}")
    chosen.CopyInformation(mask)
    return chosen


def reference_scores(
    scan: Scan,
    mask: sitk.Image,
    presets: Sequence[Preset] = tuple(PRESETS.values()),
    *,
    calibration_mg_per_hu_cm3: float | None = None,
) -> list[AgatstonResult]:
    """Scores of a mask under several presets.

    Args:
        scan: The scan.
        mask: Non-zero where a voxel may count, on the voxels of the scan.
        presets: Definitions of the score, in the order of the results.
        calibration_mg_per_hu_cm3: Mass calibration, mg/(HU cm³); that of the scan's
            header if left out.

    Returns:
        One result per preset.

    Raises:
        ValueError: If the mask does not lie on the voxels of the scan.

    Source:
        Own.
    """
    if calibration_mg_per_hu_cm3 is None:
        calibration_mg_per_hu_cm3 = scan.acquisition.calibration_factor_mg_per_hu_cm3
    return [
        score_image(scan.image, mask, preset, calibration_mg_per_hu_cm3=calibration_mg_per_hu_cm3)
        for preset in presets
    ]


def voltage_note(scan: Scan) -> str | None:
    """What to know about the tube voltage of a scan; `None` if it is the usual one."""
    kvp = scan.acquisition.kvp
    if kvp == PRESET_KVP:
        return None
    told = "is not stated" if kvp is None else f"is {kvp:g} kV"
    return f"The tube voltage {told}; 130 HU is defined for 120 kV. Nothing was converted."


def to_record(result: AgatstonResult) -> dict[str, Any]:
    """A result as JSON values, categories added, unrounded."""
    return {
        "preset": result.preset,
        "agatston": result.agatston,
        "risk_category": risk_category(result.agatston),
        "cac_drs": cac_drs(result.agatston),
        "volume_mm3": result.volume_mm3,
        "mass_mg": result.mass_mg,
        "mean_hu": result.mean_hu,
        "lesions": [
            {
                "center_mm": list(lesion.center_mm),
                "agatston": lesion.agatston,
                "volume_mm3": lesion.volume_mm3,
                "peak_hu": lesion.peak_hu,
                "slice_indices": list(lesion.slice_indices),
            }
            for lesion in result.lesions
        ],
    }


def to_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Results as aligned text, one line per preset."""
    header = ("preset", "Agatston", "category", "CAC-DRS", "volume mm³", "mass mg", "lesions")
    rows = [header]
    for record in records:
        mass_mg = record["mass_mg"]
        rows.append(
            (
                record["preset"],
                f"{record['agatston']:.1f}",
                record["risk_category"],
                record["cac_drs"],
                f"{record['volume_mm3']:.1f}",
                "-" if mass_mg is None else f"{mass_mg:.2f}",
                str(len(record["lesions"])),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
