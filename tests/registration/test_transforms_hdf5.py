import time

import numpy as np
import pytest
import SimpleITK as sitk

from registration.geometry import ImageGrid
from registration.transforms import transform_stages, write_transform
from registration.transforms_dense import displacement_field_transform

GRID = ImageGrid((13, 9, 11), (2.0, 2.5, 3.0), (-21.0, 5.0, -30.0))
AFFINE = sitk.AffineTransform(
    [1.1, 0.2, 0.0, -0.1, 0.9, 0.05, 0.0, 0.0, 1.0], [0.1, 7.0, -3.3], [4.0, 1.0, 2.0]
)


def field_transform(digits: int) -> sitk.Transform:
    """A random dense field, rounded to halves to the power of `digits` voxels."""
    field = np.random.default_rng(1).normal(0.0, 1.5, (*GRID.shape, 3))
    return displacement_field_transform(np.rint(field * 2.0**digits) / 2.0**digits, GRID)


def spline(order: int) -> sitk.Transform:
    transform = sitk.BSplineTransformInitializer(GRID.empty_image(), [4, 3, 5], order)
    count = len(transform.GetParameters())
    transform.SetParameters(np.random.default_rng(2).normal(0.0, 2.0, count).tolist())
    return transform


@pytest.mark.parametrize(
    "transform",
    [
        AFFINE,
        sitk.Transform(3, sitk.sitkIdentity),
        spline(2),
        sitk.CompositeTransform([AFFINE, spline(3), field_transform(60)]),
        sitk.CompositeTransform([field_transform(8), AFFINE]),
    ],
)
def test_a_transform_is_read_as_it_was_and_written_the_same_at_any_time(tmp_path, transform):
    first, second = tmp_path / "first.h5", tmp_path / "second.h5"
    write_transform(transform, first)
    time.sleep(1.05)  # the clock of HDF5 counts seconds
    write_transform(transform, second)
    assert first.read_bytes() == second.read_bytes()
    read = transform_stages(sitk.ReadTransform(str(first)))
    for part, expected in zip(read, transform_stages(transform), strict=True):
        assert part.GetName() == expected.GetName()
        assert part.GetFixedParameters() == expected.GetFixedParameters()
        assert part.GetParameters() == expected.GetParameters()


def test_dense_fields_of_few_digits_take_less_room(tmp_path):
    sizes = []
    for digits in (60, 8):
        write_transform(field_transform(digits), tmp_path / f"{digits}.h5")
        sizes.append((tmp_path / f"{digits}.h5").stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]
