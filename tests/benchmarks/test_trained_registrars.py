import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from registration.cohort import CohortImage
from registration.networks.affine_stage import AffineConfig
from registration.networks.deformable_network import DeformableConfig
from registration.networks.registration_network import RegistrationConfig
from registration.training import TrainingOptions

CONFIG = RegistrationConfig(
    (
        AffineConfig(dimension=2, kernels=2, poolings=2, dense_units=(4,)),
        DeformableConfig(downsamplings=(2, 2), kernels=2),
    )
)


def options(tmp_path, **changes):
    return argparse.Namespace(**{"model": None, "train": False, "out": tmp_path, **changes})


def recipe(tmp_path):
    from trained_registrars import Recipe, grouped_cohort, write_image

    def cohorts():
        rng = np.random.default_rng(0)
        paths = [tmp_path / f"{name}.mha" for name in "abc"]
        for path in paths:
            write_image(sitk.GetImageFromArray(rng.random((16, 16)).astype(np.float32)), path)
        return grouped_cohort([CohortImage(p, "all", p.stem) for p in paths]), None

    training = TrainingOptions(steps=2, batch_size=1, evaluate_every=1)
    return Recipe("tiny", CONFIG, training, cohorts)


def test_weights_that_are_not_there_are_asked_for(tmp_path):
    from trained_registrars import trained_registrar

    with pytest.raises(SystemExit, match=r"no weights of tiny.*--train"):
        trained_registrar(recipe(tmp_path), options(tmp_path))


def test_a_network_is_trained_once_recorded_and_cut_to_its_first_stages(tmp_path):
    from staged_methods import first_stages
    from trained_registrars import trained_registrar

    whole = trained_registrar(recipe(tmp_path), options(tmp_path, train=True))
    folder = tmp_path / "models" / "tiny"
    record = json.loads((folder / "registration.json").read_text(encoding="utf-8"))
    assert record["training"]["training_subjects"] == ["a", "b", "c"]
    assert record["training"]["options"]["steps"] == 2
    command = record["training"]["command"]
    assert command.startswith("python ")
    assert " /" not in command
    again = trained_registrar(recipe(tmp_path), options(Path("elsewhere"), model=folder))
    images = [sitk.ReadImage(str(tmp_path / f"{name}.mha")) for name in "ab"]
    found, same = (r.register(*images).transform for r in (whole, again))
    point = (7.3, 4.1)
    assert found.TransformPoint(point) == pytest.approx(same.TransformPoint(point))
    first = first_stages(whole, 1).register(*images)
    assert len(first.stages) == 1
    assert first.transform.IsLinear()


def test_images_of_a_group_are_paired_either_way_round():
    from trained_registrars import grouped_cohort

    images = [CohortImage(Path(n), g, n) for n, g in (("a", "1"), ("b", "2"), ("c", "1"))]
    assert set(grouped_cohort(images).pairs) == {(0, 2), (2, 0)}


def test_the_network_trained_on_most_of_those_that_have_not_seen_a_subject_is_taken(tmp_path):
    from trained_registrars import untouched_network

    def known(name, images, *, training, validation=()):
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        training = {
            "training_images": images,
            "training_subjects": training,
            "validation_subjects": validation,
        }
        path = folder / "registration.json"
        path.write_text(json.dumps({"training": training}), encoding="utf-8")

    known("mine-without-a", 3, training=["B", "C"])
    known("mine-without-a-and-b", 2, training=["C"])
    known("mine-without-c", 9, training=["B"], validation=["A"])
    known("other-without-d", 99, training=["B"])

    def name_of(*subjects):
        found = untouched_network("mine", set(subjects), options(tmp_path), key=str.lower)
        return found and found.name

    assert name_of("a") == "mine-without-a"
    assert name_of("a", "b") == "mine-without-a-and-b"
    assert name_of("d") == "mine-without-c"
    assert name_of("a", "c") is None


def test_to_train_passes_over_what_ships(tmp_path, monkeypatch):
    import trained_registrars

    trained_registrars.trained_registrar(recipe(tmp_path), options(tmp_path / "a", train=True))
    monkeypatch.setattr(trained_registrars, "SHIPPED", tmp_path / "a" / "models")
    shipped = trained_registrars.trained_registrar(recipe(tmp_path), options(tmp_path / "b"))
    assert shipped.name == "tiny"
    assert not (tmp_path / "b").exists()
    trained_registrars.trained_registrar(recipe(tmp_path), options(tmp_path / "b", train=True))
    assert (tmp_path / "b" / "models" / "tiny" / "registration.json").is_file()


MODELS = Path(__file__).parents[2] / "registration" / "models"


def recipes_that_ship():
    from chest_phantoms_recipe import recipe as chests
    from cine2d_recipes import VARIANTS
    from cine2d_recipes import recipe as cine2d
    from cine3d_recipes import BENDING_WEIGHTS, network_name
    from cine3d_recipes import recipe as cine3d
    from hippocampus_recipe import recipe as hippocampus
    from lung_recipe import recipe as lungs

    nowhere = Path("nowhere")
    yield chests(nowhere)
    yield lungs(nowhere)
    yield hippocampus(nowhere, [], [])
    for name in VARIANTS:
        yield cine2d(name, None, None, nowhere, nowhere)
    for name in BENDING_WEIGHTS:
        start = f"{network_name(name)}-without-"
        for folder in sorted(MODELS.glob(f"{start}*")):
            left_out = folder.name.removeprefix(start)
            yield cine3d(
                name, left_out=left_out, hearts=None, pictures=[], test=set(), work=nowhere
            )


def test_settings_of_networks_that_ship_are_those_of_their_recipes():
    known = set()
    for shipped in recipes_that_ship():
        path = MODELS / shipped.name / "registration.json"
        described = json.loads(path.read_text(encoding="utf-8"))
        assert RegistrationConfig.from_dict(described["registration"]) == shipped.config, path
        known.add(shipped.name)
    assert known == {folder.name for folder in MODELS.iterdir() if folder.is_dir()}
