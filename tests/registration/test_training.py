from __future__ import annotations

import csv
from pathlib import Path

import keras
import numpy as np
import pytest
import SimpleITK as sitk
from keras import ops
from scipy.ndimage import gaussian_filter, map_coordinates

from registration.augmentation import Augmentation
from registration.cohort import read_folder, read_table, split_subjects
from registration.network_registrar import NetworkRegistrar
from registration.networks.affine_stage import AffineConfig
from registration.networks.deformable_network import DeformableConfig
from registration.networks.registration_network import RegistrationConfig
from registration.objective import Objective
from registration.training import RegistrationTrainer, TrainingOptions
from registration.training_pairs import ImageCache, PairSampler
from registration.training_step import StageObjective, StageStep
from registration.warping import warp

DIRNET = RegistrationConfig((DeformableConfig((3, 3), kernels=8, hidden_layers=1),))
QUIET = {"report": lambda line: None}


def blobs(shape, shift, seed) -> np.ndarray:
    """A few blobs, all shifted alike: pairs of such images differ by a shift."""
    rng = np.random.default_rng(seed)
    image = np.zeros(shape)
    for _ in range(6):
        center = rng.uniform(8, np.array(shape) - 8) + shift
        image[tuple(np.clip(np.rint(center).astype(int), 0, np.array(shape) - 1))] = 1.0
    image = gaussian_filter(image, 2.5)
    return (255 * image / image.max()).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for subject in range(6):
        for phase, shift in enumerate(((0.0, 0.0), (2.0, -2.0))):
            size = (32, 40) if subject % 2 else (36, 32)
            image = sitk.GetImageFromArray(blobs(size, np.array(shift), subject))
            sitk.WriteImage(image, str(images / f"s{subject}-{phase}.png"))
    return images


def trainer(folder, work, *, config=DIRNET, share=0.34, **options):
    cohort = read_folder(folder, group=r"s\d")
    training, validation = split_subjects(cohort, share=share, seed=0)
    settings = TrainingOptions(
        **{"steps": 6, "batch_size": 2, "evaluate_every": 3, "warm_up": 2, **options}
    )
    return RegistrationTrainer(config, training, validation, work, options=settings, **QUIET)


def test_a_thin_plate_spline_is_trained_on_images_of_its_size_and_registers_no_other(tmp_path):
    stage = DeformableConfig((3, 3), kernels=4, transformer="thin_plate_spline")
    config = RegistrationConfig((stage,), image_shape=(32, 40))
    images = tmp_path / "images"
    images.mkdir()
    for subject in range(4):
        for phase in range(2):
            image = sitk.GetImageFromArray(blobs((32, 40), np.full(2, 2.0 * phase), subject))
            sitk.WriteImage(image, str(images / f"s{subject}-{phase}.png"))
    training = trainer(images, tmp_path / "work", config=config, share=0.3)
    registrar = NetworkRegistrar(training.train(), config)
    assert np.isfinite(training.rows[-1]["validation_loss"])
    fixed, moving = (sitk.GetImageFromArray(blobs((32, 40), (k, k), 0)) for k in (0, 1))
    assert registrar.register(fixed, moving).transform.GetDimension() == 2
    other = sitk.GetImageFromArray(blobs((32, 48), (0, 0), 0))
    with pytest.raises(ValueError, match=r"images of 40 x 32 voxels.*Received: 48 x 32"):
        registrar.register(other, moving)
    sitk.WriteImage(other, str(images / "s9-0.png"))
    sitk.WriteImage(other, str(images / "s9-1.png"))
    with pytest.raises(ValueError, match=r"image_shape \(32, 40\).*\(32, 48\) of s9"):
        trainer(images, tmp_path / "other", config=config, share=0.3, steps=20).train()


def test_images_of_mixed_sizes_share_a_batch_and_their_padding_does_not_count(folder, tmp_path):
    cache = ImageCache(tmp_path / "cache", DIRNET)
    sampler = PairSampler(read_folder(folder, group=r"s\d"), cache, batch_size=12, seed=1)
    batch = sampler.batch(0, 0)
    assert batch["fixed"].shape == batch["moving"].shape == (12, 36, 40, 2)
    covered = batch["fixed"][..., 1].sum(axis=(1, 2))
    assert set(covered.tolist()) == {32.0 * 40.0, 36.0 * 32.0}
    assert batch["fixed"][..., 0].max() == pytest.approx(1.0)


def test_batches_are_those_of_seed_stage_and_step(folder, tmp_path):
    cohort = read_folder(folder, group=r"s\d")
    changes = Augmentation(rotation_deg=20.0, elastic_vox=2.0, gamma=0.3)
    samplers = [
        PairSampler(
            cohort, ImageCache(tmp_path / "c", DIRNET), batch_size=4, seed=s, augmentation=changes
        )
        for s in (5, 5, 6)
    ]
    first, same, other = (sampler.batch(1, 7) for sampler in samplers)
    assert all(np.array_equal(first[name], same[name]) for name in first)
    assert not np.array_equal(first["linear"], other["linear"])
    assert not np.array_equal(first["linear"], samplers[0].batch(0, 7)["linear"])


def test_masks_and_working_spacing_reach_the_batch(tmp_path):
    grid_spacing = (1.0, 2.0)
    for name, value in (("a", 10), ("b", 20)):
        image = sitk.GetImageFromArray(np.full((10, 16), value, np.uint8))
        image[3, 4] = 200
        image.SetSpacing(grid_spacing)
        sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
    mask = sitk.Image(16, 10, sitk.sitkUInt8)
    mask.SetSpacing(grid_spacing)
    mask[0:8, :] = 1
    sitk.WriteImage(mask, str(tmp_path / "m.nrrd"))
    table = tmp_path / "pairs.csv"
    table.write_text("fixed,moving,fixed_mask\na.nrrd,b.nrrd,m.nrrd\n")
    config = RegistrationConfig(DIRNET.stages, spacing_mm=(2.0, 2.0))
    batch = PairSampler(read_table(table), ImageCache(tmp_path / "c", config), batch_size=1).batch(
        0, 0
    )
    assert batch["fixed"].shape == (1, 10, 8, 2)
    # 8 of 16 columns of 1 mm are 4 of 8 of 2 mm
    assert batch["fixed"][0, :, :, 1].sum(axis=1).tolist() == [4.0] * 10
    assert batch["moving"][0, :, :, 1].min() == 1.0


def test_images_with_holes_are_refused_by_name(tmp_path):
    for name, value in (("a", 10.0), ("b", np.nan)):
        array = np.arange(160, dtype=np.float32).reshape(10, 16)
        array[3, 4] = value
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"{name}.nrrd"))
    sampler = PairSampler(read_folder(tmp_path), ImageCache(tmp_path / "c", DIRNET), batch_size=1)
    with pytest.raises(ValueError, match=r"b\.nrrd holds values that are not numbers"):
        sampler.single(0)


def test_images_too_small_for_the_poolings_are_refused_by_name(folder, tmp_path):
    config = RegistrationConfig((AffineConfig(2, kernels=4, poolings=3),), spacing_mm=(5.0, 4.0))
    cache = ImageCache(tmp_path / "cache", config)
    with pytest.raises(ValueError, match=r"at least 8 voxels.*; s0-0\.png has 6 along x"):
        PairSampler(read_folder(folder, group=r"s\d"), cache, batch_size=1).single(0)


def test_damaged_images_are_told_by_name(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no picture")
    sampler = PairSampler(read_folder(tmp_path), ImageCache(tmp_path / "c", DIRNET), batch_size=1)
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image"):
        sampler.single(0)


def test_an_empty_mask_is_told_by_name(tmp_path):
    for name in ("a", "b"):
        image = sitk.GetImageFromArray(np.arange(160, dtype=np.uint8).reshape(10, 16))
        sitk.WriteImage(image, str(tmp_path / f"{name}.png"))
    sitk.WriteImage(sitk.Image(16, 10, sitk.sitkUInt8), str(tmp_path / "m.png"))
    (tmp_path / "images.csv").write_text("image,mask\na.png,\nb.png,m.png\n")
    cohort = read_table(tmp_path / "images.csv")
    sampler = PairSampler(cohort, ImageCache(tmp_path / "c", DIRNET), batch_size=1)
    with pytest.raises(ValueError, match=r"b\.png.*its mask is empty.*m\.png"):
        sampler.single(0)


def test_drawn_pose_moves_images_as_scipy_does():
    shape = (20, 26)
    image = gaussian_filter(np.random.default_rng(0).normal(size=shape), 2.0)
    changes = Augmentation(rotation_deg=30.0, scale=0.2, translation=0.1, moving_scale=0.1)
    drawn = changes.draw(np.random.default_rng(1), 1, shape, (1.0, 1.0))
    both = np.stack([image, np.ones(shape)], axis=-1)[None].astype(np.float32)
    middle = (np.array(shape) - 1) / 2
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) - middle
    for which in (0, 1):
        places = index @ drawn["linear"][0, which].T + drawn["shift"][0, which] + middle
        expected = map_coordinates(image, np.moveaxis(places, -1, 0), order=1, mode="nearest")
        changed = np.asarray(changes.apply(both, drawn, which, None))[0]
        np.testing.assert_allclose(changed[..., 0], expected, atol=1e-4)
        # nothing but the mask knows where the image ends, and it fades there over one voxel
        inside = map_coordinates(
            np.ones(shape), np.moveaxis(places, -1, 0), order=1, mode="grid-constant"
        )
        np.testing.assert_allclose(changed[..., 1], inside, atol=1e-4)
        assert (inside == 0).any()
        assert ((inside > 0.1) & (inside < 0.9)).any()


def test_blank_margins_are_of_each_image_alone_and_leave_the_mask():
    rng = np.random.default_rng(0)
    images = np.ones((6, 20, 30, 2), np.float32)
    changes = Augmentation(blank=1.0)
    drawn = changes.draw(rng, 6, (20, 30), (1.0, 1.0))
    both = [np.asarray(changes.apply(images, drawn, which, None)) for which in (0, 1)]
    assert not np.array_equal(*both)
    for changed in both:
        np.testing.assert_array_equal(changed[..., 0], changed[..., 1])
        for shown in changed[..., 1]:
            rows, columns = shown.any(axis=1), shown.any(axis=0)
            assert shown.sum() == rows.sum() * columns.sum()  # a box
            assert rows[6:14].all()
            assert columns[9:21].all()
    assert min(changed[..., 1].mean() for changed in both) < 0.9


def test_a_share_of_the_images_is_blank_beyond_a_box_and_by_default_none():
    images = np.ones((400, 10, 10, 2), np.float32)
    for share in (0.0, 0.4):
        changes = Augmentation(blank=share)
        drawn = changes.draw(np.random.default_rng(3), 400, (10, 10), (1.0, 1.0))
        changed = np.asarray(changes.apply(images, drawn, 0, None))
        # of four faces one in sixteen boxes cuts none, and cuts below a voxel show nothing
        whole = (changed[..., 1].mean(axis=(1, 2)) == 1.0).mean()
        assert whole == pytest.approx(1.0 - 0.85 * share, abs=0.08)


def test_rotations_are_rotations_in_millimeters():
    changes = Augmentation(rotation_deg=40.0, in_plane=True)
    drawn = changes.draw(np.random.default_rng(2), 3, (4, 9, 9), (5.0, 0.5, 2.0))
    scale = np.array([5.0, 0.5, 2.0])
    for matrix in drawn["linear"][:, 0].astype(float):
        in_mm = scale[:, None] * matrix / scale
        np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-5)
        np.testing.assert_allclose(in_mm[0], [1.0, 0.0, 0.0], atol=1e-6)


def test_learns_the_shift_between_the_phases(folder, tmp_path):
    rows = [f"s{n}-0.png,s{n}-1.png,s{n}" for n in range(6)]
    (folder / "pairs.csv").write_text("\n".join(["fixed,moving,subject", *rows]))
    cohort = split_subjects(read_table(folder / "pairs.csv"), share=0.34, seed=0)
    options = TrainingOptions(
        steps=150, batch_size=4, learning_rate=3e-2, warm_up=5, ema=0.9, evaluate_every=30
    )
    run = RegistrationTrainer(DIRNET, *cohort, tmp_path / "work", options=options, **QUIET)
    network = run.train()
    found = [row["validation_similarity"] for row in run.rows]
    assert max(found) > 0.93  # 0.77 before
    fixed, moving = (
        run._judges.single(0)[name][..., :1].astype(np.float32) for name in ("fixed", "moving")
    )
    field = np.asarray(network([fixed, moving])["displacement_field"])[0, 8:-8, 8:-8]
    # fixed points lie 2 rows further down and 2 columns further left in the moving image
    np.testing.assert_allclose(field.mean(axis=(0, 1)), [2.0, -2.0], atol=0.5)


def test_killed_training_resumes_to_identical_weights_across_stages(folder, tmp_path):
    air = AffineConfig(2, kernels=4, poolings=2, dense_units=(4,))
    config = RegistrationConfig((air, DIRNET.stages[0]))
    options = {
        "config": config,
        "augmentation": Augmentation(rotation_deg=5.0, elastic_vox=1.0, gamma=0.2, noise=0.02),
        "objective": Objective(bending_weight=0.1),
    }
    straight = trainer(folder, tmp_path / "straight", **options).train()
    killed = trainer(folder, tmp_path / "killed", **options)
    lines = []

    def stop(line):
        lines.append(line)
        if len(lines) == 4:  # at the end of the last stage, before its checkpoint is written
            raise KeyboardInterrupt

    killed._report = stop
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    resumed = trainer(folder, tmp_path / "killed", **options).train()
    for first, second in zip(straight.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(first, second, atol=1e-6)
    curves = [(tmp_path / name / "curve.csv").read_text() for name in ("straight", "killed")]
    rows = list(csv.DictReader(curves[1].splitlines()))
    assert [(row["stage"], row["step"]) for row in rows] == [
        ("0.0", "3.0"),
        ("0.0", "6.0"),
        ("1.0", "3.0"),
        ("1.0", "6.0"),
    ]
    assert curves[0] == curves[1]


def test_a_checkpoint_of_other_options_is_refused(folder, tmp_path):
    trainer(folder, tmp_path, steps=1, evaluate_every=1).train()
    with pytest.raises(ValueError, match="same networks, images and options"):
        trainer(folder, tmp_path, steps=1, evaluate_every=1, seed=9).train()


def test_a_training_goes_on_with_the_same_images_by_whatever_path(folder, tmp_path, monkeypatch):
    trainer(folder, tmp_path / "work", steps=1, evaluate_every=1).train()
    monkeypatch.chdir(tmp_path)
    trainer(Path("images"), Path("work"), steps=1, evaluate_every=1).train()
    # what lies beside the training moves with it
    (tmp_path / "moved").mkdir()
    folder.rename(tmp_path / "moved" / "images")
    (tmp_path / "work").rename(tmp_path / "moved" / "work")
    folder, work = tmp_path / "moved" / "images", tmp_path / "moved" / "work"
    trainer(folder, work, steps=1, evaluate_every=1).train()
    path = folder / "s2-1.png"
    sitk.WriteImage(sitk.ReadImage(str(path)) // 2, str(path))
    with pytest.raises(ValueError, match="same networks, images and options"):
        trainer(folder, work, steps=1, evaluate_every=1).train()


def test_a_stage_that_no_longer_improves_ends_early_with_its_best_weights(folder, tmp_path):
    run = trainer(
        folder, tmp_path, steps=40, evaluate_every=2, patience=2, learning_rate=1e-12, ema=0.0
    )
    run.train()
    # the first is the best; the next two do not beat it by a learning rate of nothing
    assert len(run.rows) < 20


def test_symmetric_losses_do_not_know_which_image_is_fixed(folder, tmp_path):
    goal = StageObjective(Objective(bending_weight=0.2), symmetric=True, inverse_weight=0.5)
    run = trainer(folder, tmp_path)
    rng = np.random.default_rng(0)
    for weight in run.network.trainable_variables:
        weight.assign(rng.normal(0.0, 0.2, weight.shape))
    step = StageStep(run.network, DIRNET, 0, goal, Augmentation())
    batch = run._sampler.batch(0, 0)
    swapped = {"fixed": batch["moving"], "moving": batch["fixed"]}
    assert step.judge(batch) == pytest.approx(step.judge(swapped), rel=1e-4)


def test_a_second_look_is_trained_on_what_the_first_leaves(folder, tmp_path):
    config = RegistrationConfig((DeformableConfig((3, 3), kernels=8, normalization=None),))
    run = trainer(folder, tmp_path / "run", config=config)
    rng = np.random.default_rng(0)
    weights = [rng.normal(0, 0.2, w.shape) for w in run.network.stages[0].get_weights()]
    batch = run._sampler.batch(0, 0)
    losses = {}
    for share in (0.0, 1.0):
        run.network.stages[0].set_weights(weights)
        goal = StageObjective(Objective("ncc"), second_looks=share)
        step = StageStep(run.network, config, 0, goal, Augmentation(), keras.optimizers.SGD(1e-9))
        losses[share] = step.update(batch, (1, 0))
    fixed, moving = (ops.convert_to_tensor(batch[name]) for name in ("fixed", "moving"))
    first = run.network.stages[0]([fixed[..., :1], moving[..., :1]])["displacement_field"]
    expected, _ = step.losses(fixed, warp(moving, first), training=True)
    assert losses[1.0] == pytest.approx(float(ops.mean(expected)), abs=1e-5)
    assert abs(losses[1.0] - losses[0.0]) > 1e-3


def test_inverse_consistency_of_opposite_shifts_is_zero_and_of_equal_ones_their_double():
    step = StageStep.__new__(StageStep)
    step.config = RegistrationConfig(DIRNET.stages, spacing_mm=(0.5, 2.0))
    forward = np.broadcast_to(np.float32([3.0, -1.0]), (1, 9, 9, 2))
    opposite = step._inconsistency(np.concatenate([forward, -forward]))
    np.testing.assert_allclose(opposite, [0.0, 0.0], atol=1e-6)
    equal = step._inconsistency(np.concatenate([forward, forward]))
    # 6 rows of 2 mm and 2 columns of 0.5 mm
    np.testing.assert_allclose(equal, [145.0, 145.0], rtol=1e-5)


def test_patches_of_a_stage_are_the_same_box_of_both_images():
    from registration.training_step import _patches

    x = np.arange(2 * 6 * 8 * 10, dtype=np.float32).reshape(2, 6, 8, 10, 1)
    both = np.concatenate([x, x + 0.5], axis=-1)
    corner = np.float32([[0.0, 0.99, 0.5], [0.99, 0.0, 0.0]])
    fixed, moving = (np.asarray(p) for p in _patches(both, both + 1.0, corner, (4, 4, 16)))
    assert fixed.shape == (2, 4, 4, 10, 2)
    np.testing.assert_array_equal(fixed[0], both[0, :4, 4:8])
    np.testing.assert_array_equal(fixed[1], both[1, 2:6, :4])
    np.testing.assert_array_equal(moving, fixed + 1.0)


def test_a_stage_is_trained_without_steps_and_followed_on_what_they_leave(folder, tmp_path):
    stages = (
        DeformableConfig((3, 3), kernels=8, hidden_layers=1, steps=2, step_shrink=2),
        DeformableConfig((2, 2), kernels=8, hidden_layers=1, steps=1),
    )
    training = trainer(folder, tmp_path, config=RegistrationConfig(stages))
    network = training.train()
    assert {row["stage"] for row in training.rows} == {0.0, 1.0}
    # networks that had steps in the way of their gradient would have learnt nothing
    for stage in network.stages:
        last = stage.get_layer("control_points_free")
        assert np.abs(last.get_weights()[0]).max() > 0
    losses = [row["validation_loss"] for row in training.rows]
    assert losses[-1] < losses[0]
