from dataclasses import asdict

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from atlas.atlas_mean import AtlasMean
from atlas.averaging import UNCOVERED, write_moved
from atlas.quality import (
    Doubt,
    doubtful,
    mean_pairwise_correlation,
    principal_rotation,
    rotation_deg,
    sharpness,
    with_unplaced,
)
from atlas.settings import AtlasSettings, Stage
from registration.geometry import ImageGrid

GRID = ImageGrid((16, 14, 12), (2.0, 2.0, 2.0), (-9.0, 4.0, 7.0))
SETTINGS = AtlasSettings("other", 2.0)


def mean_of(values, members=4):
    coverage = np.full(GRID.shape, float(members), np.float32)
    zero = np.zeros(GRID.shape, np.float32)
    return AtlasMean(values.astype(np.float32), zero, coverage, GRID, members, "other")


def test_sharpness_is_the_slope_of_a_ramp():
    ramp = np.broadcast_to(np.arange(16) * 6.0, GRID.shape)
    assert sharpness(mean_of(ramp)) == pytest.approx(3.0)  # 6 per voxel of 2 mm


def test_blur_makes_less_sharp():
    steps = np.where(np.arange(16) % 8 < 4, 0.0, 500.0) * np.ones(GRID.shape)
    assert sharpness(mean_of(gaussian_filter(steps, 1.0))) < 0.8 * sharpness(mean_of(steps))


def test_mean_pairwise_correlation_is_that_of_all_pairs(tmp_path):
    rng = np.random.default_rng(0)
    common = rng.uniform(100, 900, GRID.shape)
    arrays = [np.rint(common * 0.5 + rng.uniform(50, 450, GRID.shape)) for _ in range(4)]
    paths = []
    for number, array in enumerate(arrays):
        paths.append(tmp_path / f"{number}.npy")
        write_moved(array.astype(np.int16), paths[-1])
    table = np.corrcoef([array.ravel() for array in arrays])
    expected = table[np.triu_indices(4, 1)].mean()
    found = mean_pairwise_correlation(paths, mean_of(common), "other")
    assert found == pytest.approx(expected, abs=1e-9)


def test_voxels_that_few_cover_do_not_count(tmp_path):
    rng = np.random.default_rng(1)
    array = rng.integers(0, 1000, GRID.shape).astype(np.int16)
    half = array.copy()
    half[:6] = UNCOVERED
    for number, moved in enumerate((array, array, half)):
        write_moved(moved, tmp_path / f"{number}.npy")
    mean = mean_of(array, 3)
    mean.coverage[:6] = 2
    paths = [tmp_path / f"{n}.npy" for n in range(3)]
    assert mean_pairwise_correlation(paths, mean, "other") == pytest.approx(1.0)


def facts(similarity, **others):
    return {"similarity": similarity, "covered": 0.9, "folding": 0.0, **others}


def test_the_odd_one_out_is_named_with_its_reason():
    found = {f"s{n}": (np.eye(4), facts(0.9 + 0.005 * n)) for n in range(6)}
    found["odd"] = (np.eye(4), facts(0.6))
    (doubt,) = doubtful(found, list(found), SETTINGS)
    assert doubt.subject_id == "odd"
    assert "0.60, where 0.91 is usual" in doubt.reason


def test_patients_among_near_copies_stay_in():
    found = {f"copy{n}": (np.eye(4), facts(0.94 + 0.001 * n)) for n in range(8)}
    found |= {"patient": (np.eye(4), facts(0.77)), "legs": (np.eye(4), facts(0.5))}
    assert [doubt.subject_id for doubt in doubtful(found, list(found), SETTINGS)] == ["legs"]


def test_tight_and_wide_scans_are_judged_among_their_own_kind():
    found = {f"wide{n}": (np.eye(4), facts(0.92 + 0.001 * n, wide=True)) for n in range(8)}
    found |= {f"tight{n}": (np.eye(4), facts(0.65 + 0.01 * n, wide=False)) for n in range(5)}
    assert not doubtful(found, list(found), SETTINGS)
    found["chest"] = np.eye(4), facts(0.66, wide=True)
    (doubt,) = doubtful(found, list(found), SETTINGS)
    assert doubt.subject_id == "chest"
    # two of a kind do not say what is usual
    few = {name: found[name] for name in found if name not in ("tight2", "tight3", "tight4")}
    out = {doubt.subject_id for doubt in doubtful(few, list(few), SETTINGS)}
    assert out == {"chest", "tight0", "tight1"}


def test_who_found_no_affine_place_is_not_bent_into_one():
    upside_down = Doubt("turned", "it is not like the others: correlation 0.50")
    odd = Doubt("odd", "its deformation folds over in 5.0 % of the voxels")
    affine = [{"stage_number": 1, "left_out": [{"subject_id": "turned", "reason": "lately"}]}]
    affine += [{"stage_number": 1, "left_out": [asdict(upside_down)]}]
    deformable = [{"stage_number": 2, "left_out": [asdict(Doubt("first", "is well now"))]}]
    stages = (Stage("rigid", 1), Stage("affine", 2), Stage("deformable", 2, 8.0, steps=2))
    found = with_unplaced((odd,), [*affine, *deformable], stages)
    assert found == (odd, upside_down)
    again = Doubt("turned", "it hardly overlaps with the others")
    assert with_unplaced((again,), affine, stages) == (again,)
    # nobody can be placed later than in a stage that places
    assert with_unplaced((odd,), [{"stage_number": -1, "left_out": []}], stages) == (odd,)


@pytest.mark.parametrize(
    ("matrix", "changes", "reason"),
    [
        (np.diag([-1.0, 1, 1, 1]), {}, "mirrored"),
        (np.diag([2.5, 1, 1, 1]), {}, "scaled by 1.00 to 2.50"),
        (np.diag([1.0, -1, -1, 1]), {}, "turned by 180°"),
        (np.eye(4), {"covered": 0.01}, "hardly overlaps"),
        (np.eye(4), {"folding": 0.05}, "folds over in 5.0 %"),
        (np.eye(4), {"failed": "its registration failed (ValueError)"}, "failed"),
    ],
)
def test_absurd_transforms_are_no_part_of_a_mean(matrix, changes, reason):
    found = {"a": (np.eye(4), facts(0.9)), "b": (matrix, facts(0.9, **changes))}
    (doubt,) = doubtful(found, list(found), SETTINGS)
    assert doubt.subject_id == "b"
    assert reason in doubt.reason


def test_the_principal_axes_of_a_turned_box_are_found():
    angle = np.radians(20.0)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    grid = ImageGrid.centered((40, 40, 40), (1.0, 1.0, 1.0), (3.0, -2.0, 5.0))
    own = (grid.voxel_points() - grid.center) @ turn  # turned back
    box = np.all(np.abs(own) < [15.0, 9.0, 5.0], axis=-1) * 800.0
    zero = np.zeros(grid.shape, np.float32)
    mean = AtlasMean(box.astype(np.float32), zero, zero + 4, grid, 4, "other")
    found = np.eye(4)
    found[:3, :3] = principal_rotation(mean)
    assert rotation_deg(found) == pytest.approx(20.0, abs=1.0)  # a box of voxels
    np.testing.assert_allclose(found[:3, :3], turn, atol=0.015)
