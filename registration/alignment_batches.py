"""Training batches for the alignment network: real scans, moved by known affines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from registration.alignment_volume import AlignmentVolume
from registration.geometry import Ellipsoid, ImageGrid, transform_points
from registration.network_input import CubeSampler, to_channels

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AlignmentExample:
    """A scan and how it lies in the atlas.

    Args:
        name: For messages and curves; no identifier of a patient.
        sampler: The scan.
        matrix: Pull-back from the atlas to the scan, homogeneous, LPS mm.
    """

    name: str
    sampler: CubeSampler
    matrix: Matrix

    @classmethod
    def from_volume(cls, name: str, volume: AlignmentVolume, matrix: Matrix) -> AlignmentExample:
        """Example of a prepared scan."""
        return cls(name, CubeSampler(volume), np.asarray(matrix, dtype=float))


@dataclass(frozen=True, slots=True)
class AugmentationRanges:
    """How far scans are moved and changed; angles and factors are bounds, `*_sd` sigmas.

    Args:
        rotation_deg: About each axis.
        log_scale: Logarithm of each scaling; 0.2 is 22 %.
        shear: Each shear coefficient.
        start_sd_mm: Error of the point from which a search starts.
        residual_share: Share of samples that show a second pass: nearly aligned already.
        elastic_sd_mm: Size of smooth random deformations.
        noise_hu: Most noise at the resolution of the network, standard deviation.
        tight_share: Share of samples with a tight cardiac field of view.
        tight_width_mm: Least and greatest in-plane width of such a field.
        tight_height_mm: The same along the patient.
        tight_drop_mm: How far the middle of such a field lies below that of the heart.
        cut_share: Share of the other samples cut off above or below.
    """

    rotation_deg: float = 12.6
    log_scale: float = 0.2
    shear: float = 0.08
    start_sd_mm: float = 18.0
    residual_share: float = 0.4
    elastic_sd_mm: float = 5.0
    noise_hu: float = 40.0
    tight_share: float = 0.6
    tight_width_mm: tuple[float, float] = (160.0, 250.0)
    tight_height_mm: tuple[float, float] = (105.0, 170.0)
    tight_drop_mm: float = 18.0
    cut_share: float = 0.4


class AlignmentBatches:
    """Draws batches of cubes and the residual transforms that undo their misalignment.

    The network is shown the scan under a wrong transform `A M`, where `A` is the alignment
    of the scan to the atlas and `M` a random affine; it must answer `inverse(M)`.

    Args:
        examples: Aligned scans.
        cube: Lattice of the network's input in atlas space.
        region: The heart in atlas space.
        ranges: Augmentation.

    Raises:
        ValueError: If there are no examples.
    """

    def __init__(
        self,
        examples: Sequence[AlignmentExample],
        cube: ImageGrid,
        region: Ellipsoid,
        ranges: AugmentationRanges | None = None,
    ) -> None:
        if not examples:
            raise ValueError("examples must hold at least one scan. Received: none")
        self.examples = tuple(examples)
        self.cube = cube
        self.region = region
        self.ranges = ranges or AugmentationRanges()
        self._points = cube.voxel_points().reshape(-1, 3)
        self._in_region = region.contains(self._points)
        self._upsampling = [_linear_upsampling(4, n) for n in cube.shape]

    def draw(
        self, rng: np.random.Generator, count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Draw a batch.

        Args:
            rng: Source of everything random.
            count: Number of samples.

        Returns:
            Cubes, shape `(count, *cube.shape, 3)`, and residual matrices, `(count, 4, 4)`.
        """
        samples = [
            self._sample(rng, self.examples[int(rng.integers(len(self.examples)))])
            for _ in range(count)
        ]
        cubes, residuals = zip(*samples, strict=True)
        return np.stack(cubes), np.stack(residuals).astype(np.float32)

    def _sample(
        self, rng: np.random.Generator, example: AlignmentExample
    ) -> tuple[NDArray[np.float32], Matrix]:
        ranges = self.ranges
        heart = transform_points(example.matrix, np.array(self.region.center_mm))
        tight = bool(rng.random() < ranges.tight_share)
        field_of_view = _FieldOfView.draw(rng, heart, ranges, tight)
        wrong = self._wrong_affine(rng, example, heart, field_of_view if tight else None)
        points = transform_points(example.matrix @ wrong, self._points)
        points += self._elastic(rng)
        hu, valid = example.sampler(points)
        valid = valid * field_of_view.contains(points)
        hu = self._changed_hu(rng, hu)
        cube = to_channels(hu, valid).reshape(*self.cube.shape, -1)
        return cube, np.asarray(np.linalg.inv(wrong), dtype=np.float64)

    def _wrong_affine(
        self,
        rng: np.random.Generator,
        example: AlignmentExample,
        heart: NDArray[np.float64],
        tight: _FieldOfView | None,
    ) -> Matrix:
        """Random affine of the atlas that the network has to undo."""
        ranges = self.ranges
        residual = bool(rng.random() < ranges.residual_share)
        center = np.array(self.region.center_mm)
        wrong = _random_affine(rng, ranges, 0.6 if residual else 1.0)
        if residual:
            where = center + rng.normal(0.0, 8.0, 3)
        else:
            drop = np.array([0.0, 0.0, ranges.tight_drop_mm])
            begin = heart if tight is None else tight.center + drop
            spread = ranges.start_sd_mm * (1.0 if tight is None else 0.5)
            begin = begin + rng.normal(0.0, spread, 3)
            where = transform_points(np.linalg.inv(example.matrix), begin)
        wrong[:3, 3] = where - wrong[:3, :3] @ center
        return wrong

    def _elastic(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Smooth displacement that leaves the heart as a whole in place, mm, `(n, 3)`."""
        control = rng.normal(0.0, self.ranges.elastic_sd_mm * rng.random() * 1.7, (4, 4, 4, 3))
        z, y, x = self._upsampling
        field_mm = np.einsum("ai,bj,ck,ijkd->abcd", z, y, x, control, optimize=True).reshape(-1, 3)
        return np.asarray(field_mm - field_mm[self._in_region].mean(axis=0))

    def _changed_hu(self, rng: np.random.Generator, hu: NDArray[np.float32]) -> NDArray[np.float32]:
        """Noise, and soft tissue brighter or darker as contrast agent or drift make it."""
        tissue = hu > -200.0
        changed = np.where(tissue, hu * rng.uniform(0.8, 1.6) + rng.uniform(-40.0, 60.0), hu)
        changed += rng.normal(0.0, rng.uniform(0.0, self.ranges.noise_hu), len(hu))
        return np.asarray(changed, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class _FieldOfView:
    center: NDArray[np.float64]
    half_mm: NDArray[np.float64] = field(default_factory=lambda: np.full(3, np.inf))
    circular: bool = False

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        heart: NDArray[np.float64],
        ranges: AugmentationRanges,
        tight: bool,
    ) -> _FieldOfView:
        if tight:
            width, height = (
                rng.uniform(*ranges.tight_width_mm),
                rng.uniform(*ranges.tight_height_mm),
            )
            center = heart - [0.0, 0.0, ranges.tight_drop_mm] + rng.normal(0.0, 9.0, 3)
            return cls(center, np.array([width, width, height]) / 2, bool(rng.random() < 0.5))
        center = heart.copy()
        half = np.full(3, np.inf)
        if rng.random() < ranges.cut_share:
            # Keep from a third of the heart up to all of it on the side that is cut.
            center[2] += rng.choice([-1.0, 1.0]) * (1000.0 - rng.uniform(0.0, 120.0))
            half[2] = 1000.0
        return cls(center, half)

    def contains(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        away = points - self.center
        inside = np.all(np.abs(away) <= self.half_mm, axis=1)
        if self.circular:
            inside &= np.hypot(away[:, 0], away[:, 1]) <= self.half_mm[0]
        return np.asarray(inside)


def _random_affine(rng: np.random.Generator, ranges: AugmentationRanges, share: float) -> Matrix:
    """Rotation after shear after scaling within `share` of the ranges, no translation."""
    angles = np.deg2rad(rng.uniform(-1, 1, 3) * ranges.rotation_deg * share)
    common = rng.uniform(-1, 1) * 0.7
    scale = np.exp((common + rng.uniform(-1, 1, 3) * 0.3) * ranges.log_scale * share)
    shear = np.eye(3)
    shear[np.triu_indices(3, 1)] = rng.uniform(-1, 1, 3) * ranges.shear * share
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        rotation = turn @ rotation
    matrix = np.eye(4)
    matrix[:3, :3] = rotation @ shear @ np.diag(scale)
    return matrix


def _linear_upsampling(few: int, many: int) -> NDArray[np.float64]:
    """Matrix that interpolates `few` values linearly at `many` places, ends on ends."""
    place = np.linspace(0, few - 1, many)
    return np.asarray(np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(few)[None])))
