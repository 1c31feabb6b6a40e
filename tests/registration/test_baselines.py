import importlib.util
import sys
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from registration.baselines import ElastixRegistrar, ElastixStage
from registration.geometry import ImageGrid

needs_elastix = pytest.mark.skipif(
    importlib.util.find_spec("itk") is None, reason="itk-elastix is not installed"
)

AFFINE = ElastixStage("affine", iterations=60)
BSPLINE = ElastixStage("bspline", (18.0, 14.0), iterations=40)

ANGLE = np.deg2rad(25.0)
OBLIQUE = ImageGrid(
    (60, 48),
    (1.5, 1.0),
    (-30.0, 70.0),
    (np.cos(ANGLE), -np.sin(ANGLE), np.sin(ANGLE), np.cos(ANGLE)),
)
OBLIQUE_3D = ImageGrid(
    (30, 26, 14), (1.5, 1.8, 3.0), (40.0, -25.0, 8.0), (0, 0, 1, 1, 0, 0, 0, 1, 0)
)


def blobs(grid, shift_mm):
    """Four Gaussian blobs about the middle of the grid, moved by `shift_mm`."""
    points = grid.voxel_points() - grid.center - np.asarray(shift_mm)
    total = np.zeros(grid.shape)
    for number in range(4):
        place = 12.0 * np.cos(2.1 * number + 1.3 * np.arange(grid.dimension))
        squares = np.sum((points - place) ** 2, axis=-1)
        total += (1.0 + 0.4 * number) * np.exp(-squares / (2 * 6.0**2))
    return grid.to_image((200.0 * total).astype(np.float32))


def displacements(transform, points):
    return np.array([transform.TransformPoint(p) for p in points.tolist()]) - points


@pytest.mark.slow  # ITK loads its libraries at first use
@needs_elastix
@pytest.mark.parametrize(
    ("grid", "shift", "spacing"),
    [(OBLIQUE, (3.0, -2.0), (18.0, 14.0)), (OBLIQUE_3D, (2.0, -1.5, 2.5), 20.0)],
)
def test_points_travel_with_a_known_shift_after_every_stage(grid, shift, spacing):
    stages = (AFFINE, ElastixStage("bspline", spacing, iterations=40))
    found = ElastixRegistrar(stages).register(
        blobs(grid, np.zeros(grid.dimension)), blobs(grid, shift)
    )
    kinds = [type(t) for t in found.stages]
    assert kinds == [sitk.AffineTransform, sitk.CompositeTransform]
    inner = grid.center + np.random.default_rng(0).uniform(-10, 10, (40, grid.dimension))
    for transform in found.stages:
        errors = np.linalg.norm(displacements(transform, inner) - shift, axis=-1)
        # a third of a voxel: stochastic descent on 2,048 random samples
        assert errors.mean() < 0.5
    assert 0.0 < found.seconds[0] < found.seconds[1]


@pytest.mark.slow  # ITK loads its libraries at first use
@needs_elastix
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # ITK's own types, on first use
def test_the_transform_is_the_one_elastix_itself_applies(tmp_path, monkeypatch):
    itk = pytest.importorskip("itk")
    fixed, moving = blobs(OBLIQUE, (0.0, 0.0)), blobs(OBLIQUE, (3.0, -2.0))
    registrar = ElastixRegistrar((AFFINE, BSPLINE))
    found = registrar.register(fixed, moving)
    parameters = itk.ParameterObject.New()
    for stage in registrar.stages:
        parameters.AddParameterMap(stage.parameter_map(seed=registrar.seed))
    image = itk.image_from_array(sitk.GetArrayFromImage(fixed))
    other = itk.image_from_array(sitk.GetArrayFromImage(moving))
    for copy in (image, other):
        copy.SetSpacing(OBLIQUE.spacing)
        copy.SetOrigin(OBLIQUE.origin)
        copy.SetDirection(itk.matrix_from_array(OBLIQUE.direction_matrix))
    _, applied = itk.elastix_registration_method(
        image, other, parameter_object=parameters, number_of_threads=1, log_to_console=False
    )
    monkeypatch.chdir(tmp_path)  # transformix writes its field where it runs
    field = itk.array_from_image(itk.transformix_deformation_field(image, applied))
    points = OBLIQUE.voxel_points()
    ours = displacements(found.transform, points.reshape(-1, 2)).reshape(points.shape)
    # both stages in one call of elastix; its field is float32
    np.testing.assert_allclose(ours, field, atol=1e-3)


def bending_energy(transform, grid):
    """Mean squared second differences of the displacement along the axes of the grid, 1/mm²."""
    points = grid.voxel_points()
    field = displacements(transform, points.reshape(-1, 2)).reshape(points.shape)
    step_mm = np.array(grid.spacing[::-1])
    slopes = [np.gradient(field, step, axis=axis) for axis, step in enumerate(step_mm)]
    seconds = [
        np.gradient(slope, step, axis=axis) for slope in slopes for axis, step in enumerate(step_mm)
    ]
    return sum(float((second**2).sum(axis=-1).mean()) for second in seconds)


@pytest.mark.slow  # ITK loads its libraries at first use
@needs_elastix
def test_a_weight_of_the_bending_energy_makes_a_smoother_transform():
    fixed, moving = blobs(OBLIQUE, (0.0, 0.0)), blobs(OBLIQUE, (3.0, -2.0))
    free, stiff = (
        ElastixRegistrar((replace(BSPLINE, bending_weight=weight),)).register(fixed, moving)
        for weight in (0.0, 300.0)
    )
    energies = [bending_energy(found.transform, OBLIQUE) for found in (free, stiff)]
    assert energies[1] < 0.5 * energies[0]
    inner = OBLIQUE.center + np.random.default_rng(0).uniform(-10, 10, (40, 2))
    errors = np.linalg.norm(displacements(stiff.transform, inner) - (3.0, -2.0), axis=-1)
    assert errors.mean() < 1.0  # a shift does not bend, so that it is found all the same


@pytest.mark.slow  # ITK loads its libraries at first use
@needs_elastix
def test_the_seed_decides_and_the_files_are_exact(tmp_path):
    fixed, moving = blobs(OBLIQUE, (0.0, 0.0)), blobs(OBLIQUE, (3.0, -2.0))
    one, same, other = (
        ElastixRegistrar((BSPLINE,), seed=seed).register(fixed, moving).transform
        for seed in (1, 1, 2)
    )
    assert one.GetParameters() == same.GetParameters()
    assert np.abs(np.subtract(one.GetParameters(), other.GetParameters())).max() > 1e-3
    sitk.WriteTransform(one, str(tmp_path / "bspline.tfm"))
    read = sitk.ReadTransform(str(tmp_path / "bspline.tfm"))
    np.testing.assert_allclose(read.GetParameters(), one.GetParameters(), rtol=1e-12)


@pytest.mark.slow  # ITK loads its libraries at first use
@needs_elastix
def test_a_mask_decides_which_of_two_motions_is_found():
    fixed = sitk.GetArrayFromImage(blobs(OBLIQUE, (0.0, 0.0)))
    moving = sitk.GetArrayFromImage(blobs(OBLIQUE, (3.0, -2.0)))
    # right half of the grid: the moving image did not move
    moving[:, 30:] = fixed[:, 30:]
    left = np.zeros(OBLIQUE.shape, np.uint8)
    left[:, :26] = 1
    stage = ElastixStage("affine", iterations=150, valid_samples=0.05)
    images = OBLIQUE.to_image(fixed), OBLIQUE.to_image(moving)
    mask = OBLIQUE.to_image(left)
    found = ElastixRegistrar((stage,)).register(*images, fixed_mask=mask).transform
    points = OBLIQUE.physical_points([[14.0, 20.0], [18.0, 28.0], [20.0, 24.0]])
    errors = np.linalg.norm(displacements(found, points) - (3.0, -2.0), axis=-1)
    assert errors.mean() < 0.7


def test_bending_energy_is_a_second_metric_of_the_weight_given():
    plain = ElastixStage("bspline", 16.0).parameter_map(seed=3)
    assert plain["Metric"] == ["AdvancedNormalizedCorrelation"]
    assert plain["FinalGridSpacingInPhysicalUnits"] == ["16.0"]
    assert [float(f) for f in plain["GridSpacingSchedule"]] == pytest.approx([1.41421356, 1.0])
    assert (plain["NumberOfResolutions"], plain["MaximumNumberOfIterations"]) == (["2"], ["100"])
    assert (plain["NumberOfSpatialSamples"], plain["RandomSeed"]) == (["2048"], ["3"])
    bent = ElastixStage("bspline", 16.0, bending_weight=0.5).parameter_map(seed=3)
    assert bent["Metric"] == ["AdvancedNormalizedCorrelation", "TransformBendingEnergyPenalty"]
    assert (bent["Metric0Weight"], bent["Metric1Weight"]) == (["1.0"], ["0.5"])
    assert bent["Registration"] == ["MultiMetricMultiResolutionRegistration"]


def test_a_missing_elastix_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "itk", None)
    image = blobs(OBLIQUE, (0.0, 0.0))
    with pytest.raises(ImportError, match=r"itk-elastix.*calcium-score\[baselines\]"):
        ElastixRegistrar((AFFINE,)).register(image, image)


def test_refuses_images_that_do_not_overlap_before_elastix_is_asked():
    far = ImageGrid((60, 48), (1.5, 1.0), (500.0, 70.0))
    with pytest.raises(RuntimeError, match="do not overlap in physical space"):
        ElastixRegistrar((AFFINE,)).register(OBLIQUE.empty_image(), far.empty_image())


def test_refuses_images_of_different_dimensions():
    with pytest.raises(ValueError, match=r"same dimension\. Received: 2 and 3"):
        ElastixRegistrar((AFFINE,)).register(OBLIQUE.empty_image(), OBLIQUE_3D.empty_image())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"transform": "rigid"}, "'affine' or 'bspline'"),
        ({"transform": "bspline"}, "control_point_spacing_mm belongs"),
        ({"transform": "affine", "control_point_spacing_mm": 8.0}, "control_point_spacing_mm"),
        ({"transform": "affine", "bending_weight": 1.0}, "does not bend"),
        ({"transform": "affine", "iterations": 0}, "must be positive"),
    ],
)
def test_refuses_stages_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        ElastixStage(**arguments)


def test_refuses_no_stage():
    with pytest.raises(ValueError, match="at least one stage"):
        ElastixRegistrar(())
