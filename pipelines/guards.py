"""Guards: what makes a score unsafe to use, found before the score is computed.

A guard never changes a score. It either refuses the scan (`reject`: a number would be
meaningless) or asks for a person (`review`: the number exists, but one of the conditions
under which the Agatston score is defined, or the model was measured, does not hold).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import SimpleITK as sitk

from pipelines.heart_tissue import METAL_HU, metal_volume_mm3, soft_tissue_upper_quartile_hu
from pipelines.scan import Scan
from pipelines.slice_order import misplaced_slices
from registration.alignment_uncertainty import ALARM_UNCERTAINTY, alignment_uncertainty
from registration.geometry import Ellipsoid

if TYPE_CHECKING:
    from calcium.scoring import ScanScore
    from pipelines.model import Model
    from registration.alignment import Alignment

REFERENCE_KVP = 120.0
"""Tube voltage for which 130 HU is the threshold of calcium, kV (Agatston 1990)."""

KVP_TOLERANCE = 0.5
"""Headers print whole kilovolts; anything further away is another voltage."""

THICK_SLICE_MM = 5.0
"""Thickest slice that passes without review, mm. Small lesions vanish by partial volume
in thicker ones, so that a zero can no longer be told from a low score."""

HEART_REVIEW_COVERAGE = 0.90
"""Below this share of the heart inside the field of view, the score may miss calcium."""

HEART_REJECT_COVERAGE = 0.55
"""Below this share the coronary arteries are largely outside, so no score is given."""

CONTRAST_HU = 90.0
"""Upper quartile of the heart's soft tissue from which blood must hold contrast, HU.
Blood without contrast measures 30-60 HU, with it 150-500 HU."""

METAL_VOLUME_MM3 = 20.0
"""Volume of such voxels in the heart from which streaks must be expected, mm³."""

SHARP_KERNEL_PREFIXES = ("LUNG", "BONE", "EDGE", "DETAIL", "YB", "YC", "YD", "FC5", "FC8")
"""Vendor names of edge-enhancing kernels (GE, Philips, Canon), which overshoot at edges."""

SIEMENS_SHARP_KERNEL = 50
"""Siemens names kernels by a letter or two and a sharpness, 10 (smooth) to 80 (sharp)."""

_SIEMENS_KERNEL = re.compile(r"(?:B|BR|BV|BF|BL|BP|HR|HV|I|QR)(?P<sharpness>\d\d)(?!\d)")

WRONG_SIMILARITY = 0.40
"""Correlation with the atlas below which no heart was found."""

SHUFFLED_SHARE, SHUFFLED_SLICES = 0.05, 3
"""Share and number of misplaced slices from which the order of a series means nothing. A slice or
two can be a jerk of the patient; of slices in any order 12 % and more are found misplaced."""

LEAST_SCALE, MOST_SCALE = 0.56, 1.75
"""Size of a heart, 1 for the atlas, beyond which the headers are more likely wrong than the heart
is large or small. Seven patients have 0.74 to 1.29, 740 simulated scans with hearts of varied size
0.59 to 1.69; half the pixel size gives 0.52."""

CERTAIN_CATEGORY = 0.6
"""Chance of the likeliest risk category below which it is little better than a coin toss."""

Severity = Literal["review", "reject"]


@dataclass(frozen=True, slots=True)
class GuardFinding:
    """One guard that fired.

    Args:
        code: Reason code of the tables, such as `"CONTRAST"`.
        severity: `"reject"` withholds the score, `"review"` prints it with a warning.
        message: What was measured, and what to do, in plain words.
    """

    code: str
    severity: Severity
    message: str


def evaluate_guards(
    scan: Scan, alignment: Alignment, model: Model, *, allowed: Collection[str] = ()
) -> tuple[GuardFinding, ...]:
    """Everything that makes the score of an aligned scan unsafe, worst first.

    Args:
        scan: The scan, HU.
        alignment: Where its heart was found.
        model: The model that found it.
        allowed: Codes of refusals that will be overruled, so that there will be a score.
    """
    found = [
        *coverage_findings(alignment.coverage),
        *alignment_findings(
            alignment.similarity, alignment_uncertainty(alignment), alignment.scales
        ),
        *scan_findings(scan),
    ]
    if all(finding.severity != "reject" or finding.code in allowed for finding in found):
        found += image_findings(scan, alignment.atlas_to_scan, model.heart)
    return tuple(sorted(found, key=lambda finding: finding.severity != "reject"))


def scan_findings(scan: Scan) -> tuple[GuardFinding, ...]:
    """Guards that need no model: on the headers, and on the order of the slices."""
    return (*acquisition_findings(scan), *order_findings(scan))


def alignment_findings(
    similarity: float, uncertainty: float, scales: tuple[float, float, float]
) -> tuple[GuardFinding, ...]:
    """Guard on an alignment that misses the heart, or may, or makes it a giant or a dwarf.

    Args:
        similarity: Masked correlation of scan and atlas in the heart, -1 to 1.
        uncertainty: Estimated chance that the alignment is wrong, 0 to 1.
        scales: Size of the heart along its axes, largest first; 1 is that of the atlas.
    """
    if similarity < WRONG_SIMILARITY:
        message = (
            f"No heart was found: the best match with the atlas correlates at {similarity:.2f}. "
            "Send an axial CT of the chest or heart of a supine adult."
        )
        return (GuardFinding("ALIGNMENT_UNCERTAIN", "reject", message),)
    if uncertainty >= ALARM_UNCERTAINTY:
        message = (
            f"The heart may not be where the atlas was laid (chance of error {uncertainty:.0%}). "
            "Check in the report that the outline holds the heart."
        )
        return (GuardFinding("ALIGNMENT_UNCERTAIN", "review", message),)
    if scales[0] > MOST_SCALE or scales[2] < LEAST_SCALE:
        scale = scales[0] if scales[0] > MOST_SCALE else scales[2]
        message = (
            f"The heart would have {scale:.2f} times the usual size in one direction. "
            "Check the pixel spacing and the slice positions in the headers."
        )
        return (GuardFinding("ALIGNMENT_UNCERTAIN", "review", message),)
    return ()


def acquisition_findings(scan: Scan) -> tuple[GuardFinding, ...]:
    """Guards that the headers alone can fire: tube voltage, slice thickness, kernel.

    A header that is silent fires nothing; the report says that the fact is not stated.
    """
    found = []
    facts = scan.acquisition
    if facts.kvp is not None and abs(facts.kvp - REFERENCE_KVP) > KVP_TOLERANCE:
        found.append(
            GuardFinding(
                "KVP",
                "review",
                f"Acquired at {facts.kvp:g} kV. The 130 HU threshold is defined at "
                f"{REFERENCE_KVP:g} kV; calcium is brighter at lower and darker at higher "
                "voltages. The score is not converted.",
            )
        )
    thickness = max(scan.slice_spacing_mm, facts.slice_thickness_mm or 0.0)
    if thickness > THICK_SLICE_MM + 1e-3:
        found.append(
            GuardFinding(
                "THICK_SLICES",
                "review",
                f"Slices of {thickness:g} mm. Above {THICK_SLICE_MM:g} mm small lesions are "
                "lost, so the score may be too low; use a thinner reconstruction if there is one.",
            )
        )
    if facts.convolution_kernel and is_sharp_kernel(facts.convolution_kernel):
        found.append(
            GuardFinding(
                "SHARP_KERNEL",
                "review",
                f"Reconstructed with the edge-enhancing kernel {facts.convolution_kernel!r}, "
                "which raises the attenuation of edges and noise; use a soft-tissue "
                "reconstruction if there is one.",
            )
        )
    return tuple(found)


def order_findings(scan: Scan) -> tuple[GuardFinding, ...]:
    """Guard on slices that resemble others more than those beside them.

    Args:
        scan: The scan, HU.
    """
    misplaced = misplaced_slices(scan.image)
    if misplaced.size == 0:
        return ()
    heights = [f"{scan.grid.physical_points(np.array([[0, 0, k]]))[0, 2]:g}" for k in misplaced[:3]]
    where = f"z = {', '.join(heights)} mm" + (" and more" if misplaced.size > 3 else "")
    count = scan.grid.size[2]
    shuffled = misplaced.size >= max(SHUFFLED_SLICES, SHUFFLED_SHARE * count)
    message = (
        f"{misplaced.size} of {count} slices do not fit between their neighbors ({where}): their "
        "positions were changed, or the patient moved. Export the series from its source again."
    )
    return (GuardFinding("SLICE_ORDER", "reject" if shuffled else "review", message),)


def is_sharp_kernel(kernel: str) -> bool:
    """Whether a vendor's kernel name stands for an edge-enhancing reconstruction.

    Args:
        kernel: Convolution Kernel (0018,1210) as printed, such as `"B70f"` or `"LUNG"`.

    Returns:
        True for known edge-enhancing names, False for soft ones and unknown names.

    Source:
        Vendors' DICOM conformance statements; Siemens numbers kernels by sharpness.

    Example:
        >>> [is_sharp_kernel(name) for name in ("B35f", "Br36d", "B70f", "LUNG", "STANDARD")]
        [False, False, True, True, False]
    """
    name = kernel.strip().upper()
    if name.startswith(SHARP_KERNEL_PREFIXES):
        return True
    siemens = _SIEMENS_KERNEL.match(name)
    return siemens is not None and int(siemens["sharpness"]) >= SIEMENS_SHARP_KERNEL


def coverage_findings(coverage: float) -> tuple[GuardFinding, ...]:
    """Guard on the share of the heart that the field of view holds.

    Args:
        coverage: Share of the atlas's heart ellipsoid inside the field of view, 0 to 1.
    """
    if coverage >= HEART_REVIEW_COVERAGE:
        return ()
    share = f"About {100 * coverage:.0f} % of the heart lies inside this series."
    if coverage < HEART_REJECT_COVERAGE:
        advice = "Score a series that covers the heart from the aortic root to the apex."
        return (GuardFinding("HEART_NOT_COVERED", "reject", f"{share} {advice}"),)
    advice = "Calcium outside it is not counted, so the score is a lower bound."
    return (GuardFinding("HEART_NOT_COVERED", "review", f"{share} {advice}"),)


def category_findings(score: ScanScore) -> tuple[GuardFinding, ...]:
    """Guard on a risk category that could as well be another one.

    Args:
        score: The answer; without calibration nothing fires.
    """
    chances = score.category_probabilities
    if chances is None or max(chances.values()) >= CERTAIN_CATEGORY:
        return ()
    likely = sorted(chances.items(), key=lambda item: -item[1])[:2]
    told = " or ".join(f"{name} ({chance:.0%})" for name, chance in likely)
    message = (
        f"The risk category is little better than a coin toss: {told}, by the errors on scans "
        "with a known score. Read the lesions before the category is used."
    )
    return (GuardFinding("CATEGORY_UNCERTAIN", "review", message),)


def image_findings(
    scan: Scan, atlas_to_scan: sitk.AffineTransform, heart: Ellipsoid
) -> tuple[GuardFinding, ...]:
    """Guards measured in the heart of the aligned scan: contrast agent and metal.

    Args:
        scan: The scan, HU.
        atlas_to_scan: Pull-back from atlas to scan, LPS mm.
        heart: The heart in atlas space.
    """
    found = []
    blood_hu = soft_tissue_upper_quartile_hu(scan.image, atlas_to_scan, heart)
    named = scan.acquisition.contrast_agent is True
    if blood_hu is not None and blood_hu > CONTRAST_HU:
        found.append(
            GuardFinding(
                "CONTRAST",
                "review",
                f"Blood in the heart measures about {blood_hu:.0f} HU: the scan holds contrast "
                "agent, which cannot be told from calcium. Score the series without contrast.",
            )
        )
    elif named:
        found.append(
            GuardFinding(
                "CONTRAST",
                "review",
                "The header names a contrast agent, although blood in the heart does not look "
                "enhanced. Check that this is the series without contrast.",
            )
        )
    metal_mm3 = metal_volume_mm3(scan.image, atlas_to_scan, heart)
    if metal_mm3 > METAL_VOLUME_MM3:
        found.append(
            GuardFinding(
                "METAL",
                "review",
                f"{metal_mm3:.0f} mm³ in the heart are brighter than {METAL_HU:g} HU: a lead, "
                "clip, stent or valve. Its streaks can hide calcium or look like it.",
            )
        )
    return tuple(found)
