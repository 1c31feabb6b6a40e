"""How one member is registered to the mean of a round: affine maps, then B-splines.

Affine maps and B-splines are found by Gauss-Newton steps on masked correlation. B-splines may also
come from a network trained on the cohort, or from elastix. Whatever found them, the result is the
same kind of transform and is judged by the same measure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from atlas.atlas_mean import AtlasMean, read_mean
from atlas.averaging import resampled
from atlas.dense_deformation import dense_transform
from atlas.file_cache import kept_per_file
from atlas.member import FULL_SCALE, Member, Modality, unit_factor
from atlas.settings import Stage
from atlas.subject_transform import Matrix, SubjectTransform, Warp
from registration.affine_refinement import (
    WINDOWS_HU,
    AffinePrior,
    AffineRefiner,
    RefinementLevel,
)
from registration.geometry import Ellipsoid, ImageGrid
from registration.pair_preparation import on_grid, working_grid
from registration.transforms import bspline_control_points, bspline_transform

REGISTRATION_VOXELS = 2**18
"""Voxels of the grid on which images are compared at most: a mean of a chest is compared at
5 mm, so that a laptop needs seconds per scan; a hippocampus at its own millimeter."""

TONES_HU = ((-900.0, -180.0, 120.0, 250.0), (0.0, 0.3, 0.85, 1.0))
"""Attenuation, and the brightness it is compared with: half of the range for soft tissue, which
alone tells the heart from its surroundings, and which is a third of the range of HU."""

DISPLACEMENT_LIMIT = 0.4
"""Largest displacement of a control point per stage, as a share of their distance: below it a
cubic B-spline in three dimensions cannot fold."""

BORDER = 1
"""Control points beyond the image at every end: small images are hardly three of them wide, and
what lies at their border moves, too."""

ELASTIX_ITERATIONS_PER_STEP = 15
"""Iterations of elastix for one Gauss-Newton step of a stage."""

_POINTS = (2500, 8000)
"""Points at which affines are compared, coarse and fine."""
_SIGMAS = (10.0, 4.0)
"""Smoothing of the two levels, units (a voxel is 4)."""
_FREE, _STIFF = 1.0, 0.003
"""Standard deviations of a linear part that may change and of one that may not."""
_PRIOR_WEIGHT = 1e-4
_SEARCH_SHARE = 0.3
"""Starts around the first guess of a tight scan, in shares of its radii."""


@dataclass(frozen=True, slots=True)
class Regions:
    """Where the images are compared, in the space of the atlas, mm.

    Args:
        whole: The lattice of the atlas.
        tight: What the tight scans of a mixed cohort show; `None` if all show about the same.
    """

    whole: Ellipsoid
    tight: Ellipsoid | None = None

    def of(self, member: Member, stage: Stage) -> Ellipsoid:
        """Region in which a member is compared."""
        if self.tight is not None and (stage.focused or not member.volume.wide):
            return self.tight
        return self.whole

    def judged(self, stage: Stage) -> Ellipsoid | None:
        """Region in which a result is judged; `None` is wherever the mean can be trusted.

        A stage that looks at the heart alone says nothing about the rest of a chest.
        """
        return self.tight if stage.focused else None


def registration_grid(grid: ImageGrid, shrink: int = 1) -> ImageGrid:
    """The lattice of the atlas, coarser where it has more than `REGISTRATION_VOXELS`.

    Args:
        grid: Lattice of the atlas.
        shrink: Further voxels per voxel.
    """
    factor = shrink * max(1.0, float(np.prod(grid.size) / REGISTRATION_VOXELS) ** (1 / 3))
    return working_grid(grid, [s * factor for s in grid.spacing])


def tones(values: NDArray[np.floating], modality: Modality) -> NDArray[np.float32]:
    """Brightness from 0 to 1 under which images are compared."""
    if modality == "ct":
        return np.interp(values, *TONES_HU).astype(np.float32)
    return np.clip(np.asarray(values, dtype=np.float32) / np.float32(FULL_SCALE), 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class ComparedMean:
    """The mean of a round on the registration grid.

    Args:
        values: Brightness from 0 to 1.
        weight: 1 where it can be trusted.
        grid: Registration grid.
        modality: What the values were.
    """

    values: NDArray[np.float32]
    weight: NDArray[np.float32]
    grid: ImageGrid
    modality: Modality


@kept_per_file(maxsize=2)
def _mean(path: Path) -> AtlasMean:
    return read_mean(path)


@kept_per_file(maxsize=3)
def compared_mean(path: Path, shrink: int = 1) -> ComparedMean:
    """The mean of a file, kept in memory for the next member."""
    mean = _mean(path)
    grid = registration_grid(mean.grid, shrink)
    weight = on_grid(mean.valid_image(), grid) > 0.5
    values = tones(on_grid(mean.image(), grid), mean.modality)
    return ComparedMean(values, weight.astype(np.float32), grid, mean.modality)


@kept_per_file(maxsize=2)
def plain_mean(path: Path) -> sitk.Image:
    """The mean of a file on the registration grid with its own values, HU or scaled."""
    mean = _mean(path)
    grid = registration_grid(mean.grid)
    return grid.to_image(on_grid(mean.image(), grid))


@kept_per_file(maxsize=2)
def judged_mean(path: Path, region: Ellipsoid | None) -> ComparedMean:
    """The mean of a file where a result is judged by it."""
    mean = compared_mean(path)
    if region is None:
        return mean
    within = region.contains(mean.grid.voxel_points()).astype(np.float32)
    return replace(mean, weight=mean.weight * within)


@kept_per_file(maxsize=4)
def _refiner(path: Path, region: Ellipsoid) -> AffineRefiner:
    """Affine refinement to the mean of a file, in units of four per voxel."""
    mean = _mean(path)
    factor = unit_factor(mean.grid)
    scaled = Ellipsoid(
        tuple(v * factor for v in region.center_mm), tuple(r * factor for r in region.radii_mm)
    )
    volume = 4.0 / 3.0 * np.pi * float(np.prod(scaled.radii_mm))
    levels = [
        RefinementLevel(sigma, float((volume / points) ** (1 / 3)), 25)
        for sigma, points in zip(_SIGMAS, _POINTS, strict=True)
    ]
    windows = WINDOWS_HU if mean.modality == "ct" else ((0.0, FULL_SCALE),)
    return AffineRefiner(mean.to_unit_scale(), scaled, levels=levels, windows_hu=windows)


def register_affine(
    mean: Path, member: Member, starts: Sequence[Matrix], stage: Stage, regions: Regions
) -> SubjectTransform:
    """Best affine (or rigid) map of a member among several starts.

    Args:
        mean: File of the mean.
        member: The subject.
        starts: Pull-backs from the mean to the subject, LPS mm.
        stage: Whether shape and size may change.
        regions: Where the images are compared.
    """
    refiner = _refiner(mean, regions.of(member, stage))
    factor = unit_factor(member.grid)
    stiffness = _STIFF if stage.kind == "rigid" else _FREE
    scaled = [_rescaled(start, factor) for start in starts]
    priors = [
        AffinePrior(
            start,
            sigma_scale=stiffness,
            sigma_rotation=_FREE,
            sigma_shape=stiffness,
            weight=_PRIOR_WEIGHT,
        )
        for start in scaled
    ]
    found = refiner.refine(member.to_unit_scale(), scaled, priors)
    matrix = _rescaled(max(found, key=lambda result: result[1])[0], 1.0 / factor)
    if stage.kind == "rigid":
        matrix = nearest_rigid(matrix, np.asarray(regions.of(member, stage).center_mm))
    return SubjectTransform(matrix)


def starts_around(start: Matrix, radii_mm: Sequence[float]) -> list[Matrix]:
    """The start itself, and one shifted each way along every axis."""
    starts = [start]
    for axis, radius in enumerate(radii_mm):
        for sign in (1.0, -1.0):
            shifted = start.copy()
            shifted[axis, 3] += sign * _SEARCH_SHARE * radius
            starts.append(shifted)
    return starts


def nearest_rigid(matrix: Matrix, center_mm: NDArray[np.float64]) -> Matrix:
    """The rotation nearest to a linear part, with one point kept where the matrix takes it."""
    left, _, right = np.linalg.svd(matrix[:3, :3])
    rigid = np.eye(4)
    rigid[:3, :3] = left @ right
    rigid[:3, 3] = matrix[:3, :3] @ center_mm + matrix[:3, 3] - rigid[:3, :3] @ center_mm
    return rigid


def similarity(
    mean: ComparedMean, member: Member, transform: sitk.Transform
) -> tuple[float, float]:
    """Correlation of a mean and a moved member where both are, and how much of it that is.

    Returns:
        Normalized cross-correlation (0 where either is constant), and the share of the mean's
        trusted voxels that the member covers.
    """
    values, inside = resampled(member, transform, mean.grid, counted=True)
    shared = inside & (mean.weight > 0)
    total = float((mean.weight > 0).sum())
    count = int(shared.sum())
    if count < 2 or total == 0:
        return 0.0, 0.0
    a = mean.values[shared].astype(float)
    b = tones(values[shared], mean.modality).astype(float)
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return (float((a * b).sum()) / scale if scale > 0 else 0.0), count / total


def register_by_steps(
    mean: ComparedMean,
    member: Member,
    before: SubjectTransform,
    start: Warp | None,
    stage: Stage,
    *,
    bending_weight: float,
) -> Warp:
    """B-spline of a stage by Gauss-Newton steps on the pair.

    Args:
        mean: What the member is registered to.
        member: The subject.
        before: Transform of all earlier stages.
        start: The last round's B-spline of this stage; `None` starts from nothing.
        stage: Control points and steps.
        bending_weight: Weight of the bending energy, squared control point distances.
    """
    spacing = (stage.control_point_spacing_vox / stage.shrink,) * 3
    shape = mean.grid.shape
    pull_back = dense_transform(before, mean.grid)
    values, inside = resampled(member, pull_back, mean.grid, counted=True)
    moving = tones(values, mean.modality)
    lattice = (int(np.ceil(n / s)) + 2 * BORDER for n, s in zip(shape, spacing, strict=True))
    points = np.zeros((*lattice, 3))
    if start is not None:
        known = bspline_control_points(start.to_transform(), mean.grid, border=BORDER)
        points = known.control_points
    steps = stage.steps if start is None else stage.warm_steps or stage.steps
    take = _compiled_steps(spacing, bending_weight * spacing[0] ** 2)

    def batched(array: NDArray[Any]) -> NDArray[np.float32]:
        return np.asarray(array, dtype=np.float32)[None, ..., None]

    images = (batched(a) for a in (mean.values, moving, mean.weight, inside))
    taken = take(*images, points[None].astype(np.float32), np.int32(steps))
    found = np.asarray(taken, dtype=float)[0]
    return Warp.from_transform(bspline_transform(found, mean.grid, spacing=spacing, border=BORDER))


@lru_cache(maxsize=8)
def _compiled_steps(spacing: tuple[float, ...], bending_weight: float) -> Callable[..., Any]:
    """Steps of a stage from images, masks and control points; compiled once per process."""
    import tensorflow as tf

    from registration.spline_steps import spline_steps

    def take(
        fixed: Any, moving: Any, fixed_mask: Any, moving_mask: Any, points: Any, steps: Any
    ) -> Any:
        return spline_steps(
            fixed,
            moving,
            points,
            spacing=spacing,
            spacing_mm=(1.0, 1.0, 1.0),
            steps=steps,
            bending_weight=bending_weight,
            border=BORDER,
            limit=DISPLACEMENT_LIMIT,
            fixed_mask=fixed_mask,
            moving_mask=moving_mask,
        )

    image = tf.TensorSpec((1, None, None, None, 1), tf.float32)
    lattice = tf.TensorSpec((1, None, None, None, 3), tf.float32)
    compiled: Callable[..., Any] = tf.function(
        take,
        autograph=False,
        input_signature=[image, image, image, image, lattice, tf.TensorSpec((), tf.int32)],
    )
    return compiled


def register_by_elastix(
    mean: ComparedMean,
    member: Member,
    before: SubjectTransform,
    stage: Stage,
    bending_weight: float,
) -> Warp:
    """B-spline of a stage by elastix, from nothing.

    Raises:
        ImportError: If itk-elastix is not installed; the message names the extra.
    """
    from registration.baselines import ElastixRegistrar, ElastixStage

    pull_back = dense_transform(before, mean.grid)
    values, inside = resampled(member, pull_back, mean.grid, counted=True)
    distance_mm = stage.control_point_spacing_vox / stage.shrink * mean.grid.spacing[0]
    registrar = ElastixRegistrar(
        [
            ElastixStage(
                "bspline",
                distance_mm,
                iterations=ELASTIX_ITERATIONS_PER_STEP * stage.steps,
                bending_weight=bending_weight * distance_mm**2,
                valid_samples=0.02,
            )
        ]
    )
    found = registrar.register(
        mean.grid.to_image(mean.values),
        mean.grid.to_image(tones(values, mean.modality)),
        fixed_mask=mean.grid.to_image((mean.weight > 0).astype(np.uint8)),
        moving_mask=mean.grid.to_image(inside.astype(np.uint8)),
    )
    return Warp.from_transform(sitk.BSplineTransform(found.transform))


def _rescaled(matrix: Matrix, factor: float) -> Matrix:
    """The same map between spaces whose lengths are multiplied by a factor."""
    scaled = matrix.copy()
    scaled[:3, 3] *= factor
    return scaled
