"""Reading the only series of a folder, in the words of the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from pipelines.discovery import SeriesCandidate, find_series
from pipelines.reading import read_scan
from pipelines.reasons import UnusableSeries
from pipelines.scan import Scan
from tests.pipelines.dicom_factory import PATIENT


def read(folder: Path) -> Scan:
    (candidate,) = find_series([folder])
    return read_scan(candidate)


def refusal(folder: Path) -> UnusableSeries:
    (candidate,) = find_series([folder])
    with pytest.raises(UnusableSeries, match=r"^[A-Z_]+: ") as caught:
        read_scan(candidate)
    assert PATIENT not in str(caught.value)
    assert "4711" not in str(caught.value)
    return caught.value


def code_of(candidate: SeriesCandidate) -> str:
    with pytest.raises(UnusableSeries, match=r"^[A-Z_]+: ") as caught:
        read_scan(candidate)
    return caught.value.code


def voxels(scan: Scan) -> NDArray[np.generic]:
    return sitk.GetArrayFromImage(scan.image)
