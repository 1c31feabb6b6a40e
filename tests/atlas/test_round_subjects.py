import numpy as np
import pytest

from atlas.mean_update import AtlasError
from atlas.round_subjects import round_subjects
from atlas.settings import AtlasSettings, Stage

AFFINE = Stage("affine", 2)
DEFORMABLE = Stage("deformable", 2, 8.0, steps=10)
SETTINGS = AtlasSettings("other", 2.0, stages=(AFFINE, DEFORMABLE))


def found(**similarities):
    return {
        name: (np.eye(4), {"similarity": value, "covered": 1.0, "folding": 0.0, "wide": False})
        for name, value in similarities.items()
    }


def chosen(facts, *, held_out=(), stage=AFFINE, records=()):
    training = [name for name in facts if name not in held_out]
    return round_subjects(facts, training, held_out, stage, SETTINGS, records)


def test_who_is_held_out_judges_and_is_not_averaged():
    subjects = chosen(found(a=0.9, b=0.92, c=0.94, new=0.8), held_out=("new",))
    assert subjects.averaged == ("a", "b", "c")
    assert subjects.held_out == ("new",)
    told = subjects.told()
    assert told["similarity"] == pytest.approx(0.92)
    assert told["held_out_similarity"] == told["judged_similarity"] == pytest.approx(0.8)
    assert told["similarities"]["new"] == 0.8


def test_without_held_out_the_averaged_judge():
    subjects = chosen(found(a=0.9, b=0.92, c=0.94))
    assert subjects.told()["held_out_similarity"] is None
    assert subjects.judged_similarity == pytest.approx(0.92)


def test_doubtful_subjects_are_named_and_take_no_part_in_either_way():
    facts = found(a=0.9, b=0.92, c=0.94, odd=0.9, strange=0.9)
    mirrored = np.diag([-1.0, 1, 1, 1])
    facts["odd"] = mirrored, facts["odd"][1]
    facts["strange"] = mirrored, facts["strange"][1]
    subjects = chosen(facts, held_out=("strange",))
    assert subjects.averaged == ("a", "b", "c")
    assert not subjects.held_out
    assert {doubt["subject_id"] for doubt in subjects.told()["left_out"]} == {"odd", "strange"}


def test_a_deformable_round_remembers_who_found_no_affine_place():
    last = [{"stage_number": 0, "left_out": [{"subject_id": "c", "reason": "it is turned"}]}]
    facts = found(a=0.9, b=0.92, c=0.94)
    assert chosen(facts, records=last).averaged == ("a", "b", "c")
    assert chosen(facts, records=last, stage=DEFORMABLE).averaged == ("a", "b")


def test_one_subject_is_no_mean():
    facts = found(a=0.9, b=0.92)
    facts["b"] = np.diag([-1.0, 1, 1, 1]), facts["b"][1]
    with pytest.raises(AtlasError, match=r"fewer than two.*b: .*mirrored"):
        chosen(facts)
