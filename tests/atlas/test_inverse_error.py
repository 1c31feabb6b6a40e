import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from atlas.inverse_error import carried_back_error_mm
from registration import dense_inverse
from registration.dense_inverse import inverse_of_warps
from registration.geometry import ImageGrid, affine_transform
from registration.metrics import jacobian_determinant
from registration.transforms_dense import displacement_field_transform

GRID = ImageGrid((18, 24, 20), (2.0, 2.5, 3.0), (-21.0, 5.0, -30.0))
SEEN = GRID.to_image(np.ones(GRID.shape, np.uint8))


def rough_field() -> np.ndarray:
    """A smooth random field that nearly folds."""
    noise = np.random.default_rng(3).normal(0.0, 1.0, (*GRID.shape, 3))
    smooth = np.stack([gaussian_filter(noise[..., k], 3.0) for k in range(3)], axis=-1)
    return smooth * 3.1 / np.abs(smooth).max()


def test_strong_deformations_are_undone_where_iterations_alone_end_elsewhere(monkeypatch):
    deformation = rough_field()
    least = jacobian_determinant(deformation, spacing=(1.0, 1.0, 1.0)).min()
    assert 0.0 < least < 0.25
    forward = displacement_field_transform(deformation, GRID)
    error = carried_back_error_mm(forward, inverse_of_warps(deformation, GRID), GRID, SEEN)
    assert error < 0.1
    monkeypatch.setattr(dense_inverse, "SWEEPS", 1)
    # one sweep leaves nearly everything to the search, which finds the same
    searched = carried_back_error_mm(forward, inverse_of_warps(deformation, GRID), GRID, SEEN)
    assert searched == pytest.approx(error, abs=0.03)


def test_the_error_is_a_distance_in_the_subject_where_it_is_seen():
    doubled = affine_transform(np.diag([2.0, 2.0, 2.0, 1.0]))
    halved = np.diag([0.5, 0.5, 0.5, 1.0])
    halved[:3, 3] = (1.0, 0.0, 0.0)  # 1 mm off in the atlas, 2 mm in the subject
    wide = ImageGrid.centered((40, 40, 40), (4.0, 4.0, 4.0), 2.0 * GRID.center)
    seen = wide.to_image(np.ones(wide.shape, np.uint8))
    error = carried_back_error_mm(doubled, affine_transform(halved), GRID, seen)
    assert error == pytest.approx(2.0)
    nowhere = sitk.Image(seen)
    nowhere.SetOrigin((900.0, 0.0, 0.0))
    assert carried_back_error_mm(doubled, affine_transform(halved), GRID, nowhere) == 0.0
