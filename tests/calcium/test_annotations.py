import json
from pathlib import Path

import numpy as np
import pytest

import calcium
from calcium.simulation.anatomy import Anatomy
from calcium.simulation.annotations import component_masks, read_annotations

SHIPPED = Path(calcium.__file__).parent / "models" / "training" / "annotations"


def component(name, low, high, n_voxels):
    return {"class": name, "bbox_ijk": [low, high], "n_voxels": n_voxels}


def test_masks_pick_components_by_box_and_size():
    hu = np.full((6, 20, 30), 20, np.int16)
    hu[2:4, 5:8, 10:12] = 300  # 12 voxels, coronary
    hu[3, 8, 12] = 150  # touches its corner: one more voxel of it
    hu[3, 6, 14] = 400  # in the box's neighborhood, but another component
    hu[1, 15:18, 20:24] = 500  # 12 voxels, unknown
    hu[5, 1:4, 1:4] = 900  # bone
    annotation = {
        "components": [
            component("LAD", [10, 5, 2], [14, 8, 3], 13),
            component("unknown", [20, 15, 1], [23, 17, 1], 12),
            component("bone", [1, 1, 5], [3, 3, 5], 9),
        ]
    }
    coronary, unknown = component_masks(annotation, hu)
    assert coronary.sum() == 13
    assert coronary[3, 8, 12]
    assert not coronary[3, 6, 14]
    assert unknown.sum() == 12
    assert unknown[1, 15:18, 20:24].all()


@pytest.mark.parametrize("name", ["LM", "unknown"])
@pytest.mark.parametrize(
    ("low", "high", "n_voxels", "found"),
    [
        ([0, 0, 0], [8, 8, 2], 40, r"\[4, 1\]"),
        ([4, 4, 0], [5, 5, 2], 4, r"\[\]"),  # nothing there
        ([20, 20, 5], [22, 22, 6], 4, r"\[\]"),  # not in the scan
    ],
)
def test_a_component_that_is_not_in_the_scan_is_refused(name, low, high, n_voxels, found):
    hu = np.full((3, 9, 9), 20, np.int16)
    hu[1, 2:4, 2:4] = 300
    hu[1, 7, 7] = 300
    annotation = {"scan": "block", "components": [component(name, low, high, n_voxels)]}
    message = rf"of block: .* class {name} with {n_voxels} voxels .*{low[0]}.* components with "
    with pytest.raises(ValueError, match=message + found):
        component_masks(annotation, hu)
    # what does not count need not be found
    annotation["components"] = [component("bone", low, high, n_voxels)]
    assert not any(mask.any() for mask in component_masks(annotation, hu))


def test_a_class_that_nobody_knows_is_refused(tmp_path):
    annotation = {
        "scan": "b",
        "coronaries": {},
        "components": [component("Lad", [1, 2, 3], [4, 5, 6], 7)],
    }
    message = r"must be one of D1, LAD, .*bone.* Received: 'Lad' in bbox_ijk \[\[1, 2, 3\]"
    with pytest.raises(ValueError, match="annotation of b: .*" + message):
        component_masks(annotation, np.zeros((9, 9, 9)))
    (tmp_path / "b.json").write_text(json.dumps(annotation))
    with pytest.raises(ValueError, match=r"b\.json: .*" + message):
        read_annotations(tmp_path)


WHOLE = {
    "scan": "b",
    "coronaries": {"LAD": {"points": [[0, 0, 0]]}},
    "components": [component("LAD", [0, 0, 0], [1, 1, 1], 4)],
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"part\.json cannot be read as JSON"),
        ("\u00e9".encode("latin-1"), r"part\.json cannot be read as JSON"),
        (
            WHOLE | {"coronaries": {"LAD": {}}},
            r"part\.json: LAD of coronaries needs the key 'points'",
        ),
        (
            WHOLE | {"aorta": {"arch": {"points": []}}},
            r"part\.json: arch of aorta needs the key 'radius_mm'",
        ),
        ({k: v for k, v in WHOLE.items() if k != "scan"}, r"part\.json needs the key 'scan'"),
        *(
            (
                WHOLE | {"components": [{k: v for k, v in kept.items() if k != key}]},
                rf"part\.json: a component needs the key '{key}'",
            )
            for kept in WHOLE["components"]
            for key in kept
        ),
        (
            WHOLE | {"components": [component("LAD", [0, 0, 0], [1, 1, 1], 0)]},
            r"part\.json: n_voxels .* must be positive",
        ),
    ],
)
def test_files_that_say_too_little_are_refused_by_name(text, message, tmp_path):
    content = json.dumps(text) if isinstance(text, dict) else text
    path = tmp_path / "part.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        read_annotations(tmp_path)


def test_an_annotation_without_landmarks_has_an_anatomy():
    assert Anatomy.from_annotation(WHOLE).landmarks == {}


def test_two_files_of_one_scan_are_refused(tmp_path):
    for name in ("first.json", "second.json"):
        (tmp_path / name).write_text(json.dumps(WHOLE))
    with pytest.raises(ValueError, match=r"second\.json is of scan 'b'"):
        read_annotations(tmp_path)


def test_annotations_of_the_default_model_can_be_read():
    found = read_annotations(SHIPPED)
    assert sorted(found) == sorted(path.stem for path in SHIPPED.glob("*.json"))
    assert len(found) == 7


def test_files_without_courses_or_components_are_left_out(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"scan": "a", "landmarks": {}}))
    whole = {"scan": "b", "coronaries": {}, "components": []}
    (tmp_path / "b.json").write_text(json.dumps(whole))
    assert read_annotations(tmp_path) == {"b": whole}
