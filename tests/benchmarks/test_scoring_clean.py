from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from benchmarks.scoring_clean import AS_IT_IS, Change, changed_scan, draw, summary

NOTHING = Change((0.0, 0.0, 0.0), 1.0, 0.0, 1.0, 0.0, 0.0, 0.5, 1.0, None, 0)
MIDDLE_MM = (4.0, -30.0, -100.0)


@pytest.fixture
def scan():
    image = sitk.Image([60, 50, 20], sitk.sitkInt16)
    image.SetSpacing((2.0, 2.0, 5.0))
    image.SetOrigin((-56.0, -80.0, -150.0))
    values = np.full((20, 50, 60), -50, np.int16)
    values[10, 25, 40:44] = 400  # 24 mm beside the middle, in its plane
    values[:, :, :3] = -1024
    made = sitk.GetImageFromArray(values)
    made.CopyInformation(image)
    return made


def test_no_change_leaves_the_scan_as_it_is(scan):
    same = changed_scan(scan, MIDDLE_MM, NOTHING)
    assert same.GetOrigin() == pytest.approx(scan.GetOrigin())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(same), sitk.GetArrayFromImage(scan))


def brightest_mm(image):
    index = np.unravel_index(np.argmax(sitk.GetArrayFromImage(image)), image.GetSize()[::-1])
    return np.array(image.TransformIndexToPhysicalPoint([int(i) for i in index[::-1]]))


def test_a_larger_body_has_its_parts_further_from_the_middle(scan):
    larger = changed_scan(scan, MIDDLE_MM, replace(NOTHING, scale=1.5))
    before, after = (brightest_mm(image) - MIDDLE_MM for image in (scan, larger))
    np.testing.assert_allclose(after[0] / before[0], 1.5, atol=0.2)


def test_a_quarter_turn_moves_left_to_the_back_or_front(scan):
    turned = changed_scan(scan, MIDDLE_MM, replace(NOTHING, rotation_deg=(0.0, 0.0, 90.0)))
    x, y, _ = brightest_mm(turned) - MIDDLE_MM
    assert abs(x) < 5.0
    assert abs(y) > 18.0


def test_a_cardiac_field_of_view_lies_about_the_heart(scan):
    # the phantom is smaller than a cardiac scan in its planes, but not along the slices
    cut = changed_scan(scan, (4.0, -30.0, -140.0), replace(NOTHING, cardiac_shift_mm=(0, 0, 0)))
    assert cut.GetSize()[:2] == scan.GetSize()[:2]
    assert cut.GetSize()[2] < scan.GetSize()[2]


def test_noise_has_its_size_and_spares_the_padding(scan):
    noisy = sitk.GetArrayFromImage(changed_scan(scan, MIDDLE_MM, replace(NOTHING, noise_hu=12.0)))
    difference = noisy.astype(float) - sitk.GetArrayFromImage(scan)
    assert difference[:, :, 4:].std() == pytest.approx(12.0, rel=0.1)
    assert not difference[:, :, :3].any()


def test_slices_lie_elsewhere(scan):
    other = changed_scan(scan, MIDDLE_MM, replace(NOTHING, start_offset=0.4, slice_factor=1.2))
    assert other.GetOrigin()[2] == pytest.approx(-148.0)
    assert other.GetSpacing()[2] == pytest.approx(6.0)


def test_the_same_seed_draws_the_same_changes():
    first, second = (draw(np.random.default_rng(4)) for _ in range(2))
    assert first == second
    assert draw(np.random.default_rng(5)) != first


def test_shares_are_of_changed_scans():
    rows = [
        {"scan": "a", "change": AS_IT_IS, "score": 0.0},
        *({"scan": "a", "change": str(n), "score": s} for n, s in enumerate((0.0, 4.0, 50.0, 0.0))),
        {"scan": "b", "change": AS_IT_IS, "score": 12.0},
    ]
    a, b, together = summary(rows, 10.0)
    assert (a[AS_IT_IS], a["changed"], a["at most 10"], a["zero"]) == (0.0, 4, 0.75, 0.5)
    assert (b[AS_IT_IS], b["changed"], b["at most 10"]) == (12.0, 0, None)
    assert together["at most 10"] == 0.75
