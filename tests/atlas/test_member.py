import numpy as np
import pytest
import SimpleITK as sitk

from atlas.member import (
    CT_LIMITS_HU,
    FULL_SCALE,
    UnusableImageError,
    prepare_member,
    read_member,
    write_member,
)
from registration.geometry import ImageGrid

GRID = ImageGrid((20, 12, 10), (1.0, 2.0, 2.5), (30.0, -40.0, 5.0), (-1, 0, 0, 0, -1, 0, 0, 0, 1))


def ramp() -> sitk.Image:
    """Brightness that grows with L by 3 per mm."""
    return GRID.to_image((GRID.voxel_points()[..., 0] * 3.0).astype(np.float32))


def test_intensities_are_scaled_by_percentiles_and_stay_in_place(tmp_path):
    member = prepare_member(ramp(), modality="other", spacing_mm=2.0)
    assert member.grid.spacing == (2.0, 2.0, 2.0)
    values = member.volume.hu
    assert 0.9 * FULL_SCALE < values.max() <= FULL_SCALE  # a coarser voxel is no extreme
    # the middle of a ramp is half of the range, wherever the grid was cut
    center = np.rint(member.grid.indices(GRID.center)).astype(int)[::-1]
    half = member.grid.spacing[0] / 2 / GRID.extent_mm[0] * FULL_SCALE
    assert values[tuple(center)] == pytest.approx(FULL_SCALE / 2, abs=1.2 * half)
    assert np.all(np.diff(values[5, 5]) >= 0)  # L grows with the index, as in space


def test_a_member_is_read_as_it_was_written(tmp_path):
    member = prepare_member(ramp(), modality="other", spacing_mm=2.0)
    write_member(member, tmp_path / "m.npz")
    again = read_member(tmp_path / "m.npz")
    np.testing.assert_array_equal(again.volume.hu, np.rint(member.volume.hu))
    np.testing.assert_array_equal(again.counts, member.counts)
    assert again.grid == member.grid
    assert again.volume.start_mm == pytest.approx(member.volume.start_mm)
    assert again.modality == "other"


def test_ct_keeps_its_hu_within_limits_and_masks_padding():
    hu = np.full(GRID.shape, 40.0)
    hu[:, :, :6] = -1000.0
    hu[2:4, 3:6, 10:14] = 3000.0
    hu[:, :2] = -2000.0
    member = prepare_member(GRID.to_image(hu.astype(np.int16)), modality="ct", spacing_mm=2.0)
    assert member.volume.hu.max() <= CT_LIMITS_HU[1]
    assert member.volume.hu.min() == CT_LIMITS_HU[0]
    padded = np.array(GRID.physical_points([10, 0, 5]))
    index = tuple(np.rint(member.grid.indices(padded)).astype(int)[::-1])
    assert member.volume.valid[index] == 0


def test_a_mask_says_where_images_are_compared_and_begins_there():
    mask = np.zeros(GRID.shape, np.uint8)
    mask[2:5, 3:6, 12:17] = 1
    member = prepare_member(ramp(), modality="other", spacing_mm=2.0, mask=GRID.to_image(mask))
    assert 0 < member.counts.sum() < 0.2 * member.counts.size
    expected = GRID.physical_points([14.0, 4.0, 3.0])
    np.testing.assert_allclose(member.volume.start_mm, expected, atol=1.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full(GRID.shape, 7.0), "shows nothing: all values are about"),
        (np.where(np.arange(20) < 3, np.nan, 1.0) * np.ones(GRID.shape), "not numbers"),
    ],
)
def test_images_that_show_nothing_are_refused(values, message):
    with pytest.raises(UnusableImageError, match=message):
        prepare_member(GRID.to_image(values), modality="other", spacing_mm=2.0)


def test_an_atlas_needs_volumes():
    with pytest.raises(UnusableImageError, match="2 axes"):
        prepare_member(sitk.Image(8, 8, sitk.sitkFloat32), modality="other", spacing_mm=1.0)
