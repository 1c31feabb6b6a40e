"""What can be said of a mean without labels: sharpness, agreement, change, and who does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from atlas.atlas_mean import AtlasMean, least_coverage
from atlas.averaging import UNCOVERED
from atlas.member import Modality
from atlas.registration_methods import tones
from atlas.settings import AtlasSettings, Stage
from atlas.subject_transform import Matrix
from registration.geometry import Ellipsoid

LEAST_SPREAD = 0.04
"""Floor of the robust standard deviation of similarities: where many are near copies of each
other, patients who are not (correlations of 0.8 among 0.94) still belong to the cohort."""

LEAST_SIMILARITY = 0.2
"""Correlation with the mean below which nothing was found, whatever the cohort is like."""

LEAST_COVERED = 0.02
"""Share of the mean below which an overlap says nothing."""

SCALE_RANGE = (0.5, 2.0)
"""Stretch along any direction that a subject may need."""

MOST_ROTATION_DEG = 60.0
"""Rotation that a subject may need, degrees."""

MOST_FOLDING = 0.02
"""Share of voxels that may be folded over."""

LEAST_ALIKE = 4
"""Tight or wide scans of a mixed cohort that say by themselves what is usual among them: a tight
scan shows nothing that is far from the heart, and correlates otherwise."""

COMPARED_SHARE = 0.9
"""Share of the members that must cover a voxel for it to count in their mean correlation."""
_LEAST_BALL_SHARE = 0.1
"""Of the voxels, below which their axes are those of a slab, and all of them are taken."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why a subject is left out of a mean.

    Args:
        subject_id: Who.
        reason: In words.
    """

    subject_id: str
    reason: str


def doubtful(
    found: Mapping[str, tuple[Matrix, Mapping[str, Any]]],
    judged: Sequence[str],
    settings: AtlasSettings,
) -> tuple[Doubt, ...]:
    """Subjects whose registration cannot be believed, in order.

    Args:
        found: Matrix and facts of every subject by id.
        judged: Those whose similarities say what is usual.
        settings: The threshold.
    """
    usual = {kind: _usual(found, judged, kind) for kind in (True, False, None)}
    doubts = []
    for name, (matrix, facts) in found.items():
        reason = _absurdity(matrix, facts)
        median, spread = usual[facts.get("wide")]
        z = (float(facts["similarity"]) - median) / spread
        if reason is None and z < -settings.outlier_z:
            reason = (
                f"it is not like the others: correlation {facts['similarity']:.2f}, "
                f"where {median:.2f} is usual"
            )
        if reason is not None:
            doubts.append(Doubt(name, reason))
    return tuple(doubts)


def with_unplaced(
    doubts: Sequence[Doubt], records: Sequence[Mapping[str, Any]], stages: Sequence[Stage]
) -> tuple[Doubt, ...]:
    """Doubts of a deformable round, and those that the last affine one ended with.

    A deformation can make anything resemble the mean, a chest upside down as well; it is no
    proof that the affine map below it was right.

    Args:
        doubts: Of the round.
        records: Of all rounds before.
        stages: Of the build; the records give their numbers.
    """
    placing = [
        record
        for record in records
        if record["stage_number"] >= 0 and stages[record["stage_number"]].kind != "deformable"
    ]
    named = {doubt.subject_id for doubt in doubts}
    kept = [Doubt(**doubt) for doubt in placing[-1]["left_out"]] if placing else []
    return (*doubts, *(doubt for doubt in kept if doubt.subject_id not in named))


def _usual(
    found: Mapping[str, tuple[Matrix, Mapping[str, Any]]], judged: Sequence[str], wide: bool | None
) -> tuple[float, float]:
    """Median and robust spread of the similarities of a kind; of all, if it has few members."""
    alike = [name for name in judged if found[name][1].get("wide") == wide]
    names = alike if len(alike) >= LEAST_ALIKE else judged
    values = [float(found[name][1]["similarity"]) for name in names]
    values = [value for value in values if value > LEAST_SIMILARITY]
    if not values:
        return 0.0, LEAST_SPREAD
    median = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(np.array(values) - median)))
    return median, max(spread, LEAST_SPREAD)


def _absurdity(matrix: Matrix, facts: Mapping[str, Any]) -> str | None:
    """What is wrong with a transform in itself, `None` if nothing is."""
    if facts.get("failed"):
        return str(facts["failed"])
    stretch = np.linalg.svd(matrix[:3, :3], compute_uv=False)
    if np.linalg.det(matrix[:3, :3]) <= 0:
        return "it would have to be mirrored"
    if stretch.max() > SCALE_RANGE[1] or stretch.min() < SCALE_RANGE[0]:
        return f"it would have to be scaled by {stretch.min():.2f} to {stretch.max():.2f}"
    angle = rotation_deg(matrix)
    if angle > MOST_ROTATION_DEG:
        return f"it would have to be turned by {angle:.0f}°"
    if facts["covered"] < LEAST_COVERED:
        return "it hardly overlaps with the others"
    if facts["similarity"] < LEAST_SIMILARITY:
        return f"nothing in it fits the others: correlation {facts['similarity']:.2f}"
    if facts["folding"] > MOST_FOLDING:
        return f"its deformation folds over in {100 * facts['folding']:.1f} % of the voxels"
    return None


def rotation_deg(matrix: Matrix) -> float:
    """Angle of the rotation nearest to a linear part, degrees."""
    left, _, right = np.linalg.svd(matrix[:3, :3])
    cosine = (float(np.trace(left @ right)) - 1.0) / 2.0
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def sharpness(mean: AtlasMean) -> float:
    """Root mean square slope of the intensities where the mean can be trusted, unit per mm.

    Squares, as blur spreads an edge without changing the mean slope across it; in the ellipsoid
    that the lattice holds, as coverage at the rim changes from round to round.

    Args:
        mean: An average; the same subjects in better register give steeper edges.
    """
    weight = sitk.GetArrayFromImage(
        sitk.BinaryErode(mean.grid.to_image(mean.valid.astype(np.uint8)), [1, 1, 1])
    )
    x, y, z = mean.grid.center.tolist()
    inner = Ellipsoid((x, y, z), tuple(float(v) / 2.0 for v in mean.grid.extent_mm))
    weight = weight * inner.contains(mean.grid.voxel_points())
    slopes = np.gradient(mean.values.astype(np.float32), *mean.grid.spacing[::-1])
    square = np.sum([slope * slope for slope in slopes], axis=0)
    inside = weight > 0
    return float(np.sqrt(square[inside].mean(dtype=float))) if inside.any() else 0.0


def change(before: AtlasMean, after: AtlasMean) -> float:
    """Root mean square difference of two means, relative to the spread of the intensities.

    Args:
        before: Mean of a round.
        after: Mean of the next round, on the same grid.
    """
    both = before.valid & after.valid
    if not both.any():
        return 1.0
    a = tones(before.values[both], before.modality).astype(float)
    b = tones(after.values[both], after.modality).astype(float)
    return float(np.sqrt(np.mean((a - b) ** 2)) / max(float(b.std()), 1e-6))


def mean_pairwise_correlation(paths: Sequence[Path], mean: AtlasMean, modality: Modality) -> float:
    """Mean correlation over all pairs of moved subjects, where nearly all of them are.

    With every image brought to mean zero and norm one, the squared norm of their sum holds the
    sum over all pairs: one image is in memory at a time. Exact where all cover the same voxels.

    Args:
        paths: Files of moved subjects on the lattice of the mean.
        mean: Their average, for its coverage.
        modality: What the values are.

    Returns:
        Correlation, NaN for fewer than two subjects.
    """
    if len(paths) < 2:
        return float("nan")
    share = max(COMPARED_SHARE * len(paths), least_coverage(len(paths)))
    region = mean.coverage >= min(share, float(mean.coverage.max()))
    total = np.zeros(int(region.sum()))
    for path in paths:
        moved = np.load(path, mmap_mode="r")[region]
        covered = moved != UNCOVERED
        values = np.where(covered, tones(moved, modality), 0.0).astype(float)
        values -= values[covered].mean() if covered.any() else 0.0
        values *= covered
        total += values / max(float(np.linalg.norm(values)), 1e-12)
    n = len(paths)
    return float((total @ total - n) / (n * (n - 1)))


def principal_rotation(
    mean: AtlasMean, linear: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Rotation that brings the axes of inertia of a mean nearest to L, P and S.

    Args:
        mean: Weighed by brightness in the largest ball about its middle that can be trusted: the
            field of view, which was cut along the scanner's axes, must have none of its own.
        linear: Linear map `(3, 3)` that the points of the mean go through first; by default none.

    Returns:
        Matrix `(3, 3)`: points of the turned atlas to points of the mean, as mapped.
    """
    weight = tones(mean.values, mean.modality).astype(float) * mean.valid
    index = np.argwhere(weight > 0)
    mass = weight[weight > 0]
    points = mean.grid.physical_points(index[:, ::-1])
    near = _largest_ball(mean, (mass @ points) / mass.sum())[weight > 0]
    if near.mean() > _LEAST_BALL_SHARE:
        mass, points = mass[near], points[near]
    points -= (mass @ points) / mass.sum()
    if linear is not None:
        points = points @ linear.T
    inertia = (points * mass[:, None]).T @ points / mass.sum()
    axes = np.linalg.eigh(inertia)[1]
    return _nearest_to_identity(axes)


def _largest_ball(mean: AtlasMean, middle_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The voxels nearer to a point than any voxel that cannot be trusted, or the margin."""
    trusted = np.pad(mean.valid > 0, 1)
    index = np.argwhere(np.ones(trusted.shape, bool))[:, ::-1] - 1.0
    away = np.linalg.norm(mean.grid.physical_points(index) - middle_mm, axis=-1)
    distance = away.reshape(trusted.shape)
    return (distance < distance[~trusted].min())[1:-1, 1:-1, 1:-1]


def _nearest_to_identity(axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The order and signs of axes that make the rotation smallest."""
    from itertools import permutations, product

    best, trace = np.eye(3), -4.0
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            turned = axes[:, order] * np.array(signs)
            if np.linalg.det(turned) > 0 and float(np.trace(turned)) > trace:
                best, trace = turned, float(np.trace(turned))
    return best
