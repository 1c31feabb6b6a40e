import numpy as np
import pytest

from calcium.crop_augmentation import CropAugmentation, CropChange, leaner
from calcium.networks.slice_inputs import slice_inputs


def window(hu):
    """Attenuation as the context channels show it."""
    context = np.broadcast_to(np.asarray(hu, float), (1, 5, 1, np.size(hu)))
    return slice_inputs(context, np.zeros((1, 1, np.size(hu))), np.zeros((1, 1, np.size(hu), 3)))


def test_a_lean_patient_has_muscle_where_there_was_fat_and_the_rest_as_before():
    hu = np.array([-1000.0, -100.0, -80.0, 0.0, 45.0, 150.0, 900.0])
    before = window(hu)[0, 0, :, 0]
    after = leaner(before, 1.0) * 220.0 + 40.0
    assert after[1:3] == pytest.approx([-5.0, -5.0], abs=0.1)
    assert leaner(before, 1.0)[[0, 3, 4, 5, 6]] == pytest.approx(before[[0, 3, 4, 5, 6]])
    half = leaner(before, 0.5) * 220.0 + 40.0
    assert half[1:3] == pytest.approx([-52.5, -42.5], abs=0.1)
    assert leaner(before, 0.0) == pytest.approx(before)


def test_what_is_darker_stays_darker():
    hu = np.linspace(-400.0, 400.0, 801)
    for lean in (0.3, 1.0):
        assert (np.diff(leaner(window(hu)[0, 0, :, 0], lean)) >= -1e-6).all()


def test_a_change_leaves_calcium_and_candidates_alone():
    rng = np.random.default_rng(0)
    inputs = rng.uniform(-1.0, 1.0, (6, 6, 10)).astype(np.float32)
    changed = inputs.copy()
    shift, scale = np.array([0.1, -0.2, 0.3]), np.array([1.1, 0.9, 1.0])
    CropChange(shift, scale, hu_shift=22.0).apply(changed)
    assert changed[..., :5] == pytest.approx(inputs[..., :5] + 0.1, abs=1e-6)
    assert (changed[..., 5:7] == inputs[..., 5:7]).all()
    assert changed[..., 7:] == pytest.approx(inputs[..., 7:] * scale + shift, abs=1e-6)


def test_shares_of_changed_crops_are_kept():
    rng = np.random.default_rng(1)
    drawn = [CropAugmentation(lean_share=0.3).draw(rng) for _ in range(2000)]
    assert np.mean([change.lean > 0 for change in drawn]) == pytest.approx(0.3, abs=0.04)
    assert max(change.lean for change in drawn) > 0.9
    shifts = np.stack([change.unit_shift for change in drawn])
    assert shifts.std() == pytest.approx(0.13, abs=0.01)
