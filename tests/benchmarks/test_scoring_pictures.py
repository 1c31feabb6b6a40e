import io
import os

import numpy as np
import pytest
from PIL import Image

from benchmarks.scoring_pictures import _cached_scan, chosen, draw, kinds, shown_slices
from calcium.lattice_scan import lattice_scan
from tests.calcium.test_training import HEART, labeled


@pytest.fixture(scope="module")
def scan():
    return lattice_scan(labeled(), HEART)


def row(scan, truth, score):
    return {"scan": scan, "truth": truth, "score": score}


def test_patients_own_calcium_comes_before_the_worst_of_the_simulated():
    rows = [row("ann-unchanged", 0.0, 5.0), row("bob-unchanged", 57.0, 57.0)]
    rows += [row(f"ann-{k}", 100.0, s) for k, s in enumerate((100.0, 0.0, 90.0, 900.0))]
    told = [r["scan"] for r in chosen(rows, 2)]
    assert told == ["bob-unchanged", "ann-1", "ann-3"]


def test_a_cached_file_is_found_by_the_number_of_its_scan_the_latest_if_made_anew(tmp_path):
    files = {}
    (tmp_path / "scans").mkdir()
    for age, stem in enumerate(
        ("ann-1-0005-0123456789ab", "ann-1-0005-ba9876543210", "ann-unchanged-0123456789ab")
    ):
        files[stem] = tmp_path / "scans" / f"{stem}.npz"
        files[stem].touch()
        os.utime(files[stem], (age, age))
    assert _cached_scan(tmp_path, "ann-unchanged") == files["ann-unchanged-0123456789ab"]
    assert _cached_scan(tmp_path, "ann-1-2876065760-5") == files["ann-1-0005-ba9876543210"]
    with pytest.raises(SystemExit, match="no scan ann-1-0006"):
        _cached_scan(tmp_path, "ann-1-2876065760-6")


def test_every_point_is_found_missed_wrong_or_left_alone(scan):
    coronary = scan.coronary > 0
    all_counted = kinds(scan, scan.density)
    assert set(all_counted[coronary]) == {0}
    assert set(all_counted[~coronary]) == {1}
    none_counted = kinds(scan, np.zeros_like(scan.density))
    assert set(none_counted[coronary]) == {2}
    assert set(none_counted[~coronary]) == {3}


def test_slices_are_those_with_most_that_matters(scan):
    nothing = np.zeros_like(scan.density)
    shown = shown_slices(scan, kinds(scan, nothing))
    missed = np.bincount(scan.points[:, 0], scan.coronary, minlength=len(scan.hu))
    assert set(shown) == set(np.argsort(-missed)[:3].tolist())
    assert shown == sorted(shown)
    alone = shown_slices(scan, np.full(len(scan.points), 3))
    assert len(alone) == 1


@pytest.mark.parametrize(("counted", "color"), [(True, "red"), (False, "yellow")])
def test_what_is_wrong_is_outlined_in_its_color(scan, counted, color):
    value = np.where(scan.coronary > 0, 0.0, scan.density if counted else 0.0)
    picture = Image.open(io.BytesIO(draw(scan, value))).convert("RGB")
    pixels = np.asarray(picture, int)[: picture.height * 9 // 10]  # without the legend
    r, g, b = np.moveaxis(pixels, -1, 0)
    found = {"red": (r > 150) & (g < 90) & (b < 90), "yellow": (r > 180) & (g > 150) & (b < 90)}
    assert found[color].sum() > 20
    assert found["red"].any() == counted
