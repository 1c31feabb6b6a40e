"""`report.html`: one scan on one page that explains its own number.

A single file that needs nothing from outside: opened from a disk, an archive or a mail
it looks the same, also on A4 paper and on a phone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from calcium.categories import RISK_CATEGORIES, risk_label
from calcium.territories import TERRITORIES
from pipelines.pages import page
from pipelines.pictures import (
    CONTRIBUTION_FLOOR,
    AtlasView,
    SlicePicture,
    atlas_views,
    slice_pictures,
)
from pipelines.results import Finding, ScanResult
from pipelines.scan import Acquisition, Scan
from pipelines.version import program_version

if TYPE_CHECKING:
    from calcium.scoring import ScanScore
    from pipelines.model import Model
    from registration.alignment import Alignment

SCALE_ENDS: Final = ((0.0, 0.5), (0.5, 10.5), (10.5, 100.5), (100.5, 400.5), (400.5, 4000.0))
"""Score at which each category's segment of the scale begins and ends; inside a segment the
scale is logarithmic, and beyond the last end everything is at the end."""

LISTED_LESIONS: Final = 20
"""Lesions listed one by one and shown in the atlas; the rest is summed up."""

WHAT_TO_DO: Final = {
    "NO_PIXEL_DATA": "Send the series that holds the images.",
    "NOT_CT": "Send the CT series of the study.",
    "LOCALIZER": "Nothing to do: localizers are not scored. Send the axial series.",
    "NOT_AXIAL": "Send the axial reconstruction, not a reformat.",
    "NOT_HU": "Export the original CT images, whose values are in Hounsfield units.",
    "TOO_FEW_SLICES": "Send the complete series.",
    "MISSING_SLICE": "Transfer the series again; if the slice was never stored, reconstruct anew.",
    "DUPLICATE_SLICE": "Remove the extra slices, or send the two reconstructions separately.",
    "UNEVEN_SPACING": "Send a reconstruction with one increment throughout.",
    "GANTRY_TILT": "Use an untilted acquisition or an axial reconstruction.",
    "MIXED_ORIENTATION": "Send each reconstruction in a folder of its own.",
    "CORRUPT_FILE": "Transfer or export the named files again.",
    "TOO_LARGE": "Send the reconstruction made for calcium scoring, or crop the volume.",
    "METAL": "Check in the slices below that no metal is counted.",
    "MIXED_SETTINGS": "Send the series of one acquisition with one reconstruction.",
    "LOSSY": "Use the uncompressed or losslessly compressed images.",
    "INTERNAL_ERROR": "Run the same command again; if it fails again, report the traceback.",
    "WORKER_DIED": "Run again with fewer workers or more memory.",
}
"""What a reader can do about a reason, where its message does not say so already."""

_NOT_STATED = "not stated"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a result rests on, as far as the scan got.

    Args:
        scan: The scan, if it could be read.
        alignment: Where it lies in the atlas.
        score: What the scorer said, if it was asked.
        model: The model that said it.
    """

    scan: Scan | None = None
    alignment: Alignment | None = None
    score: ScanScore | None = None
    model: Model | None = None


@dataclass(frozen=True, slots=True)
class ScaleSegment:
    """One category on the scale.

    Args:
        category: Its name.
        label: Its name in words.
        is_current: True for the scan's own.
    """

    category: str
    label: str
    is_current: bool


def report_html(result: ScanResult, evidence: Evidence) -> str:
    """The report of one scan as a self-contained page.

    Args:
        result: What is said.
        evidence: What it rests on; sections without evidence are left out.
    """
    slices = _slices(evidence)
    drawn = sum(picture.agatston for picture in slices)
    return page(
        "report.html",
        r=result,
        headline=headline(result),
        advice=[(finding, advice(finding)) for finding in result.findings],
        segments=scale_segments(result),
        marker=_position(result.agatston),
        interval=(_position(result.agatston_low), _position(result.agatston_high)),
        slices=slices,
        undrawn=max(0.0, (result.agatston or 0.0) - drawn),
        n_slices=0 if evidence.scan is None else evidence.scan.grid.size[2],
        lesions=result.lesions[:LISTED_LESIONS],
        more_lesions=result.lesions[LISTED_LESIONS:],
        territories=territory_scores(result),
        chances=likely_categories(result),
        views=_views(result, evidence),
        alignment=evidence.alignment,
        acquisition=acquisition_facts(evidence.scan),
        program=f"calcium-score {program_version()}",
        model_hash=evidence.model.model_hash if evidence.model else "",
        floor=CONTRIBUTION_FLOOR,
    )


def territory_scores(result: ScanResult) -> dict[str, float]:
    """Agatston score of every coronary territory, in the usual order.

    Returns:
        Territory to score, zeros included; empty if lesions have no territory, or there are none.
    """
    if not result.lesions or any(lesion.territory is None for lesion in result.lesions):
        return {}
    scores = dict.fromkeys(TERRITORIES, 0.0)
    for lesion in result.lesions:
        assert lesion.territory is not None
        scores[lesion.territory] += lesion.agatston
    return scores


def likely_categories(result: ScanResult) -> list[tuple[str, int]]:
    """Risk categories with their chance, percent, likeliest first; those below 1 % left out."""
    chances = result.details.get("category_probabilities") or {}
    told = [(name, round(100 * chance)) for name, chance in chances.items()]
    return sorted([item for item in told if item[1] >= 1], key=lambda item: -item[1])


def headline(result: ScanResult) -> str:
    """One sentence that says what to make of the result.

    Example:
        >>> headline(ScanResult(scan_id="a", status="rejected", source="s", model="m"))
        'Not scored: the series is not usable.'
    """
    if result.status == "rejected":
        return "Not scored: the series is not usable."
    if result.status == "failed":
        return "Not scored: the program failed on this series."
    if result.status == "review":
        return "Scored, but needs a second look before the number is used."
    return "Scored; no guard fired."


def advice(finding: Finding) -> str:
    """What a reader can do about a finding, empty if there is no more to say."""
    return WHAT_TO_DO.get(finding.code, "")


def scale_segments(result: ScanResult) -> tuple[ScaleSegment, ...]:
    """The five categories in order."""
    return tuple(
        ScaleSegment(category, risk_label(category), category == result.risk_category)
        for category in RISK_CATEGORIES
    )


def scale_position(agatston: float) -> float:
    """Where a score lies on the scale of five equal segments, 0 to 1.

    Zero is the middle of the first segment; inside the others the scale is logarithmic.

    Example:
        >>> scale_position(0.0), scale_position(10.5), scale_position(1e6)
        (0.1, 0.4, 1.0)
    """
    if agatston < SCALE_ENDS[0][1]:
        return 0.5 / len(SCALE_ENDS)
    for place, (low, high) in enumerate(SCALE_ENDS):
        if agatston < high and place > 0:
            inside = math.log(agatston / low) / math.log(high / low)
            return (place + inside) / len(SCALE_ENDS)
    return 1.0


def acquisition_facts(scan: Scan | None) -> tuple[tuple[str, str], ...]:
    """Name and value of what is known about how the scan was made; silence is said."""
    if scan is None:
        return ()
    facts: Acquisition = scan.acquisition
    size, spacing = scan.grid.size, scan.grid.spacing
    named = {
        "Slices": f"{size[2]}, every {scan.slice_spacing_mm:g} mm",
        "Slice thickness": _quantity(facts.slice_thickness_mm, "mm"),
        "Matrix": f"{size[0]} × {size[1]}",
        "Pixel": f"{spacing[0]:.3g} × {spacing[1]:.3g} mm",
        "Field of view": " × ".join(f"{v:.0f}" for v in scan.grid.extent_mm) + " mm",
        "Tube voltage": _quantity(facts.kvp, "kV"),
        "Kernel": facts.convolution_kernel or _NOT_STATED,
        "Contrast agent": _yes_or_no(facts.contrast_agent),
        "Scanner": facts.manufacturer or _NOT_STATED,
        "Body part": facts.body_part or _NOT_STATED,
    }
    return tuple(named.items())


def _slices(evidence: Evidence) -> tuple[SlicePicture, ...]:
    if evidence.scan is None or evidence.score is None:
        return ()
    return slice_pictures(
        evidence.scan.image,
        evidence.score.feedback,
        atlas_to_scan=evidence.alignment.atlas_to_scan if evidence.alignment else None,
        heart=evidence.model.heart if evidence.model else None,
    )


def _views(result: ScanResult, evidence: Evidence) -> tuple[AtlasView, ...]:
    if evidence.scan is None or evidence.alignment is None or evidence.model is None:
        return ()
    return atlas_views(
        evidence.scan.image,
        evidence.model.atlas,
        evidence.alignment.atlas_to_scan,
        evidence.model.heart,
        [lesion.center_mm for lesion in result.lesions[:LISTED_LESIONS]],
    )


def _position(agatston: float | None) -> float | None:
    return None if agatston is None else 100.0 * scale_position(agatston)


def _quantity(value: float | None, unit: str) -> str:
    return _NOT_STATED if value is None else f"{value:g} {unit}"


def _yes_or_no(value: Any) -> str:
    return _NOT_STATED if value is None else ("named in the header" if value else "none named")
