import json
import shutil

import numpy as np
import pytest

from atlas.subject_transform import SubjectTransform, Warp
from benchmarks.atlas_chests import known_subjects, make_absurd, spread_mm
from registration.geometry import ImageGrid
from registration.transforms import bspline_transform, fixed_points

GRID = ImageGrid((30, 28, 26), (3.0, 3.0, 3.0), (-45.0, -42.0, -39.0))
RNG = np.random.default_rng(2)


def test_landmarks_are_taken_back_through_warps_and_affine_map():
    matrix = np.eye(4)
    matrix[:3, :3] = [[1.1, 0.2, 0.0], [-0.1, 0.9, 0.1], [0.0, 0.05, 1.2]]
    matrix[:3, 3] = [30.0, -8.0, 12.0]
    warps = []
    for step, lattice in ((8, (4, 4, 4)), (4, (7, 7, 8))):
        points = RNG.uniform(-0.3, 0.3, (*lattice, 3)) * step
        warps.append(Warp.from_transform(bspline_transform(points, GRID, spacing=[step] * 3)))
    found = SubjectTransform(matrix, tuple(warps))
    at = RNG.uniform(-25.0, 25.0, (6, 3))
    there = np.array([found.to_transform().TransformPoint(point.tolist()) for point in at])
    np.testing.assert_allclose(fixed_points(found.to_transform(), there), at, atol=1e-2)


def test_spread_is_the_distance_from_each_landmarks_own_mean():
    places = {
        "apex": [np.array([0.0, 0.0, 0.0]), np.array([6.0, 0.0, 0.0])],
        "carina": [np.array([100.0, 0.0, 4.0]), np.array([100.0, 0.0, -4.0])],
    }
    assert spread_mm(places) == pytest.approx(np.sqrt((9 + 9 + 16 + 16) / 4))


def test_landmarks_outside_of_a_scan_do_not_count(cohort_of_phantoms, tmp_path):
    folder = tmp_path / "chest"
    shutil.copytree(cohort_of_phantoms[-1], folder)
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    inside = dict(truth["landmarks_lps_mm"])
    x, y, z = inside["carina"]
    truth["landmarks_lps_mm"] |= {"above": [x, y, z + 500.0], "beside": [x - 400.0, y, z]}
    (folder / "truth.json").write_text(json.dumps(truth), encoding="utf-8")
    (chest,) = known_subjects([folder])
    assert chest.name == "chest"
    assert chest.landmarks.keys() == inside.keys()


def test_absurd_volumes_keep_the_geometry_of_a_chest(cohort_of_phantoms, tmp_path):
    import SimpleITK as sitk

    paths = make_absurd(cohort_of_phantoms, tmp_path)
    chest = sitk.ReadImage(
        sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(cohort_of_phantoms[-1] / "series"))
    )
    for path in paths.values():
        assert sitk.ReadImage(str(path)).GetSize() == chest.GetSize()
    turned = sitk.GetArrayFromImage(sitk.ReadImage(str(paths["absurd-upside-down"])))
    np.testing.assert_array_equal(turned[0], sitk.GetArrayFromImage(chest)[-1])


@pytest.fixture(scope="module")
def cohort_of_phantoms(tmp_path_factory):
    from dataclasses import replace

    from pipelines.phantoms import STANDARD
    from pipelines.phantoms.writing import write_cohort

    folder = tmp_path_factory.mktemp("phantoms")
    small = replace(STANDARD, matrix=64, render_spacing_mm=4.0)
    write_cohort(folder, subjects=2, seed=9, settings=small)
    return sorted(path.parent for path in folder.glob("*/truth.json"))
