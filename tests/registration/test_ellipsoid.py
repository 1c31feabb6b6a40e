import numpy as np
import pytest

from registration.geometry import Ellipsoid


def test_relative_radius_is_one_on_the_surface_of_every_axis():
    shape = Ellipsoid((5.0, -3.0, 100.0), (10.0, 20.0, 40.0))
    tips = np.array([[15.0, -3.0, 100.0], [5.0, -23.0, 100.0], [5.0, -3.0, 140.0]])
    np.testing.assert_allclose(shape.relative_radius(tips), 1.0)


def test_sample_points_fill_the_volume():
    shape = Ellipsoid((5.0, -3.0, 100.0), (30.0, 20.0, 40.0))
    points = shape.sample_points(2.0)
    volume_mm3 = 4.0 / 3.0 * np.pi * 30.0 * 20.0 * 40.0
    assert len(points) * 2.0**3 == pytest.approx(volume_mm3, rel=0.02)
    np.testing.assert_allclose(points.mean(axis=0), shape.center_mm, atol=1e-9)


def test_survives_json():
    shape = Ellipsoid((5.0, -3.0, 100.0), (30.0, 20.0, 40.0))
    assert Ellipsoid.from_dict(shape.to_dict()) == shape


@pytest.mark.parametrize("radii", [(1.0, 0.0, 2.0), (1.0, float("nan"), 2.0)])
def test_refuses_radii_that_are_not_positive(radii):
    with pytest.raises(ValueError, match="radii_mm must be positive"):
        Ellipsoid((0.0, 0.0, 0.0), radii)


def test_refuses_a_center_of_another_dimension():
    with pytest.raises(ValueError, match=r"one value per axis.*\(0.0, 0.0\)"):
        Ellipsoid((0.0, 0.0), (1.0, 1.0, 1.0))
