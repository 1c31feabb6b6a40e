"""Per-pair refinement of an affine alignment: Gauss-Newton steps on masked correlation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from registration.alignment_volume import AlignmentVolume
from registration.geometry import Ellipsoid, transform_points
from registration.volume_sampler import VolumeSampler

Matrix = NDArray[np.float64]

WINDOWS_HU = ((-900.0, 250.0), (-180.0, 120.0))
"""Attenuation windows compared side by side [HU]: lung against tissue, fat against muscle."""
_LEVER_MM = 50.0
"""Length that turns matrix entries into millimetres, so that all unknowns weigh alike."""
_LEAST_OVERLAP = 0.12
"""Below this share of the region inside the field of view, correlation says nothing."""
_SAME_MM = 1.0
"""Matrices that move nothing in the region further apart than this count as one [mm]."""
_FLAT_HU = 5.0
"""Standard deviation under which a window holds no structure [HU]."""


@dataclass(frozen=True, slots=True)
class RefinementLevel:
    """One resolution of a coarse-to-fine refinement.

    Args:
        sigma_mm: Gaussian smoothing of both images, mm.
        spacing_mm: Distance between the points at which they are compared, mm.
        iterations: Most Gauss-Newton steps.
    """

    sigma_mm: float
    spacing_mm: float
    iterations: int


DEFAULT_LEVELS = (RefinementLevel(8.0, 10.0, 15), RefinementLevel(4.0, 8.0, 15))


@dataclass(frozen=True, slots=True)
class AffinePrior:
    """What is known of an affine before looking: a Gaussian about a matrix.

    The deviation of the linear part is taken apart, to first order, into a common scale, a
    rotation, and a change of shape (stretching and shearing); hearts differ far more in
    size and pose than in shape.

    Args:
        matrix: Expected homogeneous matrix, `(4, 4)`.
        sigma_mm: Standard deviation of the region's middle, mm; infinite leaves it free.
        sigma_scale: Standard deviation of the common scale.
        sigma_rotation: Standard deviation of each rotation, radians.
        sigma_shape: Standard deviation of each entry of the change of shape.
        weight: Weight against `2 (1 - correlation)` for a deviation of one sigma.
    """

    matrix: Matrix
    sigma_mm: float = float("inf")
    sigma_scale: float = 0.15
    sigma_rotation: float = 0.2
    sigma_shape: float = 0.1
    weight: float = 0.002

    @property
    def precision(self) -> Matrix:
        """Weight of deviations: three of the middle (mm), nine of the linear part."""
        identity = np.eye(9)
        transposed = identity.reshape(3, 3, 9).transpose(1, 0, 2).reshape(9, 9)
        scale = np.outer(np.eye(3).ravel(), np.eye(3).ravel()) / 3.0
        rotation = (identity - transposed) / 2.0
        shape = (identity + transposed) / 2.0 - scale
        precision = np.zeros((12, 12))
        precision[:3, :3] = np.eye(3) / self.sigma_mm**2
        precision[3:, 3:] = (
            scale / (3.0 * self.sigma_scale**2)
            + rotation / (2.0 * self.sigma_rotation**2)
            + shape / self.sigma_shape**2
        )
        return precision * self.weight


@dataclass(frozen=True, slots=True)
class _Samples:
    points: Matrix
    values: NDArray[np.float64]
    gradients: NDArray[np.float64]
    weights: NDArray[np.float64]


class AffineRefiner:
    """Refines affines that pull scans back onto one reference.

    The objective is the sum over attenuation windows of `2 (1 - masked correlation)` plus a
    quadratic prior; the unknowns are the position of the region's middle and the nine
    entries of the linear part. Nothing is random.

    Args:
        reference: The fixed image; its `valid` says where it was covered.
        region: Where it is compared, in the space of the reference.
        levels: Resolutions, coarse to fine.
        windows_hu: Attenuation windows `(low, high)`, HU.

    Source:
        Gauss-Newton on normalised intensities with averaged gradients, after Malis,
        Improving vision-based control using efficient second-order minimization, ICRA 2004.
    """

    def __init__(
        self,
        reference: AlignmentVolume,
        region: Ellipsoid,
        *,
        levels: Sequence[RefinementLevel] = DEFAULT_LEVELS,
        windows_hu: Sequence[tuple[float, float]] = WINDOWS_HU,
    ) -> None:
        self.region = region
        self.levels = tuple(levels)
        self.windows_hu = tuple(windows_hu)
        self._center = np.asarray(region.center_mm, dtype=float)
        self._samples = [self._sample_reference(reference, level) for level in self.levels]

    def refine(
        self,
        volume: AlignmentVolume,
        starts: Sequence[Matrix],
        priors: AffinePrior | Sequence[AffinePrior] | None = None,
    ) -> list[tuple[Matrix, float]]:
        """Refine several starts on the same scan.

        Args:
            volume: The moving scan.
            starts: Homogeneous matrices, reference LPS mm to scan LPS mm, `(4, 4)` each.
            priors: Expectation, one for all or one per start; by default the linear part is
                drawn towards the identity.

        Returns:
            One pair per start: refined matrix, and the mean masked correlation of the windows
            on the finest level, -1 where too little of the region lies in the field of view.
        """
        if priors is None or isinstance(priors, AffinePrior):
            priors = [priors or AffinePrior(np.eye(4))] * len(starts)
        results = [(np.array(start, dtype=float), -1.0) for start in starts]
        for samples, level in zip(self._samples, self.levels, strict=True):
            smoothed = VolumeSampler(volume, level.sigma_mm)
            done: list[tuple[Matrix, tuple[Matrix, float]]] = []
            for number, ((start, _), prior) in enumerate(zip(results, priors, strict=True)):
                end = next((end for known, end in done if self._same(known, start)), None)
                if end is None:
                    end = self._descend(smoothed, samples, start, prior, level.iterations)
                    done.append((start, end))
                results[number] = end
        return results

    def _same(self, first: Matrix, second: Matrix) -> bool:
        """Whether two matrices are so close that they would end in the same place."""
        apart = np.abs(self._to_unknowns(first) - self._to_unknowns(second))
        return bool(apart.max() < _SAME_MM)

    def similarity(self, volume: AlignmentVolume, matrix: Matrix) -> float:
        """Mean masked correlation at the finest level, -1 where the overlap is too small."""
        level = self.levels[-1]
        moving = VolumeSampler(volume, level.sigma_mm)
        residual = self._residual(moving, self._samples[-1], matrix)
        return -1.0 if residual is None else residual[3]

    def _sample_reference(self, reference: AlignmentVolume, level: RefinementLevel) -> _Samples:
        points = self.region.sample_points(level.spacing_mm)
        moving = VolumeSampler(reference, level.sigma_mm)
        hu, gradient, coverage = moving(points)
        soft = np.clip(1.6 - self.region.relative_radius(points), 0.0, 1.0)
        values, gradients = self._windowed(hu, gradient)
        return _Samples(points, values, gradients, soft * coverage)

    def _windowed(
        self, hu: NDArray[np.float64], gradient: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Values `(c, n)` and gradients `(c, n, 3)` under every window."""
        values = np.stack([np.clip(hu, low, high) for low, high in self.windows_hu])
        within = np.stack([(hu > low) & (hu < high) for low, high in self.windows_hu])
        return values, gradient * within[..., None]

    def _residual(
        self, moving: VolumeSampler, samples: _Samples, matrix: Matrix
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], float, float] | None:
        """Weighted residuals `(c n,)`, Jacobian `(c n, 12)`, objective, and correlation."""
        hu, gradient, coverage = moving(transform_points(matrix, samples.points))
        weight = samples.weights * coverage
        if weight.sum() < _LEAST_OVERLAP * samples.weights.sum() or weight.sum() <= 0:
            return None
        weight = weight / weight.sum()
        values, gradients = self._windowed(hu, gradient)
        fixed, fixed_scale = _standardized(samples.values, weight)
        moved, moved_scale = _standardized(values, weight)
        inverse = np.linalg.inv(matrix[:3, :3])
        slope = gradients / moved_scale[:, None, None]
        slope = (slope + samples.gradients @ inverse / fixed_scale[:, None, None]) / 2.0
        lever = (samples.points - self._center) / _LEVER_MM
        jacobian = np.concatenate(
            [slope, (slope[..., :, None] * lever[:, None, :]).reshape(*slope.shape[:2], 9)],
            axis=-1,
        )
        jacobian -= (weight @ jacobian)[:, None]
        along = (weight * moved)[:, None] @ jacobian
        jacobian -= moved[..., None] * along
        root = np.sqrt(weight / len(values))
        residual = (moved - fixed) * root
        return (
            residual.ravel(),
            (jacobian * root[:, None]).reshape(-1, 12),
            float((residual**2).sum()),
            float((moved * fixed * root**2).sum()),
        )

    def _descend(
        self,
        moving: VolumeSampler,
        samples: _Samples,
        start: Matrix,
        prior: AffinePrior,
        iterations: int,
    ) -> tuple[Matrix, float]:
        unit = np.array([1.0] * 3 + [_LEVER_MM] * 9)
        precision = prior.precision / np.outer(unit, unit)
        unknowns = self._to_unknowns(start)
        expected = self._to_unknowns(prior.matrix)
        state = self._residual(moving, samples, start)
        if state is None:
            return start, -1.0
        damping = 1e-3
        away = unknowns - expected
        cost = state[2] + float(away @ precision @ away)
        for _ in range(iterations):
            residual, jacobian, *_ = state
            normal = jacobian.T @ jacobian + precision
            slope = jacobian.T @ residual + precision @ away
            step = -np.linalg.solve(normal + damping * np.diag(np.diag(normal)), slope)
            step *= min(1.0, 15.0 / float(np.abs(step).max()))
            trial = self._residual(moving, samples, self._to_matrix(unknowns + step))
            prior_cost = float((away + step) @ precision @ (away + step))
            if trial is not None and trial[2] + prior_cost < cost:
                unknowns, away = unknowns + step, away + step
                state, cost = trial, trial[2] + prior_cost
                damping = max(damping / 5.0, 1e-4)
            else:
                damping *= 8.0
            if np.abs(step).max() < 0.1 or damping > 1e3:
                break
        return self._to_matrix(unknowns), state[3]

    def _to_unknowns(self, matrix: Matrix) -> NDArray[np.float64]:
        middle = transform_points(matrix, self._center)
        return np.concatenate([middle, (matrix[:3, :3] * _LEVER_MM).ravel()])

    def _to_matrix(self, unknowns: NDArray[np.float64]) -> Matrix:
        matrix = np.eye(4)
        matrix[:3, :3] = unknowns[3:].reshape(3, 3) / _LEVER_MM
        matrix[:3, 3] = unknowns[:3] - matrix[:3, :3] @ self._center
        return matrix


def _standardized(
    values: NDArray[np.float64], weight: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Zero weighted mean and unit weighted variance per window, and the scale divided by."""
    centered = values - (values @ weight)[:, None]
    scale = np.sqrt(centered**2 @ weight)
    scale = np.maximum(scale, _FLAT_HU)
    return centered / scale[:, None], scale
