"""CT volumes in NIfTI, NRRD and MetaImage files."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from pipelines.discovery import SCAN_ID_LENGTH, SeriesCandidate
from pipelines.hounsfield import check_hounsfield
from pipelines.reasons import UnusableSeries
from pipelines.scan import Acquisition, Scan
from pipelines.slice_geometry import MAX_OBLIQUE_DEG, MIN_SLICES
from pipelines.volume_contents import SHEARED, read_image
from registration.geometry import ImageGrid

PIXEL_SPACING_RTOL = 0.01
"""Largest relative difference of the two spacings within an axial slice (own): reconstructions
have square pixels, volumes resliced from another plane have not."""

DIRECTION_ATOL = 5e-3
"""Largest deviation of the axes from perpendicular unit vectors (own): half a pixel over 100
pixels; headers in float32 or with four decimals stay far below."""


def read_volume(candidate: SeriesCandidate, *, any_modality: bool = False) -> Scan:
    """Read a volume file, its slices ordered from feet to head.

    NIfTI's RAS millimetres become LPS inside ITK's reader. Such files say nothing of how
    the scan was made, so only what the voxels show can be checked.

    Args:
        candidate: A volume from `find_series`.
        any_modality: Take every gray 3-D volume, with its values and slices as they are.

    Raises:
        UnusableSeries: If it is not a gray 3-D volume of axial slices in HU.
    """
    name = candidate.name_of(candidate.files[0])
    content_hash = candidate.content_hash
    image = _squared(read_image(candidate.files, name), name)
    if not any_modality:
        image = _in_hu(_feet_to_head(image, name), name)
    return Scan(
        scan_id=content_hash[:SCAN_ID_LENGTH],
        image=image,
        slice_spacing_mm=image.GetSpacing()[2],
        acquisition=Acquisition(),
        files=tuple(str(path) for path in candidate.files),
        source=candidate.source,
        content_hash=content_hash,
    )


def _squared(image: sitk.Image, name: str) -> sitk.Image:
    """The volume as 3-D, its axes freed from rounding; refused if they are sheared."""
    while image.GetDimension() > 3:
        image = image[..., 0]
    directions = _directions(image)
    left, _, right = np.linalg.svd(directions)
    if np.abs(left @ right - directions).max() > DIRECTION_ATOL:
        raise UnusableSeries("GANTRY_TILT", f"{name}: {SHEARED}")
    image.SetDirection((left @ right).ravel().tolist())
    return image


def _feet_to_head(image: sitk.Image, name: str) -> sitk.Image:
    """The same voxels at the same places, with the third index growing towards the head."""
    axis = int(np.argmax(np.abs(_directions(image)[2])))
    if axis != 2:
        image = sitk.PermuteAxes(image, [a for a in range(3) if a != axis] + [axis])
    between_columns, between_rows, _ = image.GetSpacing()
    if abs(between_columns / between_rows - 1) > PIXEL_SPACING_RTOL:
        raise UnusableSeries(
            "NOT_AXIAL",
            f"{name}: pixels of {between_columns:.2f} × {between_rows:.2f} mm in the axial plane; "
            "it was resliced from another plane. Use the axial reconstruction",
        )
    upward = _directions(image)[2, 2]
    oblique_deg = float(np.degrees(np.arccos(min(1.0, abs(upward)))))
    if oblique_deg > MAX_OBLIQUE_DEG:
        raise UnusableSeries(
            "NOT_AXIAL",
            f"{name}: the slices lie at {oblique_deg:.0f}° to the axial plane; "
            f"up to {MAX_OBLIQUE_DEG:.0f}° is accepted. Use the axial reconstruction",
        )
    if image.GetSize()[2] < MIN_SLICES:
        raise UnusableSeries(
            "TOO_FEW_SLICES", f"{name}: {image.GetSize()[2]} slice(s), {MIN_SLICES} are needed"
        )
    return image if upward > 0 else image[:, :, ::-1]


def _directions(image: sitk.Image) -> NDArray[np.float64]:
    return np.array(image.GetDirection()).reshape(3, 3)


def _in_hu(image: sitk.Image, name: str) -> sitk.Image:
    """int16 where that loses nothing, else float32; refused if the values cannot be HU."""
    values = sitk.GetArrayViewFromImage(image)
    if not np.isfinite(values).all():
        raise UnusableSeries("NOT_HU", f"{name} holds values that are not numbers")
    low, high = float(values.min()), float(values.max())
    check_hounsfield(low, high, name)
    whole = high < 2**15 and (values.dtype.kind in "iu" or bool((values == np.rint(values)).all()))
    grid = ImageGrid.from_image(image)
    return grid.to_image(values.astype(np.int16 if whole else np.float32))
