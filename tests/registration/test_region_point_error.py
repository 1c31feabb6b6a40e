import numpy as np
import pytest

from registration.losses.region_point_error import RegionPointError

POINTS = [[0.0, 0.0, 0.0], [30.0, 0.0, 0.0], [0.0, 40.0, -10.0]]


def test_a_shift_counts_by_its_length_in_units():
    known = np.tile(np.eye(4), (2, 1, 1))
    found = known.copy()
    found[0, :3, 3] = (3.0, 4.0, 12.0)
    values = np.asarray(RegionPointError(POINTS, unit_mm=10.0, reduction="none")(known, found))
    np.testing.assert_allclose(values, [1.3, 0.0], atol=2e-4)


def test_a_stretch_counts_by_what_it_does_to_the_points():
    found = np.eye(4)[None].copy()
    found[0, 0, 0] = 1.1
    value = float(RegionPointError(POINTS, unit_mm=1.0)(np.eye(4)[None], found))
    assert value == pytest.approx((0.0 + 0.1 * 30.0 + 0.0) / 3, abs=2e-3)


def test_config_round_trip():
    loss = RegionPointError(POINTS, unit_mm=7.0)
    assert RegionPointError.from_config(loss.get_config()).get_config() == loss.get_config()
