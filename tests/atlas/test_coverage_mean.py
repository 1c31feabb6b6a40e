import numpy as np
import pytest
import SimpleITK as sitk

from atlas.coverage_mean import CoverageMean
from registration.geometry import ImageGrid

GRID = ImageGrid((4, 3, 2), (2.0, 3.0, 5.0), (10.0, -20.0, 30.0))


def test_mean_and_spread_are_those_of_numpy_where_all_cover():
    images = np.random.default_rng(0).normal(size=(5, *GRID.shape))
    running = CoverageMean(GRID)
    for image in images:
        running.add(image, np.ones(GRID.shape))
    np.testing.assert_allclose(running.mean(), images.mean(axis=0))
    np.testing.assert_allclose(running.standard_deviation(), images.std(axis=0), atol=1e-6)


def test_voxels_are_divided_by_how_many_images_cover_them():
    running = CoverageMean(GRID, fill_value=-7.0)
    covered = np.zeros(GRID.shape)
    covered[0] = 1.0
    running.add(np.full(GRID.shape, 3.0), covered)
    both = np.ones(GRID.shape)
    both[1, 2] = 0.0
    running.add(np.full(GRID.shape, 5.0), both)
    assert (running.mean()[0] == 4.0).all()
    assert (running.mean()[1, :2] == 5.0).all()
    assert (running.mean()[1, 2] == -7.0).all()


def test_undefined_values_without_weight_do_not_spread():
    running = CoverageMean(GRID)
    running.add(np.full(GRID.shape, np.nan), np.zeros(GRID.shape))
    running.add(np.full(GRID.shape, 2.0), np.ones(GRID.shape))
    assert (running.mean() == 2.0).all()


def test_images_are_pulled_back_onto_the_grid():
    moving = ImageGrid((6, 5, 4), (2.0, 3.0, 5.0), (8.0, -20.0, 30.0))
    array = np.random.default_rng(1).normal(size=moving.shape)
    running = CoverageMean(GRID)
    running.add_image(
        moving.to_image(array),
        moving.to_image(np.ones(moving.shape)),
        sitk.TranslationTransform(3, (2.0, 3.0, 5.0)),
    )
    np.testing.assert_allclose(running.mean(), array[1:3, 1:4, 2:6])


def test_refuses_another_shape():
    with pytest.raises(ValueError, match=r"must have shape \(2, 3, 4\)"):
        CoverageMean(GRID).add(np.zeros((2, 2)), np.zeros((2, 2)))
