from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from registration.geometry import ImageGrid
from registration.network_registrar import NetworkRegistrar
from registration.networks.affine_stage import AffineConfig
from registration.networks.deformable_network import DeformableConfig
from registration.networks.registration_network import RegistrationConfig, build_registration
from registration.objective import Objective
from registration.pair_preparation import IntensityScaling, prepare_pair
from registration.refinement import RefinementOptions
from registration.registration_folder import (
    RegistrationFolderError,
    load_registration,
    save_registration,
    trained_similarity,
)
from registration.transforms import transform_stages
from registration.transforms_dense import displacement_field_vox

TURNED = sitk.Euler3DTransform((0, 0, 0), 0.2, -0.1, 0.3).GetMatrix()
GRIDS = {
    2: ImageGrid((40, 30), (0.8, 1.7), (-30.0, 12.0), (0.8, -0.6, 0.6, 0.8)),
    3: ImageGrid((20, 26, 9), (0.9, 1.1, 3.0), (-31.0, 57.0, 803.0), TURNED),
}
SMALL = {2: (3, 3), 3: (1, 2, 2)}


def textured(grid, seed) -> sitk.Image:
    noise = np.random.default_rng(seed).normal(size=grid.shape)
    return grid.to_image((1000.0 * gaussian_filter(noise, 1.5)).astype(np.float32))


def registration(dimension, *, head="moments", border=False, **changes):
    """Air and two deformable stages whose outputs are not the identity, though untrained."""
    lattice = {"convolutions": 1, "border": 1} if border else {}
    deformable = DeformableConfig(SMALL[dimension], kernels=4, hidden_layers=1, **lattice)
    air = AffineConfig(dimension, kernels=(3, 4, 5), poolings=2, dense_units=(4,), head=head)
    config = RegistrationConfig(**{"stages": (air, deformable, deformable), **changes})
    keras.utils.set_random_seed(3)
    network = build_registration(config)
    network([np.zeros((1, *GRIDS[dimension].shape, 1))] * 2)
    rng = np.random.default_rng(4)
    for weight in network.trainable_variables:
        if not np.asarray(weight).any():
            weight.assign(rng.normal(0.0, 0.15, weight.shape))
    return network, config


@pytest.mark.parametrize(("head", "border"), [("moments", False), ("votes", True)])
@pytest.mark.parametrize("dimension", [2, 3])
def test_transforms_after_every_stage_are_the_networks_fields(dimension, head, border):
    network, config = registration(dimension, head=head, border=border)
    assert RegistrationConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    grid = GRIDS[dimension]
    fixed, moving = textured(grid, 0), textured(grid, 1)
    result = NetworkRegistrar(network, config).register(fixed, moving)
    pair = prepare_pair(fixed, moving, scaling=config.scaling)
    fields = network([pair.fixed[None, ..., None], pair.moving[None, ..., None]])["stage_fields"]
    assert len(result.stages) == 3
    for transform, field in zip(result.stages, fields, strict=True):
        expected = np.asarray(field)[0]
        assert np.abs(expected).max() > 0.3
        # composing dense fields interpolates linearly, and repeats the border; ITK does neither
        inner = (slice(3, -3),) * dimension
        difference = displacement_field_vox(transform, grid) - expected
        assert np.abs(difference[inner]).max() < 0.1
    first = displacement_field_vox(result.stages[0], grid)
    np.testing.assert_allclose(first, np.asarray(fields[0])[0], atol=1e-3)
    names = [part.GetName() for part in transform_stages(result.transform)]
    assert names == ["AffineTransform", "BSplineTransform", "BSplineTransform"]


@pytest.mark.parametrize("border", [0, 1])
def test_single_bspline_is_exact_on_the_grid(border):
    stage = DeformableConfig((3, 3), kernels=4, convolutions=1, border=border)
    network, config = registration(2, stages=(stage,))
    fixed, moving = textured(GRIDS[2], 0), textured(GRIDS[2], 1)
    transform = NetworkRegistrar(network, config).register(fixed, moving).transform
    assert transform.GetName() == "BSplineTransform"
    pair = prepare_pair(fixed, moving, scaling=config.scaling)
    field = network([pair.fixed[None, ..., None], pair.moving[None, ..., None]])
    found = displacement_field_vox(transform, GRIDS[2])
    np.testing.assert_allclose(found, np.asarray(field["displacement_field"])[0], atol=2e-5)


@pytest.mark.parametrize(
    "changes", [{"composition": "add"}, {"stages": (DeformableConfig((3, 3), diffeomorphic=True),)}]
)
def test_what_itk_cannot_say_becomes_a_dense_field_of_the_same_values(changes):
    network, config = registration(2, **changes)
    fixed, moving = textured(GRIDS[2], 0), textured(GRIDS[2], 1)
    transform = NetworkRegistrar(network, config).register(fixed, moving).transform
    pair = prepare_pair(fixed, moving, scaling=config.scaling)
    field = network([pair.fixed[None, ..., None], pair.moving[None, ..., None]])
    found = displacement_field_vox(transform, GRIDS[2])
    np.testing.assert_allclose(found, np.asarray(field["displacement_field"])[0], atol=1e-4)


def test_working_spacing_and_places_in_space_do_not_matter_to_the_middle():
    """Untrained, registration of images far apart is the shift of middle onto middle."""
    config = RegistrationConfig(
        (AffineConfig(3, kernels=2, poolings=1), DeformableConfig((1, 1, 1), kernels=2)),
        spacing_mm=(2.0, 2.0, 3.0),
        initialization="centers",
        scaling=IntensityScaling(window=(-500.0, 500.0)),
    )
    registrar = NetworkRegistrar(build_registration(config), config)
    moving_grid = ImageGrid((17, 19, 12), (1.3, 0.8, 2.0), (400.0, 0.0, -90.0))
    result = registrar.register(textured(GRIDS[3], 0), textured(moving_grid, 1))
    for index in ([0, 0, 0], [7, 20, 3]):
        point = GRIDS[3].physical_points(index)
        expected = point + moving_grid.center - GRIDS[3].center
        np.testing.assert_allclose(result.transform.TransformPoint(point.tolist()), expected)
    assert transform_stages(result.transform)[0].GetName() == "AffineTransform"
    assert len(transform_stages(result.transform)) == 2


def test_images_far_apart_are_refused_unless_middles_are_brought_together():
    config = RegistrationConfig((DeformableConfig((3, 3), kernels=2),))
    registrar = NetworkRegistrar(build_registration(config), config)
    far = ImageGrid((40, 30), (0.8, 1.7), (400.0, 12.0))
    with pytest.raises(RuntimeError, match="do not overlap in physical space"):
        registrar.register(textured(GRIDS[2], 0), textured(far, 1))


def test_refinement_makes_the_moved_image_more_alike():
    config = RegistrationConfig((DeformableConfig((3, 3), kernels=2),))
    network = build_registration(config)
    grid = GRIDS[2]
    moving = textured(grid, 2)
    shift = sitk.TranslationTransform(2, (1.2, -0.9))
    fixed = sitk.Resample(moving, moving, shift, sitk.sitkLinear)

    def similarity(registrar):
        transform = registrar.register(fixed, moving).transform
        moved = sitk.Resample(moving, fixed, transform, sitk.sitkLinear)
        inner = np.s_[4:-4, 4:-4]
        arrays = [sitk.GetArrayFromImage(image)[inner].ravel() for image in (fixed, moved)]
        return np.corrcoef(*arrays)[0, 1]

    before = similarity(NetworkRegistrar(network, config))
    refined = NetworkRegistrar(network, config, refinement=RefinementOptions(steps=60))
    assert before < 0.9
    assert similarity(refined) > 0.99


def resampled(image, transform, grid=None):
    target = image if grid is None else grid.empty_image()
    return sitk.Resample(image, target, transform, sitk.sitkLinear)


def test_a_finer_round_finds_what_the_working_grid_does_not_show():
    """Texture of 1 mm on a working grid of 4 mm, moved by 1 mm in a frame that is turned."""
    grid = ImageGrid((60, 50), (1.0, 1.0), (-30.0, 12.0), (0.8, -0.6, 0.6, 0.8))
    noise = np.random.default_rng(1).normal(size=grid.shape)
    moving = grid.to_image(gaussian_filter(noise, 0.8).astype(np.float32))
    shift = np.array([0.9, -0.7])
    fixed = resampled(moving, sitk.TranslationTransform(2, shift.tolist()))
    config = RegistrationConfig((DeformableConfig((2, 2), kernels=2),), spacing_mm=(4.0, 4.0))
    network = build_registration(config)
    errors = {}
    for finer in (0, 60):
        options = RefinementOptions(steps=30, finer_steps=finer, learning_rate=0.3)
        registrar = NetworkRegistrar(network, config, refinement=options)
        found = registrar.register(fixed, moving)
        assert len(found.stages) == 1
        points = grid.physical_points([[i, j] for i in (20, 30, 40) for j in (15, 25, 35)])
        moved = [found.transform.TransformPoint(p.tolist()) for p in points]
        errors[finer] = np.linalg.norm(moved - points - shift, axis=1).mean()
    assert errors[60] < 0.2
    assert errors[0] > 2 * errors[60]


def test_a_finer_round_keeps_to_the_voxels_of_the_images():
    """Without a working spacing, or where the image is no finer, there is nothing in between."""
    moving = textured(GRIDS[2], 2)
    fixed = resampled(moving, sitk.TranslationTransform(2, (1.2, -0.9)))
    for spacing in (None, (0.8, 1.7), (0.5, 1.0)):
        config = RegistrationConfig((DeformableConfig((2, 2), kernels=2),), spacing_mm=spacing)
        options = RefinementOptions(steps=0, finer_steps=40)
        registrar = NetworkRegistrar(build_registration(config), config, refinement=options)
        moved = resampled(moving, registrar.register(fixed, moving).transform)
        inner = np.s_[4:-4, 4:-4]
        arrays = [sitk.GetArrayFromImage(image)[inner].ravel() for image in (fixed, moved)]
        assert np.corrcoef(*arrays)[0, 1] > 0.97


def pair_with_a_margin(shift):
    """A moving image, and a fixed one whose margin lies on what the moving one shows."""
    grid = ImageGrid((64, 48), (1.0, 1.0), (0.0, 0.0))
    moving = textured(grid, 2)
    fixed = resampled(moving, sitk.TranslationTransform(2, shift.tolist()))
    array = sitk.GetArrayFromImage(fixed)
    array[:, :16] = array[:9] = -1000.0
    return grid.to_image(array), moving


def mean_error(transform, shift):
    """Distance from a known shift at points that are shown, near the margin and far."""
    points = np.array([[i, j] for i in (17.0, 20.0, 30.0, 40.0) for j in (11.0, 20.0, 30.0)])
    moved = np.array([transform.TransformPoint(point.tolist()) for point in points])
    return np.linalg.norm(moved - points - shift, axis=1).mean()


@pytest.mark.parametrize("finer", [0, 20])
def test_refinement_leaves_blank_margins_out_where_it_is_told(finer):
    shift = np.array([1.2, -0.9])
    fixed, moving = pair_with_a_margin(shift)
    scaling = IntensityScaling(window=(-1000.0, 400.0))
    config = RegistrationConfig((DeformableConfig((3, 3), kernels=2),), scaling=scaling)
    network = build_registration(config)
    errors = []
    for ignore in (False, True):
        options = RefinementOptions(steps=60, finer_steps=finer, ignore_margins=ignore)
        registrar = NetworkRegistrar(network, config, refinement=options)
        errors.append(mean_error(registrar.register(fixed, moving).transform, shift))
    assert errors[1] < 0.4 < 0.8 < errors[0]


@pytest.mark.parametrize(
    "stages",
    [
        (AffineConfig(2, kernels=2, poolings=2, dense_units=(2,), steps=12),),
        (DeformableConfig((3, 3), kernels=2, steps=8),),
        (
            AffineConfig(2, kernels=2, poolings=2, dense_units=(2,), steps=12),
            DeformableConfig((3, 3), kernels=2, steps=4),
        ),
    ],
)
def test_steps_on_the_pair_leave_blank_margins_out(stages):
    shift = np.array([1.2, -0.9])
    fixed, moving = pair_with_a_margin(shift)
    scaling = IntensityScaling(window=(-1000.0, 400.0))
    config = RegistrationConfig(stages, scaling=scaling)
    registrar = NetworkRegistrar(build_registration(config), config)
    assert mean_error(sitk.Transform(2, sitk.sitkIdentity), shift) == pytest.approx(1.5)
    assert mean_error(registrar.register(fixed, moving).transform, shift) < 0.2
    # the same registrar takes a pair without margins as well
    found = registrar.register(moving, moving)
    assert mean_error(found.transform, np.zeros(2)) < 0.05


def test_images_too_small_for_the_poolings_are_refused():
    config = RegistrationConfig((AffineConfig(3, kernels=2, poolings=3, dense_units=(2,)),))
    registrar = NetworkRegistrar(build_registration(config), config)
    thin = ImageGrid((28, 24, 7), (1.0, 1.0, 4.0), (0.0, 0.0, 0.0))
    just = ImageGrid((8, 24, 8), (1.0, 1.0, 4.0), (0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match=r"at least 8 voxels.*; the fixed image has 7 along z"):
        registrar.register(textured(thin, 0), textured(just, 1))
    # the moving image is brought to the grid of the fixed one
    found = registrar.register(textured(just, 0), textured(thin, 1)).transform
    assert np.isfinite(found.TransformPoint((3.0, 9.0, 8.0))).all()


def test_a_thin_plate_spline_registers_images_of_every_size_that_has_two_rows_of_points():
    stage = DeformableConfig((3, 3), kernels=3, transformer="thin_plate_spline")
    known, unknown = (RegistrationConfig((stage,), image_shape=n) for n in ((30, 40), None))
    networks = [build_registration(config) for config in (known, unknown)]
    rng = np.random.default_rng(0)
    weights = [rng.normal(0.0, 0.2, w.shape) ** 2 for w in networks[0].get_weights()]
    for network in networks:
        network.set_weights(weights)
    registrar = NetworkRegistrar(networks[1], unknown)
    pair = [textured(GRIDS[2], seed) for seed in (0, 1)]
    fields = [
        displacement_field_vox(each.register(*pair).transform, GRIDS[2])
        for each in (NetworkRegistrar(networks[0], known), registrar)
    ]
    assert np.abs(fields[0]).max() > 0.1
    np.testing.assert_allclose(*fields, atol=1e-4)
    registrar.register(*(image[:20, :] for image in pair))
    with pytest.raises(ValueError, match=r"at least 9 voxels.*; the fixed image has 8 along x"):
        registrar.register(*(image[:8, :] for image in pair))


def test_refinement_goes_on_with_the_similarity_of_the_training(tmp_path):
    """Of an inverted image, correlation leads away from where mutual information leads."""
    config = RegistrationConfig((DeformableConfig((3, 3), kernels=2),))
    grid = GRIDS[2]
    moving = textured(grid, 2)
    shift = sitk.TranslationTransform(2, (1.2, -0.9))
    fixed = sitk.Resample(moving, moving, shift, sitk.sitkLinear)
    options = {"objective": {"similarity": "nmi", "window": 9, "bending_weight": 0.1}}
    save_registration(tmp_path, build_registration(config), config, training={"options": options})
    registrar = load_registration(tmp_path, refinement=RefinementOptions(steps=40))
    transform = registrar.register(fixed, -moving).transform
    moved = sitk.Resample(moving, fixed, transform, sitk.sitkLinear)
    inner = np.s_[4:-4, 4:-4]
    arrays = [sitk.GetArrayFromImage(image)[inner].ravel() for image in (fixed, moved)]
    assert np.corrcoef(*arrays)[0, 1] > 0.98


def test_the_similarity_of_a_training_is_that_of_its_record():
    record = {"objective": {"similarity": "lncc", "window": 5, "folding_weight": 1.0}}
    found = trained_similarity({"training": {"options": record}})
    assert found == Objective("lncc", window=5)
    assert trained_similarity({"training": {}}) == Objective()
    with pytest.raises(RegistrationFolderError, match=r"cannot be refined.*Received: 'sad'"):
        trained_similarity({"training": {"options": {"objective": {"similarity": "sad"}}}})


def test_wrong_dimensions_and_refinements_are_refused():
    network, config = registration(2)
    with pytest.raises(ValueError, match=r"images of 2 axes. Received: 3"):
        NetworkRegistrar(network, config).register(textured(GRIDS[3], 0), textured(GRIDS[3], 1))
    with pytest.raises(ValueError, match="refinement needs a B-spline as the last stage"):
        NetworkRegistrar(*registration(2, composition="add"), refinement=RefinementOptions(steps=3))


def test_config_survives_json():
    _, config = registration(3, spacing_mm=(1.0, 1.0, 3.0), scaling=IntensityScaling((1, 99)))
    assert RegistrationConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_unusable_configs_are_named():
    with pytest.raises(ValueError, match="all stages must have one dimension"):
        RegistrationConfig((AffineConfig(2), DeformableConfig((1, 1, 1))))
    with pytest.raises(ValueError, match="kind must be one of"):
        RegistrationConfig.from_dict({"stages": [{"kind": "rigid"}]})
    with pytest.raises(ValueError, match="spacing_mm needs 2 positive values"):
        RegistrationConfig((AffineConfig(2),), spacing_mm=(1.0, 0.0))
    with pytest.raises(ValueError, match="fusion must be one of"):
        AffineConfig(2, fusion="late")
    with pytest.raises(ValueError, match="kernels needs 3 numbers"):
        AffineConfig(2, kernels=(4, 8), poolings=2)


def test_folder_gives_the_same_transform_and_knows_its_weights(tmp_path):
    network, config = registration(2)
    fixed, moving = textured(GRIDS[2], 0), textured(GRIDS[2], 1)
    expected = NetworkRegistrar(network, config).register(fixed, moving).transform
    save_registration(tmp_path, network, config, training={"pairs": 3})
    found = load_registration(tmp_path).register(fixed, moving).transform
    point = GRIDS[2].center.tolist()
    np.testing.assert_allclose(found.TransformPoint(point), expected.TransformPoint(point))
    weights = tmp_path / "registration.weights.h5"
    weights.write_bytes(weights.read_bytes() + b"0")
    with pytest.raises(RegistrationFolderError, match="SHA-256 differs"):
        load_registration(tmp_path)
    with pytest.raises(RegistrationFolderError, match=r"no registration\.json"):
        load_registration(tmp_path / "elsewhere")
