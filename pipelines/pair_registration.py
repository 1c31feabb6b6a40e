"""One pair of files to a moved image, a transform and what can be measured without labels."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict
from pathlib import Path

import SimpleITK as sitk

from pipelines.pair_files import UnusableFile, image_suffix, read_pair_image, write_pair_image
from pipelines.pair_metrics import (
    TRANSFORM_NAME,
    PairMetrics,
    image_correlation,
    measured_jacobian,
)
from pipelines.pair_warping import grid_of, in_place_of, warp_image
from registration.atomic_files import write_atomically
from registration.geometry import ImageGrid
from registration.metrics import folding_fraction
from registration.registrar import Registrar
from registration.single_slices import as_picture, is_single_slice
from registration.transforms import write_transform

METRICS_NAME = "metrics.json"


def register_files(fixed: Path, moving: Path, out: Path, registrar: Registrar) -> PairMetrics:
    """Register two files and write the result.

    Where neither has more than one slice both are taken as pictures, and the transform is one of
    two axes (`registration.single_slices`).

    Args:
        fixed: Image whose space the result lives in.
        moving: Image to be brought there.
        out: Folder; receives `moved` in the moving image's format and voxel type on the fixed
            grid, `transform.tfm` (fixed points to moving points, LPS mm) and `metrics.json`.
        registrar: What registers.

    Raises:
        UnusableFile: If a file cannot be used, or the images differ in dimension.
    """
    given = [read_pair_image(path) for path in (fixed, moving)]
    for image, path in zip(given, (fixed, moving), strict=True):
        grid_of(image, path)
    images = given
    if all(image.GetDimension() == 2 or is_single_slice(image) for image in given):
        images = [as_picture(image) for image in given]
    if images[0].GetDimension() != images[1].GetDimension():
        raise UnusableFile(
            "both images must have as many axes; they have "
            f"{images[0].GetDimension()} and {images[1].GetDimension()}"
        )
    started = time.perf_counter()
    transform = registrar.register(*images).transform
    seconds = time.perf_counter() - started
    grid = ImageGrid.from_image(images[0])
    moved = warp_image(images[1], transform, grid, labels=False)
    out.mkdir(parents=True, exist_ok=True)
    name = f"moved{image_suffix(moving)}"
    write_pair_image(in_place_of(moved, given[0], out / name), out / name)
    write_transform(transform, out / TRANSFORM_NAME)
    jacobian = measured_jacobian(transform, grid)
    metrics = PairMetrics(
        method=registrar.name,
        ncc_before=image_correlation(images[0], images[1], sitk.Transform()),
        ncc_after=image_correlation(images[0], images[1], transform),
        folding_percent=100.0 * folding_fraction(jacobian),
        sd_jacobian=float(jacobian.std()),
        seconds=round(seconds, 4),
        moved=name,
    )
    values = {name: _or_null(value) for name, value in asdict(metrics).items()}
    text = json.dumps(values, indent=1, allow_nan=False)
    write_atomically(out / METRICS_NAME, text + "\n")
    return metrics


def _or_null(value: object) -> object:
    """What JSON can hold of a value: it has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
