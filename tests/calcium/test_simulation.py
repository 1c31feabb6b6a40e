from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from calcium.density import agatston_density
from calcium.simulation.anatomy import Anatomy
from calcium.simulation.background import Background, resample_background
from calcium.simulation.deformation import Deformation
from calcium.simulation.distractors import draw_distractors
from calcium.simulation.generator import GeneratorOptions, simulate_scan
from calcium.simulation.placement import TissueMap
from registration.geometry import Ellipsoid, ImageGrid, transform_points

HEART = Ellipsoid((0.0, 0.0, 0.0), (45.0, 40.0, 35.0))
GRID = ImageGrid((120, 110, 22), (1.2, 1.2, 4.0), (-90.0, 30.0, -260.0))
CENTER = np.array([-18.0, 95.0, -218.0])


def background():
    """A soft-tissue ball (the heart) in fat, lungs around."""
    points = GRID.voxel_points() - CENTER
    radius = np.linalg.norm(points / (45.0, 40.0, 35.0), axis=-1)
    hu = np.where(radius < 0.85, 40.0, np.where(radius < 1.05, -90.0, -850.0))
    to_scan = np.eye(4)
    to_scan[:3, 3] = CENTER
    angle = np.linspace(0.2, 1.4, 12)
    lad = np.stack([38 * np.cos(angle), -33 * np.sin(angle), 10 - 15 * angle], axis=1)
    anatomy = Anatomy(
        courses={"LAD": CENTER + lad},
        aorta={"ascending": CENTER + np.array([[-5.0, -5, 5], [-8, -8, 20]])},
        aorta_radii_mm={"ascending": 13.0},
        valve_mm=(CENTER + np.array([0.0, 0.0, 3.0]))[None],
    )
    return Background("ball", hu.astype(np.int16), GRID, to_scan, anatomy, slice_thickness_mm=4.0)


def score_of(scan):
    density = agatston_density(scan.volume_hu, scan.grid)
    return float(density[scan.coronary].sum())


def test_the_same_seed_gives_the_same_scan_and_another_seed_another():
    first, again, other = (simulate_scan(background(), HEART, (5, k)) for k in (1, 1, 2))
    assert np.array_equal(first.volume_hu, again.volume_hu)
    assert np.array_equal(first.coronary, again.coronary)
    assert first.grid == again.grid
    assert other.grid != first.grid or not np.array_equal(first.volume_hu, other.volume_hu)


def test_the_anatomy_moves_with_the_scan():
    options = GeneratorOptions(native_share=0.0, zero_share=1.0, deformation_strength=1.5)
    for k in range(4):
        scan = simulate_scan(background(), HEART, (8, k), options)
        maps, known = scan.anatomy.maps(scan.grid.voxel_points().reshape(-1, 3)[::7])
        assert known.tolist() == [True, False, False, True, True, False]
        # the course runs along the fat about the heart, which is darker than muscle and not lung
        at = maps[:, 0] > 0.9
        if at.sum() > 20:
            seen = scan.volume_hu.ravel()[::7][at]
            assert -400 < np.median(seen) < 60


def test_scans_without_plaque_score_zero_whatever_the_distractors():
    options = GeneratorOptions(zero_share=1.0)
    scans = [simulate_scan(background(), HEART, (6, k), options) for k in range(6)]
    assert [score_of(scan) for scan in scans] == [0.0] * 6
    everything = [float(agatston_density(s.volume_hu, s.grid).sum()) for s in scans]
    assert max(everything) > 0.0


def test_plaque_lies_near_the_annotated_course():
    options = GeneratorOptions(zero_share=0.0, native_share=1.0)
    course = background().anatomy.courses["LAD"]
    found = 0
    for k in range(6):
        scan = simulate_scan(background(), HEART, (7, k), options)
        z, y, x = np.nonzero(scan.coronary & (scan.volume_hu >= 130))
        points = scan.grid.physical_points(np.stack([x, y, z], axis=1))
        for point in points:
            # drawn within 6 mm of the course, bars up to half a diameter more; motion to 6 mm
            assert np.linalg.norm(course - point, axis=1).min() < 16.0
        found += len(points)
    assert found > 10


def test_without_guessed_courses_plaque_lies_on_those_that_were_seen():
    found = background()
    guessed = replace(found, anatomy=replace(found.anatomy, guessed=frozenset({"LAD"})))
    options = GeneratorOptions(zero_share=0.0, native_share=1.0)
    for shown, background_, any_plaque in (
        (options, guessed, True),
        (replace(options, guessed_courses=False), found, True),
        (replace(options, guessed_courses=False), guessed, False),
    ):
        scans = [simulate_scan(background_, HEART, (7, k), shown) for k in range(2)]
        assert any(scan.coronary.any() for scan in scans) == any_plaque


def test_calcium_of_no_named_structure_keeps_away_from_the_courses():
    """A course of its own among nothing else: whatever lies near it would be plaque to a reader."""
    base = background()
    anatomy = Anatomy(courses=base.anatomy.courses)
    tissue = TissueMap(base.volume_hu.astype(np.float32), GRID)
    to_unit = HEART.unit_matrix(base.atlas_to_scan)
    course = anatomy.courses["LAD"]
    fine = np.concatenate([np.linspace(a, b, 20) for a, b in pairwise(course)])
    seen = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        for insert in draw_distractors(rng, anatomy, tissue, to_unit):
            distance = np.linalg.norm(insert.cloud.points_mm[:, None] - fine, axis=-1).min()
            assert insert.is_metal or distance > 4.0
            unit = transform_points(to_unit, insert.cloud.points_mm.mean(0))
            beside_airways = unit[1] > 0.1
            if not insert.is_metal and not beside_airways and np.linalg.norm(unit) < 0.89:
                assert distance > 11.0
                seen += 1
    assert seen > 12


def test_own_coronary_calcium_is_carried_along_and_unknown_calcium_set_aside():
    base = background()
    hu = base.volume_hu.copy()
    own, ignored = (np.zeros(hu.shape, bool) for _ in range(2))
    hu[11, 40:44, 70:74], own[11, 40:44, 70:74] = 500, True
    hu[9, 60:64, 60:64], ignored[9, 60:64, 60:64] = 500, True
    changed = Background("own", hu, GRID, base.atlas_to_scan, base.anatomy, own, ignored, 4.0)
    shown, coronary, unknown = resample_background(changed, GRID, Deformation.identity(), order=1)
    assert np.allclose(shown, hu)
    assert coronary[11, 40:44, 70:74].all()
    assert unknown[9, 60:64, 60:64].all()
    assert not coronary[9].any()


def test_deformation_inverse_returns_every_point():
    deformation = Deformation.random(np.random.default_rng(0), CENTER)
    points = CENTER + np.random.default_rng(1).uniform(-60, 60, (50, 3))
    moved = deformation.to_background(points)
    assert np.linalg.norm(moved - points, axis=1).max() > 1.0
    assert np.abs(deformation.to_simulated(moved) - points).max() < 1e-3


def test_waves_on_a_slice_match_waves_at_points():
    deformation = Deformation.random(np.random.default_rng(2), CENTER)
    x, y, z = np.array([3.0, 8.0, 20.0]), np.array([-4.0, 11.0]), 7.5
    whole = deformation.waves_on_slice(x, y, z)
    one = deformation.waves_mm(np.array([20.0, -4.0, 7.5]))
    assert whole[:, 0, 2] == pytest.approx(one)


def test_resampled_background_shows_the_deformed_place():
    base = background()
    shift = np.eye(4)
    shift[:3, 3] = (6.0, -4.8, 8.0)  # whole voxels: 5, -4 and 2
    none = np.zeros((0, 3))
    moved, _, _ = resample_background(base, GRID, Deformation(shift, none, none, none), order=1)
    # what the result shows at p, the background has at p + shift
    assert np.allclose(moved[5:15, 20:90, 10:100], base.volume_hu[7:17, 16:86, 15:105])


def test_a_scan_on_the_voxels_of_a_turned_background_shows_it_in_its_place():
    base = background()
    cos, sin = np.cos(np.radians(20)), np.sin(np.radians(20))
    turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    middle = GRID.physical_points((np.array(GRID.size) - 1) / 2)
    origin = middle + turn @ (np.array(GRID.origin) - middle)
    turned = replace(GRID, origin=tuple(origin), direction=tuple(turn.ravel()))
    index = GRID.indices(turned.voxel_points())[..., ::-1]
    hu = map_coordinates(base.volume_hu, np.moveaxis(index, -1, 0), order=1, mode="nearest")
    options = GeneratorOptions(native_share=1.0)
    scan = simulate_scan(replace(base, volume_hu=hu, grid=turned), HEART, (5, 1), options)
    radius = np.linalg.norm((scan.grid.voxel_points() - CENTER) / (45.0, 40.0, 35.0), axis=-1)
    assert np.median(scan.volume_hu[radius < 0.8]) == pytest.approx(40.0, abs=8.0)
    assert np.median(scan.volume_hu[(radius > 0.9) & (radius < 1.0)]) == pytest.approx(-90.0, abs=8)


def test_annotations_become_anatomy():
    annotation = {
        "coronaries": {
            "LAD": {"points": [[1, 2, 3], [4, 5, 6]], "confidence": "likely"},
            "PDA": {"points": [[1, 2, 3], [4, 5, 6]], "confidence": "guess"},
        },
        "aorta": {"arch": {"points": [[0, 0, 1]], "radius_mm": 12}},
        "aortic_valve": {"center": [7, 8, 9], "radius_mm": 11},
        "landmarks": {"apex": [3, 2, 1]},
    }
    anatomy = Anatomy.from_annotation(annotation).mapped(lambda p: p + 1.0)
    assert anatomy.courses["LAD"].tolist() == [[2, 3, 4], [5, 6, 7]]
    assert set(anatomy.courses) == {"LAD", "PDA"}
    assert set(anatomy.seen_courses) == {"LAD"}
    assert anatomy.aorta_radii_mm == {"arch": 12.0}
    assert anatomy.valve_mm.tolist() == [[8, 9, 10]]
    assert anatomy.mitral_ring_mm.shape == (0, 3)
    assert anatomy.landmarks["apex"].tolist() == [4, 3, 2]
