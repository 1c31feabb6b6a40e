"""The first step of an atlas: the mean of a cohort under affine alignment, iterated."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atlas.coverage_mean import CoverageMean
from registration.affine_refinement import AffinePrior, AffineRefiner, RefinementLevel
from registration.alignment_volume import AlignmentVolume
from registration.geometry import Ellipsoid, ImageGrid, affine_transform, transform_points

Matrix = NDArray[np.float64]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AtlasRound:
    """One pass over the cohort.

    Args:
        region: Where members are compared with the mean, in the space of the mean.
        levels: Resolutions of the refinement, coarse to fine.
        prior_weight: Pull of every linear part towards the identity.
    """

    region: Ellipsoid
    levels: tuple[RefinementLevel, ...]
    prior_weight: float = 0.002


@dataclass(frozen=True, slots=True)
class AffineMean:
    """A mean image and how its members lie in it.

    Args:
        volume: The mean; `valid` is 1 where enough members cover it.
        spread_hu: Standard deviation between members per voxel, HU, shape of the grid.
        transforms: Pull-backs from the mean to each member, homogeneous, LPS mm.
        similarities: Masked correlation of each member in the last round, -1 before any.
        changes_mm: Mean movement of the region's points in each round, mm.
    """

    volume: AlignmentVolume
    spread_hu: NDArray[np.float64]
    transforms: tuple[Matrix, ...]
    similarities: tuple[float, ...]
    changes_mm: tuple[float, ...]


class AffineMeanBuilder:
    """Builds a mean by aligning every member to the mean so far, again and again.

    After each round the mean linear part is divided out, so that the atlas has the average
    size, shape and pose of its members and cannot drift. Members are loaded one at a time.

    Args:
        grid: Lattice of the mean.
        least_members: Voxels covered by fewer members are not compared.
        report: Called with a line of plain text after every round.

    Raises:
        ValueError: If `least_members` is not positive.
    """

    def __init__(
        self,
        grid: ImageGrid,
        *,
        least_members: int = 3,
        report: Callable[[str], None] = _log.info,
    ) -> None:
        if least_members < 1:
            raise ValueError(f"least_members must be positive. Received: {least_members}")
        self.grid = grid
        self.least_members = least_members
        self._report = report

    def build(
        self,
        members: Sequence[AlignmentVolume],
        rounds: Sequence[AtlasRound],
        *,
        starts: Sequence[Matrix] | None = None,
    ) -> AffineMean:
        """Iterate the mean of a cohort.

        Args:
            members: The cohort; an item may be loaded when it is asked for.
            rounds: What to compare in each pass.
            starts: First transforms, mean to member; by default the start point of every
                member is put at the origin of the mean.

        Returns:
            The mean after the last round.

        Raises:
            ValueError: If there are fewer than two members, or starts for another number.
        """
        if len(members) < 2:
            raise ValueError(f"an atlas needs at least two members. Received: {len(members)}")
        if starts is not None and len(starts) != len(members):
            raise ValueError(
                f"there must be one start per member. Received: {len(starts)} for {len(members)}"
            )
        transforms = list(starts or [_translation(member.start_mm) for member in members])
        similarities, changes = [-1.0] * len(members), []
        for number, plan in enumerate(rounds):
            refiner = AffineRefiner(
                self.mean(members, transforms)[0], plan.region, levels=plan.levels
            )
            prior = AffinePrior(np.eye(4), weight=plan.prior_weight)
            before = transforms
            results = [
                refiner.refine(member, [start], prior)[0]
                for member, start in zip(members, before, strict=True)
            ]
            similarities = [similarity for _, similarity in results]
            transforms = without_drift([matrix for matrix, _ in results], plan.region.center_mm)
            points = plan.region.sample_points(15.0)
            changes.append(_movement_mm(before, transforms, points))
            self._report(
                f"round {number + 1}: similarity {np.mean(similarities):.3f} "
                f"(least {np.min(similarities):.3f}), moved {changes[-1]:.1f} mm"
            )
        volume, spread = self.mean(members, transforms)
        return AffineMean(volume, spread, tuple(transforms), tuple(similarities), tuple(changes))

    def mean(
        self, members: Sequence[AlignmentVolume], transforms: Sequence[Matrix]
    ) -> tuple[AlignmentVolume, NDArray[np.float64]]:
        """Mean of the members under given transforms, and their spread in HU."""
        running = CoverageMean(self.grid)
        floor = 0.0
        for member, matrix in zip(members, transforms, strict=True):
            floor = float(member.hu.min())
            running.add_image(
                member.grid.to_image(member.hu),
                member.grid.to_image(member.valid),
                affine_transform(matrix),
            )
        covered = running.coverage
        hu = np.where(covered > 0, running.mean(), floor).astype(np.float32)
        valid = (covered >= min(self.least_members, len(members))).astype(np.float32)
        middle = self.grid.center
        start = (float(middle[0]), float(middle[1]), float(middle[2]))
        return AlignmentVolume(hu, valid, self.grid, start, True), running.standard_deviation()


def without_drift(transforms: Sequence[Matrix], center_mm: ArrayLike) -> list[Matrix]:
    """Divide the mean linear part out of pull-backs, keeping one point of the mean in place.

    Args:
        transforms: Homogeneous matrices from the mean to its members, `(4, 4)` each.
        center_mm: Point of the mean that stays where it is, LPS mm.

    Returns:
        Matrices whose linear parts average to the identity.
    """
    back = drift_correction(transforms, center_mm)
    return [matrix @ back for matrix in transforms]


def drift_correction(transforms: Sequence[Matrix], center_mm: ArrayLike) -> Matrix:
    """The map that `without_drift` puts before every pull-back, homogeneous, LPS mm.

    Args:
        transforms: Homogeneous matrices from the mean to its members, `(4, 4)` each.
        center_mm: Point of the mean that stays where it is, LPS mm.
    """
    center = np.asarray(center_mm, dtype=float)
    back = np.eye(4)
    back[:3, :3] = np.linalg.inv(np.mean([matrix[:3, :3] for matrix in transforms], axis=0))
    back[:3, 3] = center - back[:3, :3] @ center
    return back


def _translation(point_mm: Sequence[float]) -> Matrix:
    matrix = np.eye(4)
    matrix[:3, 3] = point_mm
    return matrix


def _movement_mm(before: Sequence[Matrix], after: Sequence[Matrix], points: Matrix) -> float:
    moved = [
        transform_points(a, points) - transform_points(b, points)
        for a, b in zip(after, before, strict=True)
    ]
    return float(np.linalg.norm(moved, axis=-1).mean())
