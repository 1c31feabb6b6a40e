"""The phantom: a CT volume whose every answer is known."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from pipelines.phantoms import painting
from pipelines.phantoms.acquisition import (
    circle_mask,
    correlated_noise,
    noise_gain,
    resample,
    resample_labels,
)
from pipelines.phantoms.artifacts import add_streaks
from pipelines.phantoms.deposit import HU_PER_HYDROXYAPATITE, Cloud, deposit
from pipelines.phantoms.distractors import METAL, Distractor, sample_distractors
from pipelines.phantoms.marking import mark_truth
from pipelines.phantoms.mediastinum import LABELS
from pipelines.phantoms.plaques import Arteries, Drawn, Plaque, Scene, sample_plaques, target_score
from pipelines.phantoms.rescan import Rescan
from pipelines.phantoms.settings import STANDARD, PhantomSettings
from pipelines.phantoms.shapes import Array
from pipelines.phantoms.subject import Subject, find_landmarks, random_streams, sample_subject
from pipelines.phantoms.truth import Truth
from registration.geometry import ImageGrid

Points = NDArray[np.float64]

METAL_STREAK_HU = 160.0
"""Amplitude of streaks beside leads and wires, HU."""

LOWEST_HU, HIGHEST_HU = -1024, 3071
"""Range of a 12-bit scanner, HU."""


@dataclass(frozen=True, slots=True)
class Phantom:
    """One synthetic CT scan and the truth about it. All points are scanner LPS mm.

    Args:
        kind: `cardiac` or `chest`.
        seed: What it was drawn from; the same seed gives the same phantom.
        population: Name of the settings.
        image: HU, int16.
        calcium_mask: 1 where a reader marks coronary calcium (`agatston-1990`), uint8.
        labels: Organs, uint8; values in `mediastinum.LABELS`.
        landmarks: Named points.
        centerlines: Coronary arteries, one point per mm, shape `(n, 3)` each.
        plaques: Coronary calcium.
        distractors: Calcium and metal elsewhere.
        truth: Reference scores.
        kernel: Reconstruction kernel.
        slice_thickness_mm: Nominal thickness; the spacing is the image's.
        kvp: Tube voltage, kV.
        noise_hu: Noise at the body's middle.
        padding_hu: Value outside the reconstruction circle, `None` if there is tissue.
    """

    kind: str
    seed: int
    population: str
    image: sitk.Image
    calcium_mask: sitk.Image
    labels: sitk.Image
    landmarks: dict[str, tuple[float, ...]]
    centerlines: dict[str, Points]
    plaques: tuple[Plaque, ...]
    distractors: tuple[Distractor, ...]
    truth: Truth
    kernel: str
    slice_thickness_mm: float
    kvp: int
    noise_hu: float
    padding_hu: int | None

    @property
    def grid(self) -> ImageGrid:
        """Grid of image, mask and labels."""
        return ImageGrid.from_image(self.image)


def make_phantom(
    kind: str,
    seed: int,
    *,
    settings: PhantomSettings = STANDARD,
    target_agatston: float | None = None,
) -> Phantom:
    """Make one phantom in memory.

    The intended score steers how much plaque is drawn; the truth is measured afterwards on
    the final noisy image and differs from it by some percent.

    Args:
        kind: `cardiac` for a gated scan with a tight field of view, `chest` for a whole,
            non-gated chest.
        seed: Any non-negative integer.
        settings: Population, matrix and cropping.
        target_agatston: Intended score; drawn from the population if absent.

    Raises:
        ValueError: If the kind is unknown.

    Source:
        Own; anatomy read off non-contrast CT, see the modules of this package.
    """
    patient, background = _draw(kind, seed, settings, target_agatston)
    return _scan(patient, patient.subject, background, patient.plaques, patient.clouds)


@dataclass(frozen=True, slots=True)
class Patient:
    """What a phantom shows, drawn for a first scan, to be scanned again. Scanner LPS mm.

    Args:
        kind: `cardiac` or `chest`.
        seed: What it was drawn from.
        settings: Its population.
        subject: Anatomy, position and acquisition of the first scan.
        plaques: Coronary calcium, with its signal in the first scan.
        distractors: Calcium and metal elsewhere.
        clouds: Their points.
        streaks: Random generator of streak artifacts, not used up.
    """

    kind: str
    seed: int
    settings: PhantomSettings
    subject: Subject
    plaques: tuple[Drawn, ...]
    distractors: tuple[Distractor, ...]
    clouds: tuple[Cloud, ...]
    streaks: np.random.Generator

    @classmethod
    def draw(cls, kind: str, seed: int, settings: PhantomSettings = STANDARD) -> Patient:
        """The patient of `make_phantom(kind, seed, settings=settings)`."""
        return _draw(kind, seed, settings, None)[0]

    def scan(self, change: Rescan) -> Phantom:
        """The same anatomy, calcium and metal under another acquisition, other noise included.

        Args:
            change: What is different from the first scan.
        """
        subject = change.apply(self.subject)
        factor = HU_PER_HYDROXYAPATITE[subject.kvp] / HU_PER_HYDROXYAPATITE[self.subject.kvp]
        plaques = []
        for drawn in self.plaques:
            cloud = change.moved(drawn.cloud, factor, self.subject)
            plaques.append(replace(drawn, cloud=cloud, patches=deposit(cloud, subject.sampling)))
        clouds = [
            change.moved(c, 1.0 if d.kind in METAL else factor, self.subject)
            for d, c in zip(self.distractors, self.clouds, strict=True)
        ]
        background = _paint(self.kind, self.seed, self.settings, subject)
        return _scan(self, subject, background, tuple(plaques), tuple(clouds), change.noise_seed)


@dataclass(frozen=True, slots=True)
class _Background:
    """A scan without calcium and noise: HU, organs, and coronary centerlines."""

    hu: Array
    labels: NDArray[np.uint8]
    lines: dict[str, Points]


def _paint(kind: str, seed: int, settings: PhantomSettings, subject: Subject) -> _Background:
    """A subject on its final grid."""
    texture_rng = random_streams(seed, kind, settings.name)[3]
    canvas, lines = painting.paint_subject(subject, kind, settings, texture_rng)
    sampling = subject.sampling
    return _Background(resample(canvas, sampling), resample_labels(canvas, sampling.grid), lines)


def _draw(
    kind: str, seed: int, settings: PhantomSettings, target_agatston: float | None
) -> tuple[Patient, _Background]:
    """A patient, and the background of the first scan, which plaques were drawn into."""
    rng, calcium_rng, other_rng, *_ = random_streams(seed, kind, settings.name)
    subject = sample_subject(kind, settings, rng)
    background = _paint(kind, seed, settings, subject)
    arteries = Arteries(background.lines, subject.motion_mm, subject.kvp)
    scene = Scene(arteries, subject.sampling, background.hu)
    drawn = target_score(calcium_rng, settings.calcium)
    target = drawn if target_agatston is None else target_agatston
    plaques = sample_plaques(scene, settings.calcium, target, calcium_rng)
    others = sample_distractors(
        subject.heart, subject.thorax, settings.calcium, subject.kvp, subject.pose.to_scanner,
        other_rng,
    )  # fmt: skip
    distractors, clouds = tuple(d for d, _ in others), tuple(c for _, c in others)
    patient = Patient(
        kind, int(seed), settings, subject, tuple(plaques), distractors, clouds, other_rng
    )
    return patient, background


def _scan(
    patient: Patient,
    subject: Subject,
    background: _Background,
    plaques: tuple[Drawn, ...],
    clouds: tuple[Cloud, ...],
    noise_seed: int | None = None,
) -> Phantom:
    """Put calcium, artifacts and noise into a background, and mark the truth; consumes it."""
    noise_rng = random_streams(patient.seed, patient.kind, patient.settings.name)[4]
    if noise_seed is not None:
        noise_rng = np.random.default_rng([patient.seed, noise_seed])
    hu, labels, sampling = background.hu, background.labels, subject.sampling
    coronary = [patch for drawn in plaques for patch in drawn.patches]
    other = [patch for cloud in clouds for patch in deposit(cloud, sampling)]
    for patch in (*coronary, *other):
        hu[patch.box] += patch.hu
    metal = [c for d, c in zip(patient.distractors, clouds, strict=True) if d.kind in METAL]
    _add_artifacts(hu, patient.kind, subject, plaques, metal, copy.deepcopy(patient.streaks))
    image = _finish(hu, subject, labels, noise_rng)
    found = [drawn.plaque for drawn in plaques]
    grid = sampling.grid
    mask, truth = mark_truth(image, grid, coronary, other, labels, found, background.lines)
    return Phantom(
        patient.kind, patient.seed, patient.settings.name, grid.to_image(image),
        grid.to_image(mask), grid.to_image(labels), find_landmarks(subject, background.lines),
        background.lines, tuple(found), patient.distractors, truth, sampling.kernel.name,
        sampling.slice_thickness_mm, subject.kvp, subject.noise_hu, subject.padding_hu,
    )  # fmt: skip


def _add_artifacts(
    hu: Array,
    kind: str,
    subject: Subject,
    plaques: tuple[Drawn, ...],
    metal: list[Cloud],
    rng: np.random.Generator,
) -> None:
    """Streaks of metal, and of dense plaque that moved during a non-gated exposure."""
    for cloud in metal:
        add_streaks(hu, cloud, subject.sampling, METAL_STREAK_HU, rng)
    motion = float(np.linalg.norm(subject.motion_mm))
    for drawn in plaques:
        if kind == "chest" and drawn.plaque.peak_hu > 250:
            strength = 0.02 * min(motion, 5.0) * min(drawn.plaque.peak_hu, 800.0)
            add_streaks(hu, drawn.cloud, subject.sampling, strength, rng)


def _finish(
    hu: Array, subject: Subject, labels: NDArray[np.uint8], rng: np.random.Generator
) -> NDArray[np.int16]:
    """Add noise, round, clip and pad; consumes `hu`."""
    grid = subject.sampling.grid
    strength = _noise_map(subject)
    outside = circle_mask(grid) if subject.padding_hu is not None else None
    image = np.empty(grid.shape, np.int16)
    gain = noise_gain(grid.shape[1:], grid.spacing[0], subject.sampling.kernel)
    for k in range(grid.shape[0]):
        noise = correlated_noise(rng, grid.shape[1:], gain)
        slice_hu = hu[k] + noise * strength
        image[k] = np.clip(np.rint(slice_hu), LOWEST_HU, HIGHEST_HU).astype(np.int16)
        if outside is not None:
            image[k][outside] = subject.padding_hu
    return image


def _noise_map(subject: Subject) -> Array:
    """Standard deviation of the noise in a slice: highest in the middle of the body."""
    grid = subject.sampling.grid
    middle = subject.pose.to_scanner(np.array([[0.0, 0.0, -60.0]]))[0]
    x = grid.origin[0] + grid.spacing[0] * np.arange(grid.size[0]) - middle[0]
    y = grid.origin[1] + grid.spacing[1] * np.arange(grid.size[1]) - middle[1]
    radius2 = (x[None] / 210) ** 2 + (y[:, None] / 150) ** 2
    result: Array = (subject.noise_hu * (0.45 + 0.6 * np.exp(-radius2))).astype(np.float32)
    return result


__all__ = ["LABELS", "Phantom", "make_phantom"]
