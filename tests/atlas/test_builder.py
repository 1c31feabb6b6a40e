import numpy as np
import pytest

from atlas.builder import AtlasBuilder
from atlas.mean_update import AtlasError
from atlas.settings import AtlasSettings, Stage
from atlas.subject_transform import read_subject_transform
from registration.geometry import ImageGrid, transform_points
from registration.transforms import moving_points
from tests.atlas.blob import (
    AFFINE_STAGES,
    SPACING_MM,
    build,
    cohort,
    correlation,
    known_maps,
    oblique_grid,
    prepare_all,
    subject,
)

POINTS = np.array([[0, 0, 0], [20, 0, 0], [0, -15, 0], [-10, 5, 12], [8, 8, -10]], dtype=float)
"""Points of the blob, mm."""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(cohort(), tmp_path_factory.mktemp("built"))


def transforms(built, builder):
    variant = built.records[-1]["variant"]
    return [
        read_subject_transform(builder.work.kept(built.rounds, variant, name))
        for name in builder.subjects
    ]


def test_subjects_are_brought_into_register(built):
    found = [t.matrix for t in transforms(*built)]
    for matrix, truth in zip(found[1:], known_maps()[1:], strict=True):
        between = matrix @ np.linalg.inv(found[0])
        expected = truth @ np.linalg.inv(known_maps()[0])
        at = transform_points(known_maps()[0], POINTS)
        error = np.linalg.norm(
            transform_points(between, at) - transform_points(expected, at), axis=-1
        )
        assert error.mean() < 0.5 * SPACING_MM


def test_the_atlas_has_the_mean_shape_and_place_of_its_subjects(built):
    found = [t.matrix for t in transforms(*built)]
    np.testing.assert_allclose(np.mean([m[:3, :3] for m in found], axis=0), np.eye(3), atol=1e-6)
    starts = [built[0].records[0]["starts_mm"][name] for name in built[1].subjects]
    at = [transform_points(np.linalg.inv(m), s) for m, s in zip(found, starts, strict=True)]
    np.testing.assert_allclose(np.mean(at, axis=0), 0.0, atol=1e-6)


def test_subjects_agree_better_in_every_round(built):
    pairwise = [record["pairwise_ncc"] for record in built[0].records[:3]]
    assert pairwise == sorted(pairwise)
    assert built[0].records[-1]["pairwise_ncc"] > 0.998


def test_every_round_says_why_its_stage_ends_or_goes_on(built):
    rounds = built[0].records[1:]
    assert [record["verdict"].partition(";")[0] for record in rounds[:2]] == [
        "round 1 of at most 1",
        "round 1 of at most 2",
    ]
    assert "similarity gained" in rounds[2]["verdict"]
    assert all(record["judges"] == record["averaged"] for record in rounds)


@pytest.mark.parametrize("start", ["medoid", "s3"])
def test_other_starts_give_the_same_atlas(built, tmp_path, start):
    other, _ = build(cohort(), tmp_path, start=start)
    assert correlation(built[0].mean, other.mean) >= 0.99


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_pose_that_all_subjects_share_does_not_move_a_principal_atlas(tmp_path, rounds):
    # whatever the number of rounds: one that undid the turn of the one before would show
    stages = (Stage("rigid", 1), Stage("affine", rounds))
    turn = np.radians(10.0)
    moved = np.eye(4)
    moved[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    moved[:3, 3] = (35.0, -60.0, 18.0)
    still, _ = build(cohort(), tmp_path / "a", pose="principal", stages=stages)
    turned, builder = build(cohort(moved), tmp_path / "b", pose="principal", stages=stages)
    assert correlation(still.mean, turned.mean) >= 0.99
    # where an atlas point lies in a subject moves with the subject, to about a tenth of a voxel
    first = transforms(still, AtlasBuilderView(tmp_path / "a", builder))
    for before, after in zip(first, transforms(turned, builder), strict=True):
        expected = transform_points(moved @ before.matrix, POINTS)
        error = np.linalg.norm(transform_points(after.matrix, POINTS) - expected, axis=-1)
        assert error.mean() < 0.15 * SPACING_MM


class AtlasBuilderView:
    """The working files of another build of the same subjects."""

    def __init__(self, folder, builder):
        from atlas.work_folder import WorkFolder

        self.work = WorkFolder(folder / "work")
        self.subjects = builder.subjects


def test_a_shift_that_all_subjects_share_changes_nothing(built, tmp_path):
    moved = np.eye(4)
    moved[:3, 3] = (30.0, -50.0, 20.0)
    shifted, _ = build(cohort(moved), tmp_path)
    assert shifted.mean.grid.size == built[0].mean.grid.size
    assert np.abs(shifted.mean.values - built[0].mean.values).mean() < 1.0  # of 1000


def test_absurd_subjects_are_named_and_left_out(tmp_path):
    images = cohort()
    upside_down = known_maps()[0].copy()
    upside_down[:3, :3] = upside_down[:3, :3] @ np.diag([1.0, -1.0, -1.0])
    images["turned"] = subject(upside_down)
    grid = oblique_grid(known_maps()[1])
    noise = np.random.default_rng(5).normal(300.0, 80.0, grid.shape).astype(np.float32)
    images["noise"] = grid.to_image(noise)
    result, _ = build(images, tmp_path)
    assert {doubt.subject_id for doubt in result.doubts} == {"turned", "noise"}
    assert all(doubt.reason for doubt in result.doubts)
    assert result.mean.members == 6
    clean, _ = build(cohort(), tmp_path / "clean")
    assert correlation(clean.mean, result.mean) > 0.99


def test_fields_of_view_may_differ(tmp_path):
    images = cohort()
    whole = oblique_grid(known_maps()[0])
    half = ImageGrid((36, 26, 11), whole.spacing, whole.origin, whole.direction)
    images["s0"] = subject(known_maps()[0], half)  # the lower half alone
    result, _ = build(images, tmp_path)
    grid = result.mean.grid
    low, high = (
        tuple(np.rint(grid.indices([0.0, 0.0, z])).astype(int)[::-1]) for z in (-15.0, 15.0)
    )
    assert result.mean.coverage[low] == 6
    assert result.mean.coverage[high] == 5
    # divided by the coverage: the missing half does not darken the mean
    full, _ = build(cohort(), tmp_path / "full")
    assert result.mean.values[high] == pytest.approx(full.mean.values[high], rel=0.1)


def test_two_subjects_are_the_least(tmp_path):
    work = prepare_all({"a": subject(known_maps()[0])}, tmp_path)
    settings = AtlasSettings(modality="other", spacing_mm=SPACING_MM, stages=AFFINE_STAGES)
    with pytest.raises(AtlasError, match="at least two usable subjects"):
        AtlasBuilder(work, ["a"], frozenset(), settings)


def test_stages_must_grow():
    with pytest.raises(ValueError, match="from rigid to affine"):
        AtlasSettings("other", 1.0, stages=AFFINE_STAGES[::-1])
    with pytest.raises(ValueError, match="control_point_spacing_vox"):
        Stage("deformable", 2)


def test_settings_of_the_first_format_had_four_times_the_steps():
    stage = Stage("deformable", 2, control_point_spacing_vox=8.0, steps=35, warm_steps=15)
    settings = AtlasSettings("other", 1.0, stages=(*AFFINE_STAGES, stage))
    values = settings.to_dict()
    assert AtlasSettings.from_dict(values) == settings
    *affine, found = AtlasSettings.from_dict(values, 1).stages
    assert tuple(affine) == AFFINE_STAGES
    assert (found.steps, found.warm_steps) == (9, 4)


@pytest.mark.slow
def test_deformable_rounds_take_the_mean_displacement_out(tmp_path):
    stages = (*AFFINE_STAGES, Stage("deformable", 2, control_point_spacing_vox=8.0, steps=4))
    result, builder = build(cohort(), tmp_path, stages=stages, held_out=frozenset({"s5"}))
    grid = result.mean.grid
    points = grid.physical_points(np.array([[6, 6, 6], [12, 9, 8], [18, 14, 10]]))
    names = [name for name in builder.subjects if name != "s5"]
    variant = result.records[-1]["variant"]
    ends = [
        moving_points(
            read_subject_transform(builder.work.kept(result.rounds, variant, name)).deformation(),
            points,
        )
        for name in names
    ]
    shifts = np.array(ends) - points
    mean_shift = np.linalg.norm(shifts.mean(axis=0), axis=-1)
    assert mean_shift.max() < 0.001 * SPACING_MM
    # it is taken out, not never there
    assert np.linalg.norm(shifts, axis=-1).max() > 100.0 * mean_shift.max()
    similarities = [record["similarity"] for record in result.records[1:]]
    assert similarities[-1] > similarities[0]
    assert "s5" not in result.records[-1]["averaged"]
    assert result.records[-1]["held_out_similarity"] > 0.9


@pytest.mark.slow
def test_a_network_trained_on_the_cohort_registers_it(tmp_path):
    stages = (Stage("affine", 1), Stage("deformable", 1, 8.0, steps=2, shrink=1))
    images = dict(list(cohort().items())[:3])
    result, builder = build(images, tmp_path, stages=stages, method="network", network_steps=3)
    assert [record["averaged"] for record in result.records[1:]] == [["s0", "s1", "s2"]] * 2
    found = transforms(result, builder)
    assert all(len(transform.warps) == 2 for transform in found)
    assert result.records[-1]["similarity"] > 0.99


@pytest.mark.slow
def test_elastix_registers_a_cohort(tmp_path):
    pytest.importorskip("itk", reason="needs itk-elastix, the extra baselines")
    stages = (Stage("affine", 1), Stage("deformable", 2, 8.0, steps=2, shrink=1))
    images = dict(list(cohort().items())[:3])
    result, builder = build(images, tmp_path, stages=stages, method="elastix")
    assert [record["averaged"] for record in result.records[1:]] == [["s0", "s1", "s2"]] * 3
    # every round begins with nothing, and leaves a warp and the update of the mean shape
    assert all(len(transform.warps) == 2 for transform in transforms(result, builder))
    assert result.records[-1]["similarity"] > 0.99
