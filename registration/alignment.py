"""Alignment of a scan to a constant reference: a network looks, a few steps refine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from registration.affine_refinement import AffinePrior, AffineRefiner
from registration.alignment_volume import AlignmentVolume
from registration.geometry import Ellipsoid, ImageGrid, affine_transform, transform_points
from registration.network_input import CHANNELS, CubeSampler, to_channels
from registration.preprocessing import prepare_volume

Matrix = NDArray[np.float64]

REFINED_REGION = 1.25
"""Size of the region compared during refinement against the heart itself."""
PRIOR_WEIGHT = 0.002
"""Pull towards an undistorted heart, in units of `2 (1 - correlation)`; left-out patients."""
_CROP_MM = 175.0
"""Half edge of the cube around the expected heart that is looked at [mm]."""
_PROBE_MM = 20.0
"""How far the further starts lie from the network's answer [mm]."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """Where a scan lies in the reference, and how far that can be trusted.

    Args:
        atlas_to_scan: Pull-back: LPS points of the reference to LPS points of the scan.
        similarity: Masked correlation in the heart region, -1 to 1; -1 without overlap.
        coverage: Share of the heart ellipsoid inside the scan's field of view, 0 to 1.
        spread_mm: How far refinements from different starts end apart, mm.
        correction_mm: How far the refinement moved the network's answer, mm.
        mirror_margin: By how much the similarity exceeds that of the best mirrored alignment;
            negative if the scan looks like a mirror image of the reference.
        scales: Stretch along the principal axes, largest first; 1 is the reference's size.
        rotation_deg: Angle of the rotation part, degrees.
    """

    atlas_to_scan: sitk.AffineTransform
    similarity: float
    coverage: float
    spread_mm: float
    correction_mm: float
    mirror_margin: float
    scales: tuple[float, float, float]
    rotation_deg: float

    @property
    def stretch(self) -> float:
        """Largest over smallest scale, 1 for a heart of the reference's proportions."""
        return self.scales[0] / self.scales[2]


class ReferenceAligner:
    """Aligns scans of any size and field of view to one reference.

    The network sees the scan around a first guess, answers an affine, and looks again under
    that affine; Gauss-Newton steps on masked correlation follow, from its answer and from
    starts beside it. Equal scans give equal alignments.

    Args:
        reference: Reference image, HU; padding below -1100 HU is not compared.
        region: The heart in the space of the reference.
        network: Keras model from cubes `(n, z, y, x, 3)` to residual matrices
            `(n, 4, 4)`; `None` to refine from the first guess alone.
        cube: Lattice of the network's input in the space of the reference.
        wide_offset_mm: From the centroid of the lungs to the middle of the heart, LPS mm.
        tight_offset_mm: From the middle of a tight field of view to that of the heart.
    """

    def __init__(
        self,
        reference: sitk.Image,
        region: Ellipsoid,
        network: Any = None,
        *,
        cube: ImageGrid | None = None,
        wide_offset_mm: Sequence[float] = (30.0, -30.0, -44.0),
        tight_offset_mm: Sequence[float] = (0.0, 0.0, 12.0),
    ) -> None:
        self.region = region
        self.volume = prepare_volume(reference)
        self.cube = cube or ImageGrid.centered([32] * 3, [10.0] * 3, region.center_mm)
        self.wide_offset_mm = tuple(float(v) for v in wide_offset_mm)
        self.tight_offset_mm = tuple(float(v) for v in tight_offset_mm)
        self._network = network
        self._center = np.asarray(region.center_mm, dtype=float)
        self._refiner = AffineRefiner(self.volume, region.scaled(REFINED_REGION))
        self._heart_points = region.sample_points(6.0)
        self._check_points = region.sample_points(20.0)
        self._cube_points = self.cube.voxel_points().reshape(-1, 3)

    @classmethod
    def from_settings(
        cls,
        reference: sitk.Image,
        region: Ellipsoid,
        settings: Mapping[str, Any],
        weights: Path,
    ) -> ReferenceAligner:
        """Aligner of a model folder: the network built in code, its weights read.

        Args:
            reference: Reference image, HU.
            region: The heart in the space of the reference.
            settings: As `settings_of` writes them.
            weights: The `.weights.h5` file.

        Raises:
            KeyError: If a setting is missing.
            ValueError: If the weights do not fit the network.
        """
        from registration.networks.affine_network import AffineNetwork

        size, spacing = int(settings["cube_size"]), float(settings["cube_spacing_mm"])
        network = AffineNetwork(
            settings["filters"], settings["dense_units"], center_mm=region.center_mm
        )
        network.build((None, size, size, size, CHANNELS))
        network.load_weights(weights)
        return cls(
            reference,
            region,
            network,
            cube=ImageGrid.centered([size] * 3, [spacing] * 3, region.center_mm),
            wide_offset_mm=settings["wide_offset_mm"],
            tight_offset_mm=settings["tight_offset_mm"],
        )

    def align(self, image: sitk.Image) -> Alignment:
        """Align one scan.

        Args:
            image: Attenuation in HU on any three-dimensional grid, LPS mm.

        Returns:
            The alignment, however poor: ask `similarity`, `coverage` and the measures of
            uncertainty before trusting it.
        """
        return self.align_volume(prepare_volume(image))

    def align_volume(self, volume: AlignmentVolume) -> Alignment:
        """Align a scan that is prepared already."""
        guess = self.first_guess(volume)
        near = volume.cropped(transform_points(guess, self._center), _CROP_MM)
        seen = self._look(near, guess)
        upright = [seen, *self._probes(seen), guess]
        flips = self._flips()
        priors = [AffinePrior(np.eye(4), weight=PRIOR_WEIGHT)] * len(upright)
        priors += [AffinePrior(flip, weight=PRIOR_WEIGHT) for flip in flips]
        found = self._refiner.refine(near, upright + [seen @ flip for flip in flips], priors)
        ends, mirrored = found[: len(upright)], found[len(upright) :]
        matrix, similarity = max(ends, key=lambda end: end[1])
        matrix = np.round(matrix, 5)
        spread = np.median([self._apart_mm(matrix, end) for end, _ in ends])
        left, scales, right = np.linalg.svd(matrix[:3, :3])
        turn = (np.trace(left @ right) - 1.0) / 2.0
        return Alignment(
            affine_transform(matrix),
            float(similarity),
            self.coverage(volume, matrix),
            float(spread),
            self._apart_mm(matrix, seen),
            float(similarity - max(end[1] for end in mirrored)),
            (float(scales[0]), float(scales[1]), float(scales[2])),
            float(np.degrees(np.arccos(np.clip(turn, -1.0, 1.0)))),
        )

    def first_guess(self, volume: AlignmentVolume) -> Matrix:
        """Translation that puts the heart where it usually lies in such a field of view."""
        offset = self.wide_offset_mm if volume.wide else self.tight_offset_mm
        matrix = np.eye(4)
        matrix[:3, 3] = np.array(volume.start_mm) + offset - self._center
        return matrix

    def coverage(self, volume: AlignmentVolume, matrix: Matrix) -> float:
        """Share of the heart ellipsoid inside the field of view under a transform."""
        points = transform_points(matrix, self._heart_points)
        index = np.rint(volume.grid.indices(points)).astype(int)
        inside = volume.grid.contains(points)
        index = np.clip(index, 0, np.array(volume.grid.size) - 1)
        valid = volume.valid[index[:, 2], index[:, 1], index[:, 0]] > 0
        return float((inside & valid).mean())

    def _look(self, volume: AlignmentVolume, guess: Matrix) -> Matrix:
        """Two passes of the network, the second under the answer of the first."""
        if self._network is None:
            return guess
        sampler = CubeSampler(volume)
        matrix = guess
        for _ in range(2):
            hu, valid = sampler(transform_points(matrix, self._cube_points))
            cube = to_channels(hu, valid).reshape(1, *self.cube.shape, CHANNELS)
            residual = np.asarray(self._network.predict_on_batch(cube)[0], dtype=float)
            matrix = matrix @ residual
        # Threads may change the last digits of the network; they must not change a score.
        return np.round(matrix, 3)

    def _flips(self) -> list[Matrix]:
        """Mirrorings of the reference about the middle of the heart, left-right first."""
        flips = []
        for axis in range(3):
            flip = np.eye(4)
            flip[axis, axis] = -1.0
            flip[axis, 3] = 2.0 * self._center[axis]
            flips.append(flip)
        return flips

    def _probes(self, matrix: Matrix) -> list[Matrix]:
        """Starts beside an answer, towards the corners of a tetrahedron."""
        corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3.0)
        probes = []
        for corner in corners:
            probe = np.eye(4)
            probe[:3, :3] = matrix[:3, :3]
            probe[:3, 3] = matrix[:3, 3] + _PROBE_MM * corner
            probes.append(probe)
        return probes

    def _apart_mm(self, first: Matrix, second: Matrix) -> float:
        apart = transform_points(first, self._check_points) - transform_points(
            second, self._check_points
        )
        return float(np.linalg.norm(apart, axis=-1).mean())
