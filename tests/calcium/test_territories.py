import json

import numpy as np
import pytest

from calcium.territories import VesselAtlas


def person(shift=0.0):
    """Straight arteries: left along x, circumflex along y, right along z."""
    step = np.linspace(0.0, 1.0, 5)
    nothing = np.zeros(5)
    return {
        "LM": np.stack([0.1 * step + 0.2, nothing + shift, nothing], axis=1),
        "LAD": np.stack([step + 0.3, nothing + shift, nothing], axis=1),
        "LCX": np.stack([nothing, step + 0.3 + shift, nothing], axis=1),
        "RCA": np.stack([nothing, nothing + shift, step + 0.3], axis=1),
    }


def test_places_belong_to_the_artery_that_runs_there_in_most_people():
    atlas = VesselAtlas((person(), person(0.05), person(-0.05)))
    places = [[0.7, 0.02, 0.0], [0.0, 0.9, 0.05], [0.03, 0.0, 1.1], [0.25, 0.0, 0.0]]
    assert atlas.territories(places) == ["LM/LAD", "LCX", "RCA", "LM/LAD"]
    # two people against one: at y = 0.35 between a circumflex at y >= 0.3 and an odd left artery
    odd = {**person(), "LAD": np.array([[0.0, 0.5, 0.0], [0.0, 0.9, 0.0]])}
    assert VesselAtlas((person(), person(), odd)).territories([[0.0, 0.7, 0.0]]) == ["LCX"]


def test_places_far_from_every_course_belong_to_the_nearest():
    atlas = VesselAtlas((person(),))
    assert atlas.territories([[9.0, 0.0, 0.0], [0.0, 0.0, 9.0]]) == ["LM/LAD", "RCA"]
    assert atlas.territories(np.zeros((0, 3))) == []


def test_points_between_those_of_a_course_are_near_it():
    sparse = {"LAD": np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])}
    atlas = VesselAtlas(({**sparse, "RCA": np.array([[1.0, 0.3, 0.0], [1.0, 0.4, 0.0]])},))
    assert atlas.territories([[1.0, 0.1, 0.0]]) == ["LM/LAD"]


def test_courses_come_back_from_their_file(tmp_path):
    path = tmp_path / "vessels.json"
    atlas = VesselAtlas((person(), person(0.1)))
    atlas.save(path)
    back = VesselAtlas.load(path)
    assert len(back.people) == 2
    for first, second in zip(atlas.people, back.people, strict=True):
        assert first.keys() == second.keys()
        assert all(np.allclose(first[v], second[v], atol=5e-4) for v in first)


@pytest.mark.parametrize("text", ["", "[]", '{"people": 3}', json.dumps({"people": [["LAD"]]})])
def test_other_files_are_refused_by_name(text, tmp_path):
    path = tmp_path / "vessels.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"no courses of arteries can be read.*vessels\.json"):
        VesselAtlas.load(path)


@pytest.mark.parametrize("course", [[], [[0.1, 0.2, 0.3], [0.1, float("nan"), 0.3]]])
def test_courses_without_a_place_are_refused_by_person_and_vessel(course, tmp_path):
    path = tmp_path / "vessels.json"
    path.write_text(json.dumps({"people": [{"RCA": [[0, 0, 0]]}, {"LAD": course}]}))
    with pytest.raises(ValueError, match=r"course in vessels\.json.*LAD of person 2 without"):
        VesselAtlas.load(path)


def test_unknown_vessels_and_nobody_are_refused():
    with pytest.raises(ValueError, match=r"vessels must be among LM, LAD.*AORTA"):
        VesselAtlas(({"AORTA": np.zeros((2, 3))},))
    with pytest.raises(ValueError, match="people must hold at least one"):
        VesselAtlas(())
