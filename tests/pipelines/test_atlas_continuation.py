from dataclasses import replace

from atlas.settings import CT_STAGES, AtlasSettings, Stage, default_stages
from pipelines.atlas_continuation import refined_settings


def test_an_atlas_of_ct_goes_on_with_its_last_stage_after_a_round_of_each_other():
    settings = AtlasSettings("ct", 3.0, stages=CT_STAGES, tolerance=0.01)
    found = refined_settings(settings)
    assert [(stage.name, stage.rounds) for stage in found.stages] == [
        ("affine", 1),
        ("affine, focused", 1),
        ("deformable, 16 voxels", 1),
        ("deformable, 8 voxels", 1),
        ("deformable, 4 voxels", CT_STAGES[-1].rounds),
    ]
    assert replace(found, stages=CT_STAGES) == settings


def test_without_deformable_stages_the_affine_ones_take_a_round():
    stages = tuple(stage for stage in CT_STAGES if stage.kind != "deformable")
    found = refined_settings(AtlasSettings("ct", 3.0, stages=stages))
    assert [(stage.name, stage.rounds) for stage in found.stages] == [
        ("affine", 1),
        ("affine, focused", 1),
    ]


def test_of_a_trained_registration_all_rounds_are_its_last_stage():
    stages = default_stages("other", "trained")
    found = refined_settings(AtlasSettings("other", 1.0, method="trained", stages=stages))
    assert found.stages == (Stage("affine", 1), stages[-1])


def test_rigid_atlases_go_on_as_they_were_built():
    settings = AtlasSettings("other", 1.0, stages=(Stage("rigid", 2),))
    assert refined_settings(settings) == settings
