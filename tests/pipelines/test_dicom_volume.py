import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.uid import MRImageStorage

from pipelines.discovery import find_series
from pipelines.reading import read_scan
from pipelines.reasons import UnusableSeries
from tests.pipelines.dicom_factory import (
    CORONAL,
    OBLIQUE,
    ORIGIN,
    PIXEL_SPACING_MM,
    SAGITTAL,
    SPACING_MM,
    hu_pattern,
    make_slices,
    write_files,
)

COUNT = 7


def mr_slices(orientation=SAGITTAL, **attributes):
    slices = make_slices(
        COUNT,
        orientation=orientation,
        Modality="MR",
        SOPClassUID=MRImageStorage,
        **attributes,
    )
    for ds in slices:
        if "RescaleSlope" not in attributes:
            del ds.RescaleSlope, ds.RescaleIntercept
        del ds.RescaleType
    return slices


def read(folder):
    (candidate,) = find_series([folder])
    return read_scan(candidate, any_modality=True).image


@pytest.mark.parametrize("orientation", [SAGITTAL, CORONAL, OBLIQUE])
def test_every_voxel_of_mr_is_where_its_slice_says(tmp_path, orientation):
    write_files(mr_slices(orientation), tmp_path)
    image = read(tmp_path)
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(row, column)
    stored = hu_pattern(COUNT) + 1024
    for k, j, i in ((0, 0, 0), (6, 2, 1), (3, 1, 4)):
        point = np.array(ORIGIN) + k * SPACING_MM * normal
        point = point + j * PIXEL_SPACING_MM[0] * column + i * PIXEL_SPACING_MM[1] * row
        index = image.TransformPhysicalPointToIndex(point.tolist())
        at = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(at, point, atol=1e-4)
        assert image[index] == stored[k, j, i]


def test_values_are_rescaled_where_the_files_say_how(tmp_path):
    write_files(mr_slices(RescaleSlope=0.5, RescaleIntercept=3), tmp_path)
    values = sitk.GetArrayFromImage(read(tmp_path))
    expected = 0.5 * (hu_pattern(COUNT) + 1024) + 3.0
    np.testing.assert_allclose(sorted(values.ravel()), sorted(expected.ravel()), rtol=1e-6)


def test_a_missing_slice_of_mr_is_told(tmp_path):
    slices = mr_slices()
    del slices[3]
    write_files(slices, tmp_path)
    with pytest.raises(UnusableSeries, match="MISSING_SLICE"):
        read(tmp_path)


def test_mr_is_still_no_ct(tmp_path):
    write_files(mr_slices(), tmp_path)
    (candidate,) = find_series([tmp_path])
    with pytest.raises(UnusableSeries, match="NOT_CT"):
        read_scan(candidate)
