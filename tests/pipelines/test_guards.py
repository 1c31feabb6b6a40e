from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from pipelines.guards import (
    acquisition_findings,
    alignment_findings,
    category_findings,
    coverage_findings,
    evaluate_guards,
    image_findings,
    is_sharp_kernel,
    order_findings,
)
from pipelines.heart_tissue import soft_tissue_upper_quartile_hu
from pipelines.scan import Acquisition, Scan
from registration.alignment import Alignment
from registration.geometry import Ellipsoid, ImageGrid, affine_transform

USUAL = (1.1, 1.0, 0.9)
"""Scales of an ordinary heart."""

HEART = Ellipsoid((0.0, 0.0, 0.0), (40.0, 40.0, 40.0))

OBLIQUE = ImageGrid(
    size=(90, 80, 40),
    spacing=(1.5, 1.7, 3.1),
    origin=(-30.0, -250.0, 410.0),
    direction=(0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0),
)


def heart_scan(inside_hu: float, *, noise_hu: float = 0.0, **facts: object) -> Scan:
    """A ball of 40 mm radius in lung, away from the grid's origin, on an oblique grid."""
    center = OBLIQUE.center
    distance = np.linalg.norm(OBLIQUE.voxel_points() - center, axis=-1)
    volume = np.where(distance < 40.0, inside_hu, -800.0)
    volume += np.random.default_rng(0).normal(0.0, noise_hu, volume.shape)
    return Scan(
        scan_id="a",
        image=OBLIQUE.to_image(volume.astype(np.float32)),
        slice_spacing_mm=3.1,
        acquisition=Acquisition(modality="CT", kvp=120.0, slice_thickness_mm=3.0, **facts),
    )


def to_scan() -> sitk.AffineTransform:
    matrix = np.eye(4)
    matrix[:3, 3] = OBLIQUE.center
    return affine_transform(matrix)


def codes(findings) -> list[str]:
    return [finding.code for finding in findings]


def test_a_standard_scan_fires_nothing():
    scan = heart_scan(40.0, noise_hu=60.0)
    assert acquisition_findings(scan) == ()
    assert image_findings(scan, to_scan(), HEART) == ()


@pytest.mark.parametrize(
    ("kvp", "fires"), [(120.0, False), (100.0, True), (80.0, True), (None, False)]
)
def test_other_voltages_are_flagged_and_silence_is_not(kvp, fires):
    scan = heart_scan(40.0)
    scan = replace(scan, acquisition=replace(scan.acquisition, kvp=kvp))
    assert ("KVP" in codes(acquisition_findings(scan))) is fires


@pytest.mark.parametrize(
    ("spacing", "thickness", "fires"),
    [(5.0, 5.0, False), (4.0, 5.0, False), (4.0, 8.0, True), (8.0, None, True), (3.0, None, False)],
)
def test_thick_slices_count_by_thickness_or_spacing(spacing, thickness, fires):
    scan = heart_scan(40.0)
    scan = replace(
        scan,
        slice_spacing_mm=spacing,
        acquisition=replace(scan.acquisition, slice_thickness_mm=thickness),
    )
    assert ("THICK_SLICES" in codes(acquisition_findings(scan))) is fires


@pytest.mark.parametrize(
    "kernel", ["B60f", "B70f", "Br59f", "Bl57d", "I70f\\3", "LUNG", "BONEPLUS", "YB", "FC51"]
)
def test_edge_enhancing_kernels_are_recognized(kernel):
    assert is_sharp_kernel(kernel)


@pytest.mark.parametrize(
    "kernel", ["B10f", "B30f", "B35f", "B40f", "Qr36d", "STANDARD", "SOFT", "B", "FC12", "", "A"]
)
def test_soft_and_unknown_kernels_pass(kernel):
    assert not is_sharp_kernel(kernel)


@pytest.mark.parametrize(
    ("coverage", "severities"),
    [
        (1.0, []),
        (0.9, []),
        (0.89, ["review"]),
        (0.55, ["review"]),
        (0.54, ["reject"]),
        (0.0, ["reject"]),
    ],
)
def test_coverage_warns_then_refuses(coverage, severities):
    assert [f.severity for f in coverage_findings(coverage)] == severities


@pytest.mark.parametrize(
    ("similarity", "uncertainty", "severities"),
    [
        (0.9, 0.0, []),
        (0.9, 0.39, []),
        (0.9, 0.4, ["review"]),
        (0.41, 1.0, ["review"]),
        (0.39, 1.0, ["reject"]),
        (-1.0, 1.0, ["reject"]),
    ],
)
def test_a_doubtful_alignment_warns_and_a_failed_one_refuses(similarity, uncertainty, severities):
    assert [f.severity for f in alignment_findings(similarity, uncertainty, USUAL)] == severities


@pytest.mark.parametrize(
    ("scales", "words"),
    [
        ((1.29, 1.07, 0.85), None),
        ((1.69, 1.0, 0.6), None),
        ((0.9, 0.52, 0.52), r"0\.52 times .* pixel spacing"),
        ((1.8, 1.6, 0.97), r"1\.80 times .* slice positions"),
        ((1.9, 1.0, 0.5), r"1\.90 times"),
    ],
)
def test_a_heart_of_no_human_size_asks_for_a_look_at_the_headers(scales, words):
    found = alignment_findings(0.9, 0.1, scales)
    assert [f.severity for f in found] == (["review"] if words else [])
    assert words is None or re.search(words, found[0].message)


def test_soft_tissue_is_measured_where_the_transform_says():
    measured = soft_tissue_upper_quartile_hu(heart_scan(57.0).image, to_scan(), HEART)
    assert measured == pytest.approx(57.0)


def test_noise_does_not_pass_for_contrast():
    scan = heart_scan(45.0, noise_hu=120.0)
    assert image_findings(scan, to_scan(), HEART) == ()


def test_enhanced_blood_is_flagged_even_when_the_header_is_silent():
    assert codes(image_findings(heart_scan(180.0), to_scan(), HEART)) == ["CONTRAST"]


def test_a_named_agent_is_flagged_even_when_blood_looks_plain():
    scan = heart_scan(40.0, contrast_agent=True)
    assert codes(image_findings(scan, to_scan(), HEART)) == ["CONTRAST"]


def test_a_lead_in_the_heart_is_metal_and_one_outside_is_not():
    scan = heart_scan(40.0)
    volume = sitk.GetArrayFromImage(scan.image)
    i, j, k = np.round(OBLIQUE.indices(OBLIQUE.center)).astype(int)
    outside = volume.copy()
    volume[k, j, i - 3 : i + 3] = 3000.0  # 6 voxels of 7.9 mm³
    outside[0, 0, :6] = 3000.0
    with_lead = replace(scan, image=OBLIQUE.to_image(volume))
    lead_outside = replace(scan, image=OBLIQUE.to_image(outside))
    assert codes(image_findings(with_lead, to_scan(), HEART)) == ["METAL"]
    assert image_findings(lead_outside, to_scan(), HEART) == ()


def test_a_heart_outside_the_scan_measures_nothing():
    matrix = np.eye(4)
    matrix[:3, 3] = OBLIQUE.center + 1000.0
    scan = heart_scan(300.0)
    assert soft_tissue_upper_quartile_hu(scan.image, affine_transform(matrix), HEART) is None
    assert image_findings(scan, affine_transform(matrix), HEART) == ()


@pytest.mark.parametrize(
    ("chances", "fires"),
    [
        (None, False),
        ({"0": 0.0, "1-10": 0.05, "11-100": 0.95, "101-400": 0.0, ">400": 0.0}, False),
        ({"0": 0.0, "1-10": 0.0, "11-100": 0.55, "101-400": 0.45, ">400": 0.0}, True),
    ],
)
def test_a_category_that_is_a_coin_toss_asks_for_a_reader(chances, fires):
    found = category_findings(SimpleNamespace(category_probabilities=chances))
    assert [f.code for f in found] == ["CATEGORY_UNCERTAIN"] * fires
    assert all(f.severity == "review" for f in found)
    if fires:
        assert "11-100 (55%) or 101-400 (45%)" in found[0].message


def reordered(scan: Scan, order: list[int]) -> Scan:
    volume = sitk.GetArrayFromImage(scan.image)
    return replace(scan, image=OBLIQUE.to_image(volume[order]))


def test_slices_in_order_fire_nothing():
    assert order_findings(heart_scan(40.0, noise_hu=60.0)) == ()


def test_an_exchange_of_two_slices_is_for_review_and_told_by_position():
    order = list(range(40))
    order[10], order[19] = 19, 10
    (finding,) = order_findings(reordered(heart_scan(40.0, noise_hu=20.0), order))
    assert (finding.code, finding.severity) == ("SLICE_ORDER", "review")
    assert "2 of 40 slices" in finding.message
    assert "z = 441, 468.9 mm" in finding.message  # 410 mm + 3.1 mm per slice


def test_slices_in_any_order_are_refused():
    order = np.random.default_rng(2).permutation(40).tolist()
    (finding,) = order_findings(reordered(heart_scan(40.0, noise_hu=20.0), order))
    assert (finding.code, finding.severity) == ("SLICE_ORDER", "reject")


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [((), ["HEART_NOT_COVERED"]), (("HEART_NOT_COVERED",), ["HEART_NOT_COVERED", "CONTRAST"])],
)
def test_a_scan_that_is_scored_all_the_same_is_looked_at_for_contrast(allowed, expected):
    alignment = Alignment(to_scan(), 0.9, 0.4, 1.0, 5.0, 0.4, USUAL, 0.0)
    model = SimpleNamespace(heart=HEART)
    assert codes(evaluate_guards(heart_scan(300.0), alignment, model, allowed=allowed)) == expected
