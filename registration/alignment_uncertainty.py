"""One number for how little an alignment can be trusted."""

from __future__ import annotations

import numpy as np

from registration.alignment import Alignment

ALARM_UNCERTAINTY = 1.0
"""Uncertainty from which an alignment should be looked at."""


def alignment_uncertainty(alignment: Alignment) -> float:
    """Largest of several doubts, each in units of what right alignments hardly ever show.

    Args:
        alignment: As `ReferenceAligner.align` gives it.

    Returns:
        0 for no doubt; from `ALARM_UNCERTAINTY` on, somebody should look.
    """
    return float(
        np.max(
            [
                (1.0 - alignment.similarity) / 0.25,
                alignment.spread_mm / 4.0,
                alignment.correction_mm / 30.0,
                (0.02 - alignment.mirror_margin) / 0.05,
                alignment.rotation_deg / 30.0,
                np.log(max(alignment.stretch, 1.0)) / np.log(1.8),
            ]
        )
    )
