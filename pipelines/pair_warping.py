"""A transform applied to what belongs to the moving image: images, labels, landmarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from pipelines.markup_files import (
    MARKUP_SUFFIX,
    is_markup_file,
    read_markups,
    write_markups,
)
from pipelines.pair_files import (
    LANDMARK_SUFFIXES,
    PLANE_SUFFIXES,
    UnusableFile,
    as_pixel_type,
    read_landmarks,
    read_pair_image,
    read_pair_transform,
    write_landmarks,
    write_pair_image,
    writing,
)
from registration.geometry import ImageGrid
from registration.single_slices import as_picture, as_single_slice, is_single_slice
from registration.transforms import fixed_points

MOST_LABELS = 128
"""Values of an image that may be labels (own): atlases of the whole body have about a hundred."""

LABEL_EVENNESS = 0.8
"""Share of neighbors along a row that are equal in labels (own); noise parts those of images."""


def warp_image(
    image: sitk.Image, transform: sitk.Transform, grid: ImageGrid, *, labels: bool
) -> sitk.Image:
    """Moving image on the fixed grid, in its own voxel type.

    Args:
        image: Moving image.
        transform: Pull-back.
        grid: Fixed grid.
        labels: Nearest voxel, and 0 outside; otherwise linear, and the least value outside.
    """
    outside = 0.0 if labels else float(sitk.GetArrayViewFromImage(image).min())
    how = sitk.sitkNearestNeighbor if labels else sitk.sitkLinear
    kind = image.GetPixelID()
    computed = kind if labels else sitk.sitkFloat64
    moved = sitk.Resample(
        image, grid.empty_image(sitk.sitkUInt8), transform, how, outside, computed
    )
    return moved if labels else as_pixel_type(moved, kind)


def warp_file(
    source: Path, transform: Path, reference: Path, out: Path, *, labels: bool = False
) -> tuple[str, ...]:
    """Bring an image, labels or landmarks of the moving image to the fixed one.

    With a transform of two axes, volumes of one slice are pictures (`registration.single_slices`).

    Images are pulled back through the transform. Landmarks travel the other way, through its
    inverse, so that they end up on what they marked.

    Args:
        source: Image file, or landmarks (`.csv`, `.fcsv`, `.mrk.json`), in the space of the moving
            image.
        transform: ITK transform, fixed points to moving points.
        reference: Image whose grid the result takes; for landmarks, in which they are looked for.
        out: File to write.
        labels: Whether an image holds labels.

    Returns:
        Sentences that warn of the result: landmarks without a place in the reference, an image
            that does not reach it, labels that were mixed. None if it is as it should be.

    Raises:
        UnusableFile: If a file cannot be used, or kinds or dimensions do not fit.
    """
    pull_back = read_pair_transform(transform)
    place = read_pair_image(reference)
    grid_of(place, reference)
    is_flat = pull_back.GetDimension() == 2
    fixed = as_picture(place) if is_flat else place
    grid = ImageGrid.from_image(fixed)
    _check_dimension(pull_back, grid.dimension, "the reference")
    kind = _landmark_kind(source)
    if kind != _landmark_kind(out):
        raise UnusableFile(f"{out.name} must be of the kind of {source.name}")
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    if kind is None:
        image = as_picture(read_pair_image(source)) if is_flat else read_pair_image(source)
        _check_dimension(pull_back, image.GetDimension(), source.name)
        moved = warp_image(image, pull_back, grid, labels=labels)
        write_pair_image(in_place_of(moved, place, out), out)
        return _image_doubts(image, pull_back, grid, labels=labels)
    found = _warp_landmarks(source, pull_back, out)
    lost = int(np.count_nonzero(~grid.contains(found)))
    return (f"{lost} landmarks lie outside the reference, or nowhere.",) if lost else ()


def _landmark_kind(path: Path) -> str | None:
    """Ending of a file of landmarks, `None` for any other file."""
    name = path.name.lower()
    endings = (*LANDMARK_SUFFIXES, MARKUP_SUFFIX)
    return next((ending for ending in endings if name.endswith(ending)), None)


def _warp_landmarks(source: Path, pull_back: sitk.Transform, out: Path) -> NDArray[np.float64]:
    """Write the landmarks where they lie in the fixed image, and give these points, LPS mm."""
    if is_markup_file(source):
        markups = read_markups(source)
        _check_dimension(pull_back, 3, source.name)
        found = fixed_points(pull_back, markups.points)
        with writing(out):
            write_markups(markups, found, out)
        return found
    landmarks = read_landmarks(source)
    _check_dimension(pull_back, landmarks.points.shape[1], source.name)
    found = fixed_points(pull_back, landmarks.points)
    with writing(out):
        write_landmarks(landmarks, found, out)
    return found


def grid_of(image: sitk.Image, path: Path) -> ImageGrid:
    """Grid of an image that was read from a file, or which file it is that has none."""
    try:
        return ImageGrid.from_image(image)
    except ValueError as error:
        raise UnusableFile(
            f"{path.name}: {error}. Write its directions with six decimals or more"
        ) from error


def in_place_of(moved: sitk.Image, fixed: sitk.Image, path: Path) -> sitk.Image:
    """A moved picture as the slice that the fixed one is, if it is one and the format has room."""
    is_slice = moved.GetDimension() == 2 and is_single_slice(fixed)
    if not is_slice or path.name.lower().endswith(PLANE_SUFFIXES):
        return moved
    return as_single_slice(moved, ImageGrid.from_image(fixed))


def _image_doubts(
    image: sitk.Image, transform: sitk.Transform, grid: ImageGrid, *, labels: bool
) -> tuple[str, ...]:
    found = []
    everywhere = sitk.Image(image.GetSize(), sitk.sitkUInt8) + 1
    everywhere.CopyInformation(image)
    reached = warp_image(everywhere, transform, grid, labels=True)
    if not sitk.GetArrayViewFromImage(reached).any():
        found.append(
            "Warning: the image does not reach the reference, whose voxels are all padding. Is the "
            "transform of this pair, and in the direction from fixed to moving points?"
        )
    if not labels and looks_like_labels(image):
        found.append(
            "Warning: the image looks like labels, which were mixed at their borders. Give "
            "--labels to take the nearest voxel."
        )
    return tuple(found)


def looks_like_labels(image: sitk.Image) -> bool:
    """Whether an image holds few whole numbers, and neighbors are mostly equal."""
    array = sitk.GetArrayViewFromImage(image)
    if array.dtype.kind not in "iu" or array.shape[-1] < 2:
        return False
    count = len(np.unique(array))
    is_even = float(np.mean(array[..., 1:] == array[..., :-1])) >= LABEL_EVENNESS
    return 1 < count <= MOST_LABELS and is_even


def _check_dimension(transform: sitk.Transform, dimension: int, what: str) -> None:
    if transform.GetDimension() != dimension:
        raise UnusableFile(
            f"the transform has {transform.GetDimension()} axes, {what} has {dimension}"
        )
