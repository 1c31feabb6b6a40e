"""One pair of files to a moved image, a transform and what can be measured without labels."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import SimpleITK as sitk

from pipelines.pair_files import (
    UnusableFile,
    image_suffix,
    read_pair_image,
    write_pair_image,
    writing,
)
from pipelines.pair_metrics import (
    TRANSFORM_NAME,
    PairMetrics,
    image_correlation,
    measured_field,
)
from pipelines.pair_outputs import PairOutputs, write_outputs
from pipelines.pair_warping import grid_of, in_place_of, warp_image
from registration.atomic_files import write_atomically
from registration.geometry import ImageGrid
from registration.metrics import (
    bending_energy,
    folding_fraction,
    jacobian_determinant,
    jacobian_standard_deviation,
)
from registration.registrar import Registrar
from registration.single_slices import as_picture, is_single_slice
from registration.transforms import is_read_by_slicer, write_transform

METRICS_NAME = "metrics.json"


def register_files(
    fixed: Path,
    moving: Path,
    out: Path,
    registrar: Registrar,
    *,
    outputs: PairOutputs | None = None,
) -> PairMetrics:
    """Register two files and write the result.

    Where neither has more than one slice both are taken as pictures, and the transform is one of
    two axes (`registration.single_slices`).

    Args:
        fixed: Image whose space the result lives in.
        moving: Image to be brought there.
        out: Folder; receives `moved` in the moving image's format and voxel type on the fixed
            grid, `transform.tfm` (fixed points to moving points, LPS mm) and `metrics.json`.
        registrar: What registers.
        outputs: Further files; none by default.

    Raises:
        UnusableFile: If a file cannot be used or written, or the images differ in dimension.
    """
    outputs = outputs or PairOutputs()
    given, images = _read_pair(fixed, moving)
    outputs.check(images[0].GetDimension())
    with _made(out):
        started = time.perf_counter()
        transform = registrar.register(*images).transform
        seconds = time.perf_counter() - started
    grid = ImageGrid.from_image(images[0])
    moved = warp_image(images[1], transform, grid, labels=False)
    name = f"moved{image_suffix(moving)}"
    with writing(out):
        write_pair_image(in_place_of(moved, given[0], out / name), out / name)
        write_transform(transform, out / TRANSFORM_NAME)
        inverse = write_outputs(outputs, images, moved, transform)
    field, spacing = measured_field(transform, grid)
    jacobian = jacobian_determinant(field, spacing=spacing)
    metrics = PairMetrics(
        method=registrar.name,
        ncc_before=image_correlation(images[0], images[1], sitk.Transform()),
        ncc_after=image_correlation(images[0], images[1], transform),
        folding_percent=100.0 * folding_fraction(jacobian),
        sd_jacobian=jacobian_standard_deviation(jacobian),
        bending_energy_per_mm2=bending_energy(field, spacing=spacing),
        seconds=round(seconds, 4),
        moved=name,
        slicer_reads=is_read_by_slicer(transform),
        inverse_mean_error_mm=None if inverse is None else inverse.mean_error_mm,
        inverse_max_error_mm=None if inverse is None else inverse.max_error_mm,
    )
    _write_metrics(metrics, out / METRICS_NAME)
    return metrics


def _read_pair(
    fixed: Path, moving: Path
) -> tuple[tuple[sitk.Image, sitk.Image], tuple[sitk.Image, sitk.Image]]:
    """Both images as they are, and as they are registered: as pictures if neither has slices."""
    given = read_pair_image(fixed), read_pair_image(moving)
    for image, path in zip(given, (fixed, moving), strict=True):
        grid_of(image, path)
    images = given
    if all(image.GetDimension() == 2 or is_single_slice(image) for image in given):
        images = as_picture(given[0]), as_picture(given[1])
    if images[0].GetDimension() != images[1].GetDimension():
        raise UnusableFile(
            "both images must have as many axes; they have "
            f"{images[0].GetDimension()} and {images[1].GetDimension()}"
        )
    return given, images


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """A folder that is made beforehand, and taken away again if the block raises."""
    is_new = not folder.exists()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if is_new:
            folder.rmdir()
        raise


def _write_metrics(metrics: PairMetrics, path: Path) -> None:
    values = {name: _or_null(value) for name, value in asdict(metrics).items()}
    if metrics.inverse_mean_error_mm is None:
        values = {k: v for k, v in values.items() if not k.startswith("inverse_")}
    with writing(path):
        write_atomically(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def _or_null(value: object) -> object:
    """What JSON can hold of a value: it has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
