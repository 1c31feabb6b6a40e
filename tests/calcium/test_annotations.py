import json

import numpy as np

from calcium.simulation.annotations import component_masks, read_annotations


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


def test_a_component_of_another_size_is_not_taken():
    hu = np.full((3, 9, 9), 20, np.int16)
    hu[1, 2:4, 2:4] = 300
    annotation = {"components": [component("LM", [0, 0, 0], [8, 8, 2], 40)]}
    assert not component_masks(annotation, hu)[0].any()


def test_files_without_courses_or_components_are_left_out(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"scan": "a", "landmarks": {}}))
    whole = {"scan": "b", "coronaries": {}, "components": []}
    (tmp_path / "b.json").write_text(json.dumps(whole))
    assert read_annotations(tmp_path) == {"b": whole}
