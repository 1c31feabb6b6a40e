from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pipelines.model import (
    ALIGNMENT_WEIGHTS_NAME,
    ATLAS_NAME,
    SCORING_WEIGHTS_NAME,
    VESSELS_NAME,
    ModelError,
    load_model,
    read_description,
    read_identity,
    update_description,
    verify_files,
)

FILES = (ATLAS_NAME, ALIGNMENT_WEIGHTS_NAME, SCORING_WEIGHTS_NAME)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A described model whose files hold their own names."""
    for name in FILES:
        (tmp_path / name).write_text(name)
    update_description(tmp_path, {"heart": {}, "alignment": {}, "scoring": {}}, name="mine")
    return tmp_path


def test_every_file_is_described_by_its_hash(folder):
    described = json.loads((folder / "model.json").read_text())["files"]
    assert described == {n: hashlib.sha256(n.encode()).hexdigest() for n in FILES}
    verify_files(folder, read_description(folder))


def test_the_identity_changes_with_any_weight(folder):
    before = read_identity(folder)
    (folder / SCORING_WEIGHTS_NAME).write_text("trained longer")
    update_description(folder, {})
    after = read_identity(folder)
    assert (before.name, before.version) == (after.name, after.version) == ("mine", "1")
    assert before.model_hash != after.model_hash


def test_a_changed_file_is_refused_by_name(folder):
    (folder / ALIGNMENT_WEIGHTS_NAME).write_text("tampered")
    with pytest.raises(ModelError, match=r"(?s)alignment\.weights\.h5 in .*SHA-256 differs"):
        load_model(folder)


def test_a_missing_file_is_refused_by_name(folder):
    (folder / ATLAS_NAME).unlink()
    with pytest.raises(ModelError, match=r"atlas\.nii\.gz is missing"):
        load_model(folder)


def test_a_path_in_the_list_of_files_is_refused(folder):
    description = read_description(folder)
    description["files"]["../atlas.nii.gz"] = "0" * 64
    with pytest.raises(ModelError, match="names a path"):
        verify_files(folder, description)


def test_an_unlisted_file_is_refused(folder):
    description = read_description(folder)
    del description["files"][SCORING_WEIGHTS_NAME]
    with pytest.raises(ModelError, match=r"does not list scoring\.weights\.h5"):
        verify_files(folder, description)


def test_an_incomplete_model_says_what_is_missing(tmp_path):
    (tmp_path / ATLAS_NAME).write_text("atlas")
    update_description(tmp_path, {"heart": {}, "alignment": {}})
    with pytest.raises(ModelError, match=r"not complete: scoring missing from .*`calcium-score"):
        load_model(tmp_path)


def test_folders_that_are_no_model_are_named(tmp_path):
    with pytest.raises(ModelError, match=r"no model\.json in .* Give --model a model folder"):
        read_description(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        read_description(tmp_path)
    (tmp_path / "model.json").write_text('{"format": 99}')
    with pytest.raises(ModelError, match="format 1; this version of the program reads no other"):
        read_description(tmp_path)


def test_settings_that_do_not_fit_are_reported_as_such(folder):
    import SimpleITK as sitk

    sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkInt16), str(folder / ATLAS_NAME))
    heart = {"center_mm": [0, 0, 0], "radii_mm": [60, 50, -55]}
    update_description(folder, {"heart": heart})
    with pytest.raises(ModelError, match="do not fit this version of the program"):
        load_model(folder)


def test_sections_are_replaced_and_histories_merged(folder):
    update_description(
        folder,
        {"training": {"alignment": {"seed": 1}}, "data": [{"name": "a", "licence": "x"}]},
    )
    update_description(
        folder,
        {
            "training": {"scoring": {"seed": 2}},
            "data": [{"name": "b", "licence": "y"}, {"name": "a", "licence": "z"}],
            "scoring": {"network": "additive"},
        },
    )
    description = read_description(folder)
    assert description["training"] == {"alignment": {"seed": 1}, "scoring": {"seed": 2}}
    assert {entry["name"]: entry["licence"] for entry in description["data"]} == {
        "a": "z",
        "b": "y",
    }
    assert description["scoring"] == {"network": "additive"}
    assert description["alignment"] == {}


def test_courses_of_arteries_are_hashed_where_there_are_any(folder):
    assert VESSELS_NAME not in read_description(folder)["files"]
    (folder / VESSELS_NAME).write_text("{}")
    update_description(folder, {})
    verify_files(folder, read_description(folder))
    (folder / VESSELS_NAME).write_text("other courses")
    with pytest.raises(ModelError, match=r"(?s)vessels\.json in .*SHA-256 differs"):
        verify_files(folder, read_description(folder))
