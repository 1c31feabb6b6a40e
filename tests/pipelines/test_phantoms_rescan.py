"""The same phantom scanned again: what changes, and what must not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from pipelines.phantoms.phantom import Patient, make_phantom
from pipelines.phantoms.rescan import Rescan
from pipelines.phantoms.settings import STANDARD
from registration.geometry import ImageGrid

SMALL = replace(
    STANDARD,
    matrix=200,
    render_spacing_mm=2.4,
    heart_crop_mm=150.0,
    calcium=replace(STANDARD.calcium, zero_fraction=0.0, category_weights=(0, 0, 0, 1.0)),
)


@pytest.fixture(scope="module")
def patient() -> Patient:
    return Patient.draw("cardiac", 8, SMALL)


@pytest.fixture(scope="module")
def first():
    return make_phantom("cardiac", 8, settings=SMALL)


def values(phantom):
    return sitk.GetArrayFromImage(phantom.image).astype(float)


def middle_of_calcium(phantom):
    """Center of the marked calcium, LPS mm."""
    index = np.argwhere(sitk.GetArrayViewFromImage(phantom.calcium_mask))[:, ::-1]
    return ImageGrid.from_image(phantom.image).physical_points(index).mean(axis=0)


def test_without_a_change_only_the_noise_is_another(patient, first):
    again = patient.scan(Rescan(noise_seed=4))
    assert again.grid == first.grid
    difference = values(again) - values(first)
    assert abs(difference.mean()) < 0.5
    # two independent noises, strongest in the middle of the body
    assert 0.5 * first.noise_hu < difference.std() < 2.0 * first.noise_hu
    assert again.truth.mass_mg == first.truth.mass_mg
    old, new = (p.truth.agatston["agatston-1990"] for p in (first, again))
    assert new == pytest.approx(old, rel=0.1)
    same = patient.scan(Rescan(noise_seed=4))
    assert (values(same) == values(again)).all()


def test_a_turned_and_shifted_patient_has_the_calcium_where_it_was_carried(patient, first):
    angle, shift = 12.0, np.array([6.0, -4.0, 3.0])
    moved = patient.scan(Rescan(rotation_deg=angle, translation_mm=tuple(shift)))
    center = np.asarray(first.grid.center)
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])

    def carried(points):
        return (np.asarray(points) - center) @ turn.T + center + shift

    assert moved.centerlines["RCA"] == pytest.approx(carried(first.centerlines["RCA"]), abs=0.01)
    # pixels above the threshold are others, so their middle is good to some 2 mm
    before, after = middle_of_calcium(first), middle_of_calcium(moved)
    assert np.linalg.norm(carried(before) - before) > 6.0
    assert after == pytest.approx(carried(before), abs=2.5)


def test_kernel_dose_slices_and_field_are_as_asked(patient, first):
    change = Rescan(slice_spacing_mm=6.0, kernel="sharp", noise_factor=2.0, field_of_view_mm=120.0)
    again = patient.scan(change)
    assert again.grid.spacing[2] == 6.0
    assert again.grid.spacing[0] == pytest.approx(120.0 / 200)
    assert again.kernel == "B50f"
    ratio = 6.0 / first.grid.spacing[2]
    assert again.slice_thickness_mm == pytest.approx(first.slice_thickness_mm * ratio)
    assert again.noise_hu > first.noise_hu
    shifted = patient.scan(Rescan(start_offset_mm=1.0))
    assert shifted.grid.origin[2] == pytest.approx(first.grid.origin[2] + 1.0, abs=1e-3)


def test_calcium_is_brighter_at_a_lower_voltage(patient, first):
    scores = [patient.scan(Rescan(kvp=kvp)).truth.agatston["agatston-1990"] for kvp in (100, 140)]
    usual = first.truth.agatston["agatston-1990"]
    # 1.56, 1.30 and 1.14 HU per mg/cm³
    assert scores[0] > 1.1 * usual
    assert scores[1] < 0.95 * usual
