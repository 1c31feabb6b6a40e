"""The scorer: an aligned scan in, a calcium score and the picture it consists of out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from calcium.density import Candidates, find_candidates
from calcium.feedback import Decision, decide
from calcium.heart_field import HeartEllipsoid, HeartField
from calcium.lesions import Lesion, group_lesions
from calcium.networks.predictor import Predictor
from calcium.networks.slice_inputs import slice_inputs
from calcium.orientation import Orientation
from calcium.presets import DEFAULT_PRESET, Preset, to_preset
from registration.geometry import ImageGrid, affine_matrix

BATCH_SLICES = 16
"""Slices per network call: bounds the memory of the largest scan."""


@dataclass(frozen=True)
class ScanScore:
    """The answer for one scan.

    Args:
        agatston: Score under `preset`.
        agatston_low: Lower end of the calibrated 90 % interval; `None` if not calibrated.
        agatston_high: Upper end of that interval.
        volume_mm3: Volume of the calcium that counts, mm³.
        lesions: What counts, largest first.
        preset: Name of the definition of the score.
        feedback: Contribution of every voxel, native grid, float32, shape `(z, y, x)`;
            sums to `agatston`.
    """

    agatston: float
    agatston_low: float | None
    agatston_high: float | None
    volume_mm3: float
    lesions: tuple[Lesion, ...]
    preset: str
    feedback: NDArray[np.float32] = field(repr=False)


class Scorer:
    """Scores scans with one network at the place the atlas gives.

    Args:
        predictor: The network, built on first use.
        heart: Heart in the atlas.
        preset: Definition of the score.
        decision: What is counted or left at once (additive network only).

    Source:
        Additive direct scoring is own; the plain network follows de Vos et al., IEEE TMI
        2019;38:2127-2138.
    """

    def __init__(
        self,
        predictor: Predictor,
        heart: HeartEllipsoid,
        *,
        preset: str | Preset = DEFAULT_PRESET,
        decision: Decision = "lesion",
    ) -> None:
        self.predictor = predictor
        self.heart = heart
        self.preset = to_preset(preset)
        self.decision: Decision = decision

    @classmethod
    def from_settings(
        cls,
        heart_center_mm: Sequence[float],
        heart_radii_mm: Sequence[float],
        settings: Mapping[str, Any],
        weights: Path,
        *,
        preset: str | Preset | None = None,
    ) -> Scorer:
        """Scorer of a model folder; TensorFlow is imported at the first `score`.

        Args:
            heart_center_mm: Center of the heart in the atlas, LPS mm.
            heart_radii_mm: Half axes of the heart in the atlas, mm.
            settings: `network` (`"additive"` or `"plain"`), `widths`, and, where they
                differ from the defaults, `decision`, `preset`, and `heart` (`center_mm`
                and `radii_mm`) if the network was trained with an ellipsoid of its own.
            weights: `.weights.h5` file, already verified.
            preset: Definition of the score; `None` for that of the settings.

        Raises:
            ValueError: If a setting is unknown.
            KeyError: If `network` or `widths` is missing.
        """
        own = settings.get("heart", {})
        center = tuple(float(v) for v in own.get("center_mm", heart_center_mm))
        radii = tuple(float(v) for v in own.get("radii_mm", heart_radii_mm))
        return cls(
            Predictor(str(settings["network"]), tuple(settings["widths"]), weights),
            HeartEllipsoid((center[0], center[1], center[2]), (radii[0], radii[1], radii[2])),
            preset=preset or settings.get("preset", DEFAULT_PRESET),
            decision=settings.get("decision", "lesion"),
        )

    def with_preset(self, preset: str | Preset) -> Scorer:
        """The same scorer under another definition of the score; the network is shared."""
        return Scorer(self.predictor, self.heart, preset=preset, decision=self.decision)

    def score(self, image: sitk.Image, atlas_to_scan: sitk.Transform) -> ScanScore:
        """Score one scan.

        Args:
            image: Attenuation in HU on the native grid, axial slices.
            atlas_to_scan: Linear pull-back, atlas LPS mm to scan LPS mm.

        Returns:
            The score; zero with an empty feedback if no voxel near the heart reaches 130 HU.

        Raises:
            ValueError: If the slices are not axial or the transform is not linear.
        """
        native = ImageGrid.from_image(image)
        orientation = Orientation.of(native)
        volume = orientation.apply(sitk.GetArrayViewFromImage(image))
        to_unit = self.heart.unit_matrix(affine_matrix(atlas_to_scan))
        heart_field = HeartField.locate(orientation.grid, to_unit)
        candidates = _candidates_near_heart(volume, heart_field, self.preset)
        contribution = self._contributions(volume, heart_field, candidates)
        feedback = np.zeros(orientation.grid.shape, np.float32)
        feedback.reshape(-1)[candidates.flat_index] = contribution
        feedback = np.ascontiguousarray(orientation.undo(feedback))
        flat = np.flatnonzero(feedback)
        value = feedback.reshape(-1)[flat].astype(np.float64)
        hu = sitk.GetArrayViewFromImage(image).reshape(-1)[flat].astype(np.float64)
        counted = Candidates(native.shape, flat, hu, np.zeros(flat.size, np.int32), value)
        return ScanScore(
            float(contribution.sum()),
            None,
            None,
            float(flat.size * native.voxel_volume_mm3),
            group_lesions(counted, value, native),
            self.preset.name,
            feedback,
        )

    def _contributions(
        self, volume: NDArray[Any], heart_field: HeartField, candidates: Candidates
    ) -> NDArray[np.float64]:
        """What each candidate adds, float32-exact, shape `(n,)`."""
        if candidates.flat_index.size == 0:
            return np.zeros(0)
        z, y, x = candidates.index.T
        numbers = np.unique(z)
        inputs = _network_inputs(volume, heart_field, candidates, numbers)
        output = self.predictor.predict(inputs, batch_size=BATCH_SLICES)
        if self.predictor.network_name == "plain":
            value = _spread(np.maximum(np.expm1(output[:, 0]), 0.0), numbers, z, candidates.density)
        else:
            attention = np.empty(len(z))
            for number, image in zip(numbers, output[..., 0], strict=True):
                at = slice(*np.searchsorted(z, [number, number + 1]))
                attention[at] = heart_field.gather(image, y[at], x[at])
            value = decide(
                attention,
                candidates.density,
                candidates.flat_index,
                candidates.shape,
                self.decision,
            )
        return value.astype(np.float32).astype(np.float64)


def _candidates_near_heart(
    volume: NDArray[Any], heart_field: HeartField, preset: Preset
) -> Candidates:
    """Candidates with density within reach of the heart, indices of the whole volume."""
    first, last = heart_field.slices
    rows, cols = heart_field.window
    part = volume[first:last, rows, cols]
    grid = heart_field.grid
    if part.size == 0:
        return Candidates(volume.shape, *(np.zeros(0, t) for t in (int, float, np.int32, float)))
    found = find_candidates(part, replace(grid, size=tuple(reversed(part.shape))), preset)
    index = found.index + np.array([first, rows.start, cols.start])
    keep = (found.density > 0) & heart_field.inside_reach(*index.T)
    flat = np.ravel_multi_index(tuple(index[keep].T), volume.shape).astype(np.int64)
    return Candidates(
        volume.shape, flat, found.hu[keep], found.component[keep], found.density[keep]
    )


def _network_inputs(
    volume: NDArray[Any],
    heart_field: HeartField,
    candidates: Candidates,
    numbers: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Inputs of the slices `numbers`, shape `(n, 256, 256, 8)`."""
    z, y, x = candidates.index.T
    step = heart_field.context_step
    first, last = heart_field.slices
    shown = np.clip(numbers[:, None] + np.array([-step, 0, step]), first, last - 1)
    needed, where = np.unique(shown, return_inverse=True)
    sampled = heart_field.sample(volume[needed])
    area = np.empty((len(numbers), *sampled.shape[1:]), np.float32)
    for item, number in enumerate(numbers):
        at = slice(*np.searchsorted(z, [number, number + 1]))
        area[item] = heart_field.splat(np.ones(at.stop - at.start), y[at], x[at])
    area /= heart_field.step_vox[0] * heart_field.step_vox[1]
    coordinates = np.stack([heart_field.coordinates(int(n)) for n in numbers])
    return slice_inputs(sampled[where.reshape(shown.shape)], area, coordinates)


def _spread(
    slice_scores: NDArray[np.floating],
    numbers: NDArray[np.int64],
    slice_of: NDArray[np.int64],
    density: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Share each slice's regressed score among its candidates, by density."""
    row = np.searchsorted(numbers, slice_of)
    total = np.bincount(row, density)
    return np.asarray(density * (slice_scores / np.maximum(total, 1e-12))[row])
