"""One pair of files to a moved image, a transform and what can be measured without labels."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from pipelines.pair_files import (
    LANDMARK_SUFFIXES,
    UnusableFile,
    as_pixel_type,
    image_suffix,
    read_landmarks,
    read_pair_image,
    read_pair_transform,
    write_landmarks,
    write_pair_image,
)
from registration.atomic_files import write_atomically
from registration.geometry import ImageGrid
from registration.metrics import (
    bending_energy,
    folding_fraction,
    jacobian_determinant,
    jacobian_standard_deviation,
)
from registration.registrar import Registrar
from registration.transforms import fixed_points, write_transform
from registration.transforms_dense import displacement_field_vox

TRANSFORM_NAME = "transform.tfm"
METRICS_NAME = "metrics.json"

MEASURED_VOXELS = 2**22
"""Voxels on which a result is measured at most; of larger grids every n-th voxel of each axis."""

FOLDING_ALARM_PERCENT = 0.5
"""Share of folded voxels from which a user is warned: networks fold less on images of the kind that
they were trained on, and much more on others."""


@dataclass(frozen=True, slots=True)
class PairMetrics:
    """What `metrics.json` says; there, a measure that is not a number is null.

    Args:
        method: Name of the registrar.
        ncc_before: Correlation of fixed and moving image as they lie, where both are; of large
            images every n-th voxel is measured, here and below.
        ncc_after: Correlation of fixed and moved image, where both are.
        folding_percent: Share of voxels with a Jacobian determinant of zero or less, %.
        sd_jacobian: Standard deviation of the Jacobian determinant.
        bending_energy_per_mm2: Bending energy of the displacement, 1/mm², summed over components.
        seconds: Wall time of the registration itself.
        moved: Name of the moved image.
        transform: Name of the transform file.
    """

    method: str
    ncc_before: float | None
    ncc_after: float | None
    folding_percent: float
    sd_jacobian: float
    bending_energy_per_mm2: float
    seconds: float
    moved: str
    transform: str = TRANSFORM_NAME

    @property
    def doubts(self) -> tuple[str, ...]:
        """Sentences that warn of a result; none for one that looks right by its measures alone."""
        found = []
        if self.folding_percent >= FOLDING_ALARM_PERCENT:
            found.append(
                f"{self.folding_percent:.1f} % of the voxels are folded: the transform is wrong "
                "there, and may be elsewhere. Take networks that were trained on such images, "
                "another method, or more smoothness (of networks: --refine and --refine-bending)."
            )
        before, after = self.ncc_before, self.ncc_after
        if before is not None and after is not None and after < before:
            found.append(
                f"the images are less alike than before (correlation {after:.3f} after, "
                f"{before:.3f} before): take networks that were trained on such images, or "
                "another method."
            )
        return tuple(found)


def register_files(fixed: Path, moving: Path, out: Path, registrar: Registrar) -> PairMetrics:
    """Register two files and write the result.

    Args:
        fixed: Image whose space the result lives in.
        moving: Image to be brought there.
        out: Folder; receives `moved` in the moving image's format and voxel type on the fixed
            grid, `transform.tfm` (fixed points to moving points, LPS mm) and `metrics.json`.
        registrar: What registers.

    Raises:
        UnusableFile: If a file cannot be used, or the images differ in dimension.
    """
    images = [read_pair_image(path) for path in (fixed, moving)]
    grids = [_grid_of(image, path) for image, path in zip(images, (fixed, moving), strict=True)]
    if images[0].GetDimension() != images[1].GetDimension():
        raise UnusableFile(
            "both images must have as many axes; they have "
            f"{images[0].GetDimension()} and {images[1].GetDimension()}"
        )
    started = time.perf_counter()
    transform = registrar.register(*images).transform
    seconds = time.perf_counter() - started
    moved = warp_image(images[1], transform, grids[0], labels=False)
    out.mkdir(parents=True, exist_ok=True)
    name = f"moved{image_suffix(moving)}"
    write_pair_image(moved, out / name)
    write_transform(transform, out / TRANSFORM_NAME)
    field, spacing = _measured_field(transform, grids[0])
    jacobian = jacobian_determinant(field, spacing=spacing)
    metrics = PairMetrics(
        method=registrar.name,
        ncc_before=_correlation(images[0], images[1], sitk.Transform()),
        ncc_after=_correlation(images[0], images[1], transform),
        folding_percent=100.0 * folding_fraction(jacobian),
        sd_jacobian=jacobian_standard_deviation(jacobian),
        bending_energy_per_mm2=bending_energy(field, spacing=spacing),
        seconds=round(seconds, 4),
        moved=name,
    )
    values = {name: _or_null(value) for name, value in asdict(metrics).items()}
    text = json.dumps(values, indent=1, allow_nan=False)
    write_atomically(out / METRICS_NAME, text + "\n")
    return metrics


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
) -> int:
    """Bring an image, labels or landmarks of the moving image to the fixed one.

    Images are pulled back through the transform. Landmarks travel the other way, through its
    inverse, so that they end up on what they marked.

    Args:
        source: Image file, or landmarks (`.csv`, `.fcsv`), in the space of the moving image.
        transform: ITK transform, fixed points to moving points.
        reference: Image whose grid the result takes; for landmarks, in which they are looked for.
        out: File to write.
        labels: Whether an image holds labels.

    Returns:
        Number of landmarks that have no place in the reference; 0 for an image.

    Raises:
        UnusableFile: If a file cannot be used, or kinds or dimensions do not fit.
    """
    pull_back = read_pair_transform(transform)
    grid = _grid_of(read_pair_image(reference), reference)
    _check_dimension(pull_back, grid.dimension, "the reference")
    is_table = source.suffix.lower() in LANDMARK_SUFFIXES
    if is_table != (out.suffix.lower() in LANDMARK_SUFFIXES) or (
        is_table and out.suffix.lower() != source.suffix.lower()
    ):
        raise UnusableFile(f"{out.name} must be of the kind of {source.name}")
    out.parent.mkdir(parents=True, exist_ok=True)
    if not is_table:
        image = read_pair_image(source)
        _check_dimension(pull_back, image.GetDimension(), source.name)
        write_pair_image(warp_image(image, pull_back, grid, labels=labels), out)
        return 0
    landmarks = read_landmarks(source)
    _check_dimension(pull_back, landmarks.points.shape[1], source.name)
    found = fixed_points(pull_back, landmarks.points)
    write_landmarks(landmarks, found, out)
    return int(np.count_nonzero(~grid.contains(found)))


def _grid_of(image: sitk.Image, path: Path) -> ImageGrid:
    """Grid of an image that was read from a file, or which file it is that has none."""
    try:
        return ImageGrid.from_image(image)
    except ValueError as error:
        raise UnusableFile(
            f"{path.name}: {error}. Write its directions with six decimals or more"
        ) from error


def _check_dimension(transform: sitk.Transform, dimension: int, what: str) -> None:
    if transform.GetDimension() != dimension:
        raise UnusableFile(
            f"the transform has {transform.GetDimension()} axes, {what} has {dimension}"
        )


def _or_null(value: object) -> object:
    """What JSON can hold of a value: it has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _correlation(fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform) -> float | None:
    """Correlation over the fixed voxels that the moving image covers; `None` without any."""
    step = _measured_step(ImageGrid.from_image(fixed))
    fixed = fixed[(slice(None, None, step),) * fixed.GetDimension()]
    grid = ImageGrid.from_image(fixed)
    if transform.GetDimension() != grid.dimension:
        transform = sitk.Transform(grid.dimension, sitk.sitkIdentity)
    moved = sitk.Resample(
        moving, grid.empty_image(), transform, sitk.sitkLinear, float("nan"), sitk.sitkFloat64
    )
    b = sitk.GetArrayFromImage(moved)
    covered = np.isfinite(b)
    a = sitk.GetArrayFromImage(fixed)[covered].astype(float)
    b = b[covered]
    if a.size < 2 or a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _measured_step(grid: ImageGrid) -> int:
    """Distance of the voxels that are measured, along each axis [voxels]."""
    return math.ceil((math.prod(grid.size) / MEASURED_VOXELS) ** (1 / grid.dimension))


def _measured_field(
    transform: sitk.Transform, grid: ImageGrid
) -> tuple[NDArray[np.float64], tuple[float, ...]]:
    """Displacement along the axes, mm, on the grid or every n-th voxel of a large one.

    Returns:
        Field of shape `(*shape, d)` and spacing, mm, both in array axis order.
    """
    step = _measured_step(grid)
    coarse = ImageGrid(
        tuple(max(2, n // step) for n in grid.size),
        tuple(s * step for s in grid.spacing),
        grid.origin,
        grid.direction,
    )
    spacing = coarse.spacing[::-1]
    return displacement_field_vox(transform, coarse) * np.array(spacing), spacing
