"""Subjects registered by networks that were trained before."""

import json
from dataclasses import replace

import numpy as np
import pytest

from atlas.dense_deformation import deformation_field_vox
from atlas.settings import Stage
from atlas.subject_transform import read_subject_transform
from atlas.trained_method import check_registration, copy_registration
from registration.networks.affine_stage import AffineConfig
from registration.networks.deformable_network import DeformableConfig
from registration.networks.registration_network import RegistrationConfig, build_registration
from registration.registration_folder import RegistrationFolderError, save_registration
from tests.atlas.blob import AFFINE_STAGES, build, cohort

COARSE = DeformableConfig(downsamplings=(3, 3, 3), kernels=8, convolutions=1)
FINE = DeformableConfig(downsamplings=(2, 2, 2), kernels=8, convolutions=1)


def registration(folder, *stages, shift=0.0, **settings):
    """A folder of networks that answer the same whatever they see: a shift along x.

    It is a share of the control point distance.
    """
    config = RegistrationConfig(stages, **settings)
    network = build_registration(config)
    for stage in network.stages:
        last = stage.trainable_weights[-1]
        assert last.shape[-1] == 3
        last.assign([0.0, 0.0, shift])
    save_registration(folder, network, config)
    return folder


def built_by(folder, tmp_path):
    digest = check_registration(folder)
    copy_registration(folder, tmp_path / "atlas" / "work" / "registration")
    return build(
        cohort(),
        tmp_path / "atlas",
        method="trained",
        registration_sha256=digest,
        stages=(*AFFINE_STAGES, Stage("deformable", 1, trained=True)),
    )


def last_transforms(built, builder):
    variant = built.records[-1]["variant"]
    return [
        read_subject_transform(builder.work.kept(built.rounds, variant, name))
        for name in builder.subjects
    ]


def test_what_networks_answer_of_all_subjects_alike_is_taken_out(tmp_path):
    folder = registration(tmp_path / "model", COARSE, FINE, shift=0.1)
    built, builder = built_by(folder, tmp_path)
    found = last_transforms(built, builder)
    assert [len(t.warps) for t in found] == [3] * len(found)
    # 0.1 of 8 and of 4 voxels would be left in every subject
    raw = deformation_field_vox(
        read_subject_transform(builder.work.found(built.rounds, builder.subjects[0])),
        built.mean.grid,
    )
    inner = (slice(6, -6),) * 3
    np.testing.assert_allclose(raw[inner][..., 2], 1.2, atol=0.02)
    mean = np.mean([deformation_field_vox(t, built.mean.grid) for t in found], axis=0)
    assert np.abs(mean[inner]).max() < 0.02


def test_steps_of_the_networks_bring_subjects_nearer_to_the_mean(tmp_path):
    # what the networks answer leads away from the mean by 0.4 of 4 voxels
    plain, refined = (
        built_by(
            registration(tmp_path / f"model-{steps}", replace(FINE, steps=steps), shift=0.4),
            tmp_path / f"steps-{steps}",
        )[0]
        for steps in (0, 6)
    )
    assert refined.records[-1]["similarity"] > plain.records[-1]["similarity"] + 0.02


def test_affine_networks_of_the_folder_are_left_out(tmp_path):
    affine = AffineConfig(dimension=3, kernels=(4, 4, 4), poolings=2, dense_units=(8,))
    config = RegistrationConfig((affine, FINE), initialization="centers")
    save_registration(tmp_path / "model", build_registration(config), config)
    built, builder = built_by(tmp_path / "model", tmp_path)
    assert [len(t.warps) for t in last_transforms(built, builder)] == [2] * 6


@pytest.mark.parametrize(
    ("stages", "settings"),
    [
        ([AffineConfig(dimension=3, kernels=(4, 4, 4), poolings=2, dense_units=(8,))], {}),
        ([DeformableConfig(downsamplings=(2, 2), kernels=8, convolutions=1)], {}),
        ([COARSE, FINE], {"composition": "add"}),
        ([DeformableConfig((2, 2, 2), kernels=8, transformer="bspline2")], {}),
        ([DeformableConfig((2, 2, 2), kernels=8, diffeomorphic=True)], {}),
    ],
)
def test_registrations_without_cubic_splines_of_a_volume_are_refused(tmp_path, stages, settings):
    config = RegistrationConfig(tuple(stages), **settings)
    save_registration(tmp_path, build_registration(config), config)
    with pytest.raises(RegistrationFolderError, match="cannot register the subjects of an atlas"):
        check_registration(tmp_path)


def test_the_copy_is_the_same_registration(tmp_path):
    folder = registration(tmp_path / "model", FINE)
    copy_registration(folder, tmp_path / "copy")
    assert check_registration(tmp_path / "copy") == check_registration(folder)
    names = sorted(path.name for path in (tmp_path / "copy").iterdir())
    assert names == ["registration.json", "registration.weights.h5"]


def test_another_description_is_another_registration(tmp_path):
    folder = registration(tmp_path / "model", FINE)
    before = check_registration(folder)
    path = folder / "registration.json"
    described = json.loads(path.read_text())
    described["registration"]["stages"][0]["passes"] = 2
    path.write_text(json.dumps(described))
    assert check_registration(folder) != before
