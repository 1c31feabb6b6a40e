from dataclasses import replace

import pytest
import SimpleITK as sitk

from registration.alignment import Alignment
from registration.alignment_uncertainty import ALARM_UNCERTAINTY, alignment_uncertainty

GOOD = Alignment(
    atlas_to_scan=sitk.AffineTransform(3),
    similarity=0.92,
    coverage=1.0,
    spread_mm=0.1,
    correction_mm=6.0,
    mirror_margin=0.1,
    scales=(1.08, 1.0, 0.93),
    rotation_deg=6.0,
)


def test_a_good_alignment_raises_no_alarm():
    assert 0.0 <= alignment_uncertainty(GOOD) < ALARM_UNCERTAINTY


@pytest.mark.parametrize(
    "change",
    [
        {"similarity": 0.45},
        {"similarity": 0.75, "spread_mm": 30.0, "correction_mm": 40.0},
        {
            "similarity": 0.83,
            "mirror_margin": -0.08,
            "correction_mm": 16.0,
            "scales": (1.25, 1.0, 0.79),
        },
        {"similarity": 0.82, "correction_mm": 40.0, "scales": (1.0, 0.9, 0.55)},
    ],
)
def test_what_wrong_alignments_show_raises_the_alarm(change):
    assert alignment_uncertainty(replace(GOOD, **change)) >= ALARM_UNCERTAINTY


@pytest.mark.parametrize(
    ("name", "worse"),
    [
        ("similarity", 0.8),
        ("spread_mm", 10.0),
        ("correction_mm", 30.0),
        ("mirror_margin", -0.05),
        ("scales", (1.3, 1.0, 0.7)),
    ],
)
def test_every_measure_adds_to_the_doubt(name, worse):
    assert alignment_uncertainty(replace(GOOD, **{name: worse})) > alignment_uncertainty(GOOD)
