"""The scorer: an aligned scan in, a calcium score and the picture it consists of out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from calcium.calibration import Calibration
from calcium.counting_rule import CountingRule
from calcium.density import Candidates, find_candidates
from calcium.feedback import Decision, decide
from calcium.heart_field import LATTICE_SIZE, HeartField
from calcium.lesions import Lesion, group_lesions
from calcium.networks.predictor import Predictor
from calcium.networks.slice_inputs import slice_inputs
from calcium.networks.slice_regression import slice_scores
from calcium.orientation import Orientation
from calcium.presets import DEFAULT_PRESET, Preset, to_preset
from calcium.territories import VesselAtlas
from registration.geometry import Ellipsoid, ImageGrid, affine_matrix, transform_points

BATCH_SLICES = 16
"""Slices per network call: bounds the memory of the largest scan."""

TILE = 32
"""Boxes shown to the network are whole tiles of so many lattice points."""

MARGIN = 16
"""Least number of lattice points around the candidates of a slice that the network sees."""

Box = tuple[slice, slice]
"""Lattice rows and columns."""

ENTIRE: Box = (slice(0, LATTICE_SIZE), slice(0, LATTICE_SIZE))
"""The whole lattice, which the plain network is shown."""


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
        category_probabilities: Calibrated chance of every risk category; `None` if not
            calibrated.
    """

    agatston: float
    agatston_low: float | None
    agatston_high: float | None
    volume_mm3: float
    lesions: tuple[Lesion, ...]
    preset: str
    feedback: NDArray[np.float32] = field(repr=False)
    category_probabilities: Mapping[str, float] | None = None


class Scorer:
    """Scores scans with one network at the place the atlas gives.

    Args:
        predictor: The network.
        heart: Heart in the atlas.
        preset: Definition of the score.
        decision: What is counted or left at once (additive network only).
        rule: Attention that is needed to count; one half by default.
        calibration: Errors on held-out scans, for intervals; none by default.
        vessels: Courses of the arteries, for territories of lesions; none by default.

    Source:
        Additive direct scoring is own; the plain network follows de Vos et al., IEEE TMI
        2019;38:2127-2138.
    """

    def __init__(
        self,
        predictor: Predictor,
        heart: Ellipsoid,
        *,
        preset: str | Preset = DEFAULT_PRESET,
        decision: Decision = "lesion",
        rule: CountingRule | None = None,
        calibration: Calibration | None = None,
        vessels: VesselAtlas | None = None,
    ) -> None:
        self.predictor = predictor
        self.heart = heart
        self.preset = to_preset(preset)
        self.decision: Decision = decision
        self.rule = rule or CountingRule()
        self.calibration = calibration
        self.vessels = vessels

    @classmethod
    def from_settings(
        cls,
        heart: Ellipsoid,
        settings: Mapping[str, Any],
        weights: Path,
        *,
        preset: str | Preset | None = None,
        vessels: Path | None = None,
    ) -> Scorer:
        """Scorer of a model folder, its network built in code and the weights read.

        Args:
            heart: The heart in the atlas.
            settings: `network` (`"additive"` or `"plain"`), `widths`, and, where they
                differ from the defaults, `members`, `decision`, `preset`, `counting` (see
                `CountingRule`), `calibration` (see `Calibration`), and `heart` (`center_mm` and
                `radii_mm`) if the network was trained with an ellipsoid of its own.
            weights: `.weights.h5` file, already verified.
            preset: Definition of the score; `None` for that of the settings.
            vessels: File of a `VesselAtlas`; `None` leaves lesions without territory.

        Raises:
            ValueError: If a setting is unknown, or the weights do not fit.
            KeyError: If `network` or `widths` is missing.
        """
        return cls(
            Predictor.from_settings(settings, weights),
            Ellipsoid.from_dict(settings["heart"]) if "heart" in settings else heart,
            preset=preset or settings.get("preset", DEFAULT_PRESET),
            decision=settings.get("decision", "lesion"),
            rule=CountingRule.from_dict(settings["counting"]) if "counting" in settings else None,
            calibration=(
                Calibration.from_dict(settings["calibration"])
                if "calibration" in settings
                else None
            ),
            vessels=VesselAtlas.load(vessels) if vessels is not None else None,
        )

    def with_preset(self, preset: str | Preset) -> Scorer:
        """The same scorer under another definition of the score; the network is shared."""
        return Scorer(
            self.predictor,
            self.heart,
            preset=preset,
            decision=self.decision,
            rule=self.rule,
            calibration=self.calibration,
            vessels=self.vessels,
        )

    def score(
        self, image: sitk.Image, atlas_to_scan: sitk.Transform, *, kind: str | None = None
    ) -> ScanScore:
        """Score one scan.

        Args:
            image: Attenuation in HU on the native grid, axial slices.
            atlas_to_scan: Linear pull-back, atlas LPS mm to scan LPS mm.
            kind: `"cardiac"` or `"chest"`, which the interval depends on; without it there is
                none.

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
        agatston = float(contribution.sum())
        calibration = self.calibration
        if kind is None or calibration is None or calibration.preset != self.preset.name:
            interval, chances = None, None
        else:
            interval = calibration.interval(agatston, kind)
            chances = calibration.category_probabilities(agatston, kind)
        low, high = interval or (None, None)
        return ScanScore(
            agatston,
            low,
            high,
            float(flat.size * native.voxel_volume_mm3),
            self._located(group_lesions(counted, value, native), to_unit),
            self.preset.name,
            feedback,
            chances,
        )

    def _located(
        self, lesions: tuple[Lesion, ...], to_unit: NDArray[np.float64]
    ) -> tuple[Lesion, ...]:
        """The lesions with their territories, if the model knows the arteries."""
        if self.vessels is None or not lesions:
            return lesions
        places = transform_points(to_unit, [lesion.center_mm for lesion in lesions])
        names = self.vessels.territories(places)
        return tuple(
            replace(lesion, territory=name) for lesion, name in zip(lesions, names, strict=True)
        )

    def _contributions(
        self, volume: NDArray[Any], heart_field: HeartField, candidates: Candidates
    ) -> NDArray[np.float64]:
        """What each candidate adds, float32-exact, shape `(n,)`."""
        if candidates.flat_index.size == 0:
            return np.zeros(0)
        z, y, x = candidates.index.T
        views = _slice_views(volume, heart_field, candidates)
        if self.predictor.network_name == "plain":
            inputs = np.stack([view.inputs(ENTIRE) for view in views])
            output = self.predictor.predict(inputs, batch_size=BATCH_SLICES)
            value = _spread(slice_scores(output), np.unique(z), z, candidates.density)
        else:
            attention = np.empty(len(z))
            lattice = np.zeros((LATTICE_SIZE, LATTICE_SIZE), np.float32)
            for view, box, image in self._attention(views):
                lattice[:] = 0.0
                lattice[box] = image
                attention[view.at] = heart_field.gather(lattice, y[view.at], x[view.at])
            value = decide(
                attention,
                candidates.density,
                candidates.flat_index,
                candidates.shape,
                self.decision,
                self.rule,
                spacing_mm=heart_field.grid.spacing[::-1],
            )
        return value.astype(np.float32).astype(np.float64)

    def _attention(
        self, views: Sequence[_SliceView]
    ) -> Iterator[tuple[_SliceView, Box, NDArray[np.float32]]]:
        """Attention around the candidates of every slice; equal boxes share a call."""
        groups: dict[tuple[int, ...], list[tuple[_SliceView, Box]]] = {}
        for view in views:
            box = view.box
            shape = tuple(part.stop - part.start for part in box)
            groups.setdefault(shape, []).append((view, box))
        for members in groups.values():
            inputs = np.stack([view.inputs(box) for view, box in members])
            output = self.predictor.predict(inputs, batch_size=BATCH_SLICES)
            for (view, box), image in zip(members, output[..., 0], strict=True):
                yield view, box, image


@dataclass(frozen=True)
class _SliceView:
    """One slice with candidates, on the lattice.

    Args:
        heart_field: Lattice geometry.
        number: Native slice index.
        at: Its candidates.
        context_hu: The slice between its neighbors, HU, shape `(5, 256, 256)`.
        area: Share of each lattice point that is candidate, shape `(256, 256)`.
    """

    heart_field: HeartField
    number: int
    at: slice
    context_hu: NDArray[np.float32]
    area: NDArray[np.float32]

    @property
    def box(self) -> Box:
        """Lattice rows and columns of the candidates with a margin, in whole tiles."""
        bounds = []
        for axis in (1, 0):
            found = np.flatnonzero(self.area.any(axis=axis))
            low, high = (found[0], found[-1]) if found.size else (0, 0)
            first = max(0, (int(low) - MARGIN) // TILE * TILE)
            last = min(LATTICE_SIZE, -(-(int(high) + 1 + MARGIN) // TILE) * TILE)
            bounds.append(slice(first, last))
        return bounds[0], bounds[1]

    def inputs(self, box: Box) -> NDArray[np.float32]:
        """Network input of a part of the lattice, shape `(h, w, 10)`."""
        coordinates = self.heart_field.coordinates(self.number, *box)
        context = self.context_hu[:, box[0], box[1]]
        return slice_inputs(context[None], self.area[box][None], coordinates[None])[0]


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


def _slice_views(
    volume: NDArray[Any], heart_field: HeartField, candidates: Candidates
) -> list[_SliceView]:
    """Every slice with candidates, in order."""
    z, y, x = candidates.index.T
    numbers = np.unique(z)
    first, last = heart_field.slices
    shown = np.clip(numbers[:, None] + heart_field.context_offsets, first, last - 1)
    needed, where = np.unique(shown, return_inverse=True)
    sampled = heart_field.sample(volume[needed])
    pixels_per_point = np.float32(heart_field.step_vox[0] * heart_field.step_vox[1])
    views = []
    for number, context in zip(numbers, where.reshape(shown.shape), strict=True):
        at = slice(*np.searchsorted(z, [number, number + 1]))
        area = heart_field.splat(np.ones(at.stop - at.start), y[at], x[at]) / pixels_per_point
        views.append(_SliceView(heart_field, int(number), at, sampled[context], area))
    return views


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
