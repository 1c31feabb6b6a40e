"""`calcium-score train registration`, then `register` with what it wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner
from scipy.ndimage import gaussian_filter

from pipelines.cli import main
from pipelines.registration_recipe import PRESETS, RegistrationRecipe, read_recipe
from registration.networks.registration_network import RegistrationConfig


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for subject in range(4):
        noise = np.random.default_rng(subject).normal(size=(32, 48))
        image = gaussian_filter(noise, 2.0)
        image = 255 * (image - image.min()) / np.ptp(image)
        for phase in range(2):
            shifted = np.roll(image, 2 * phase, axis=1).astype(np.uint8)
            sitk.WriteImage(
                sitk.GetImageFromArray(shifted), str(folder / f"s{subject}-{phase}.png")
            )
    return folder


def test_trains_writes_a_folder_and_registers_with_it(images: Path, tmp_path: Path) -> None:
    recipe = {
        "registration": {"stages": [{"kind": "deformable", "downsamplings": [3, 3], "kernels": 4}]},
        "training": {"steps": 4, "batch_size": 2, "evaluate_every": 2, "augmentation": {}},
    }
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    model = tmp_path / "model"
    words = ["train", "registration", str(images), "--out", str(model), "--group", r"s\d"]
    words += ["--recipe", str(tmp_path / "recipe.json"), "--validation-share", "0.25"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "6 images and 6 pairs to learn from, 2 pairs" in done.stderr
    described = json.loads((model / "registration.json").read_text())
    assert described["training"]["options"]["steps"] == 4
    assert len(described["training"]["validation_subjects"]) == 1
    assert re.search(r"step 4 of 4: .*, \S+ steps/s, 0:00:00 left", done.stderr)
    assert (model / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (model / "curve.csv").read_text().startswith("stage,step,loss,validation_loss")
    words = ["register", str(images / "s0-0.png"), str(images / "s0-1.png")]
    words += ["--out", str(tmp_path / "out"), "--model", str(model), "--refine", "20"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["ncc_after"] > metrics["ncc_before"]
    moved = sitk.ReadImage(str(tmp_path / "out" / "moved.png"))
    assert moved.GetPixelID() == sitk.sitkUInt8
    assert moved.GetSize() == (48, 32)


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_are_recipes(name: str) -> None:
    recipe = read_recipe(name, None, steps=7, batch_size=None)
    assert recipe.options.steps == 7
    again = RegistrationConfig.from_dict(json.loads(json.dumps(recipe.config.to_dict())))
    assert again == recipe.config


def test_bad_recipes_are_told(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold known settings.*kernel"):
        RegistrationRecipe.from_dict({"registration": {"stages": [{"kernel": 3}]}})
    (tmp_path / "recipe.json").write_text("{")
    words = ["train", "registration", str(images), "--out", str(tmp_path / "m")]
    done = CliRunner().invoke(main, [*words, "--recipe", str(tmp_path / "recipe.json")])
    assert done.exit_code == 1
    assert "the recipe must be JSON" in done.output


def stage(**settings: object) -> dict[str, object]:
    return {"kind": "deformable", "downsamplings": [3, 3], "kernels": 4, **settings}


@pytest.mark.parametrize(
    ("registration", "training", "message"),
    [
        ({"stages": {"kind": "deformable"}}, {}, r"stages must be a list of networks.*deformable"),
        ({"stages": ["deformable"]}, {}, r"a stage must hold settings by name.*'deformable'"),
        ({"stages": [stage(downsamplings="ab")]}, {}, r"downsamplings must be a list.*'ab'"),
        ({"stages": [stage(kernels="8")]}, {}, r"kernels must be a number, or a list.*'8'"),
        ({"stages": [stage()], "spacing_mm": 2}, {}, r"spacing_mm must be a list of numbers.*2"),
        ({"stages": [stage()]}, {"steps": "many"}, r"steps must be a number, or a list.*'many'"),
        ({"stages": [stage()]}, {"steps": [5, 5]}, r"steps needs 1 numbers"),
        ({"stages": [stage()]}, {"objective": "ncc"}, r"objective must hold settings.*'ncc'"),
        ({"stages": [stage()]}, {"patch_shape": [4, 4, 4]}, r"patch_shape must have 2 positive"),
    ],
)
def test_recipes_that_cannot_be_are_refused_in_words(
    registration: dict[str, object], training: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        RegistrationRecipe.from_dict({"registration": registration, "training": training})


def test_a_recipe_that_is_a_list_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the recipe must hold settings by name.*\[1, 2\]"):
        RegistrationRecipe.from_dict([1, 2])  # type: ignore[arg-type]


def test_a_folder_that_cannot_be_written_is_told_before_the_training(
    images: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    words = ["train", "registration", str(images), "--out", str(tmp_path / "file" / "model")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1
    assert "Error: " in done.output
    assert "file" in done.output
    assert isinstance(done.exception, SystemExit)
