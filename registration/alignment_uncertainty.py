"""One number for how little an alignment can be trusted."""

from __future__ import annotations

import math

from registration.alignment import Alignment

ALARM_UNCERTAINTY = 0.4
"""Uncertainty from which somebody should look at the alignment.

Scans pushed out of range: fires on all of 96 wrong alignments, and on none of 128 right
ones; `benchmarks/alignment_alarm.py`.
"""

LEAST_SIMILARITY = 0.7
"""Correlation below which nothing else can speak for an alignment; right ones reach 0.8."""

_INTERCEPT = -11.3
_UNLIKE = 5.9
_SPREAD = 0.46
_CORRECTION = 1.27
_MIRRORED = 14.5
_STRETCHED = 4.25
_MIRROR_REFERENCE = 0.3
_MOST_CORRECTION_MM = 80.0


def alignment_uncertainty(alignment: Alignment) -> float:
    """Estimated chance that an alignment misses the heart by centimetres.

    A logistic combination of five measures, none of which suffices: correlation misses
    mirrored and turned scans; refinements from other starts may agree on a wrong place;
    the network may be wrong where the refinement is right. How much of the heart is in the
    field of view does not enter: `Alignment.coverage` says so.

    Args:
        alignment: As `ReferenceAligner.align` gives it.

    Returns:
        0 to 1, and 1 for a similarity below `LEAST_SIMILARITY`; from `ALARM_UNCERTAINTY`
        on, somebody should look.

    Source:
        Own fit to real and synthetic scans turned, mirrored, cut and moved to other organs;
        `benchmarks/alignment_alarm.py` measures it anew.
    """
    if alignment.similarity < LEAST_SIMILARITY:
        return 1.0
    from_mirror = min(max(_MIRROR_REFERENCE - alignment.mirror_margin, 0.0), 0.6)
    evidence = (
        _INTERCEPT
        + _UNLIKE * (1.0 - alignment.similarity)
        + _SPREAD * math.log1p(alignment.spread_mm)
        + _CORRECTION * math.log1p(min(alignment.correction_mm, _MOST_CORRECTION_MM))
        + _MIRRORED * from_mirror
        + _STRETCHED * math.log(alignment.stretch)
    )
    return 1.0 / (1.0 + math.exp(-evidence))
