"""Pictures of volumes of one slice: same voxels, same places, whatever the plane."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from registration.geometry import ImageGrid
from registration.single_slices import as_picture, as_single_slice, is_single_slice

VALUES = np.random.default_rng(0).integers(0, 100, (1, 5, 7)).astype(np.int16)
FLIPPED = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
OBLIQUE = sitk.Euler3DTransform((0, 0, 0), 0.7, -0.4, 0.3).GetMatrix()


def one_slice(direction: tuple[float, ...], origin=(-30.0, 12.0, 400.0)) -> sitk.Image:
    return ImageGrid((7, 5, 1), (0.8, 1.1, 6.0), origin, direction).to_image(VALUES)


@pytest.mark.parametrize("direction", [np.eye(3).ravel().tolist(), FLIPPED])
def test_the_picture_of_an_axial_slice_keeps_x_and_y_of_its_points(direction) -> None:
    image = one_slice(direction)
    picture = as_picture(image)
    assert picture.GetDimension() == 2
    for index in ((0, 0), (6, 0), (2, 4)):
        point = image.TransformIndexToPhysicalPoint((*index, 0))
        assert picture.TransformIndexToPhysicalPoint(index) == pytest.approx(point[:2])
        assert picture[index] == image[(*index, 0)]


def test_pictures_of_one_oblique_plane_lie_on_each_other_as_their_slices_do() -> None:
    first = one_slice(OBLIQUE)
    along = np.reshape(OBLIQUE, (3, 3)) @ (1.6, -3.3, 0.0)  # two columns on, three rows back
    second = one_slice(OBLIQUE, tuple((np.array(first.GetOrigin()) + along).tolist()))
    place = as_picture(second).GetOrigin()
    index = as_picture(first).TransformPhysicalPointToContinuousIndex(place)
    assert index == pytest.approx((2.0, -3.0))


def test_a_picture_goes_back_to_the_place_of_its_slice() -> None:
    image = one_slice(OBLIQUE)
    again = as_single_slice(as_picture(image), ImageGrid.from_image(image))
    assert ImageGrid.from_image(again) == ImageGrid.from_image(image)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(again), VALUES)


def test_volumes_and_pictures_stay_what_they_are() -> None:
    for image in (sitk.Image([4, 5], sitk.sitkUInt8), sitk.Image([4, 5, 2], sitk.sitkUInt8)):
        assert not is_single_slice(image)
        assert as_picture(image) is image
