from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from registration.alignment import ReferenceAligner
from registration.alignment_uncertainty import ALARM_UNCERTAINTY, alignment_uncertainty
from registration.geometry import (
    Ellipsoid,
    ImageGrid,
    affine_matrix,
    affine_transform,
    transform_points,
)
from tests.registration.torso import (
    HEART,
    mean_distance_mm,
    oblique_chest_grid,
    small_affine,
    torso_scan,
)

MODEL = Path(__file__).resolve().parents[2] / "calcium" / "models" / "default"
TORSO_OFFSET = (23.0, -28.0, -25.0)


@pytest.fixture(scope="module")
def torso_aligner():
    grid = ImageGrid.centered((90, 70, 80), (4.0, 4.0, 4.0), (0.0, 0.0, 0.0))
    return ReferenceAligner(torso_scan(grid), HEART, wide_offset_mm=TORSO_OFFSET)


@pytest.fixture(scope="module")
def default_aligner():
    from pipelines.model import read_description

    sections = read_description(MODEL)
    return ReferenceAligner.from_settings(
        sitk.ReadImage(str(MODEL / "atlas.nii.gz")),
        Ellipsoid.from_dict(sections["heart"]),
        sections["alignment"],
        MODEL / "alignment.weights.h5",
    )


def test_a_known_affine_is_found_from_the_lungs(torso_aligner):
    known = small_affine(shift=(80.0, -40.0, 900.0))
    image = torso_scan(oblique_chest_grid((80.0, -40.0, 900.0)), known, noise_hu=20.0)
    alignment = torso_aligner.align(image)
    # 3 mm: the prior on shape holds back a part of the known stretching and shearing.
    assert mean_distance_mm(affine_matrix(alignment.atlas_to_scan), known) < 3.0
    assert alignment.similarity > 0.95
    assert alignment.coverage == 1.0
    assert alignment.spread_mm < 1.0
    assert alignment.mirror_margin > 0.02


def test_a_known_affine_is_found_in_a_tight_field_of_view(torso_aligner):
    known = small_affine(shift=(5.0, 4.0, 7.0))
    grid = ImageGrid.centered((150, 150, 45), (1.4, 1.4, 3.0), (35.0, -25.0, -10.0))
    alignment = torso_aligner.align(torso_scan(grid, known))
    assert mean_distance_mm(affine_matrix(alignment.atlas_to_scan), known) < 4.0


def test_coverage_is_the_share_of_the_ellipsoid_inside(torso_aligner):
    """A field of view that ends at the middle of the heart covers one half of it."""
    low = HEART.center_mm[2]
    grid = ImageGrid((100, 80, 30), (3.6, 3.6, 4.0), (-180.0, -144.0, low + 2.0))
    alignment = torso_aligner.align(torso_scan(grid))
    assert mean_distance_mm(affine_matrix(alignment.atlas_to_scan), np.eye(4)) < 6.0
    assert alignment.coverage == pytest.approx(0.5, abs=0.08)


def test_equal_scans_give_equal_alignments(torso_aligner):
    image = torso_scan(oblique_chest_grid(), small_affine())
    one, other = torso_aligner.align(image), torso_aligner.align(image)
    assert one.atlas_to_scan.GetParameters() == other.atlas_to_scan.GetParameters()
    assert (one.similarity, one.spread_mm) == (other.similarity, other.spread_mm)


def test_nothing_but_air_is_uncertain(torso_aligner):
    grid = oblique_chest_grid()
    alignment = torso_aligner.align(grid.to_image(np.full(grid.shape, -1000, dtype=np.int16)))
    assert alignment.similarity < 0.1
    assert alignment_uncertainty(alignment) >= ALARM_UNCERTAINTY


@pytest.mark.slow
def test_the_shipped_model_recovers_a_known_affine_of_a_phantom(default_aligner):
    from pipelines.phantoms import make_phantom

    image = make_phantom("cardiac", 654_321).image
    before = default_aligner.align(image)
    assert before.similarity > 0.75
    assert before.coverage > 0.9
    assert alignment_uncertainty(before) < ALARM_UNCERTAINTY
    heart = transform_points(affine_matrix(before.atlas_to_scan), default_aligner.region.center_mm)
    known = small_affine(shift=(9.0, -6.0, 12.0), center=heart)
    # 6 mm: what the tight field of view loses at its edges, and the prior on shape.
    check_equivariance(default_aligner, image, before, known, 6.0)


@pytest.mark.slow
@pytest.mark.shared_data
def test_the_shipped_model_recovers_a_known_affine_of_a_real_scan(default_aligner, shared_data):
    image = sitk.ReadImage(str(shared_data / "chest-ct" / "lung1.nrrd"))
    before = default_aligner.align(image)
    assert before.similarity > 0.8
    assert 0.8 < before.coverage < 1.0
    turned = sitk.Euler3DTransform(
        transform_points(affine_matrix(before.atlas_to_scan), default_aligner.region.center_mm),
        0.10, -0.06, 0.15, (14.0, -9.0, 18.0),
    )  # fmt: skip
    # 6 mm: the scan ends at the base of the heart, and turning cuts off more of it.
    check_equivariance(default_aligner, image, before, affine_matrix(turned), 6.0)


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["qrm-phantom", "odd-ct/lungfcp-01-0001-no-heart"])
def test_scans_without_a_heart_are_noticed(default_aligner, shared_data, name):
    from pipelines.discovery import find_series
    from pipelines.reading import read_scan

    (candidate,) = find_series([shared_data / name])
    alignment = default_aligner.align(read_scan(candidate).image)
    assert alignment.coverage < 0.5 or alignment_uncertainty(alignment) >= ALARM_UNCERTAINTY


def check_equivariance(aligner, image, before, known, tolerance_mm):
    """A scan whose points are moved by a known affine is aligned through that affine."""
    moved = sitk.Resample(
        image,
        ImageGrid.from_image(image).empty_image(),
        affine_transform(np.linalg.inv(known)),
        sitk.sitkLinear,
        -2000.0,
        sitk.sitkInt16,
    )
    after = affine_matrix(aligner.align(moved).atlas_to_scan)
    expected = known @ affine_matrix(before.atlas_to_scan)
    assert mean_distance_mm(after, expected, aligner.region) < tolerance_mm
