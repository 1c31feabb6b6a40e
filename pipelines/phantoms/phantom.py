"""The phantom: a CT volume whose every answer is known."""

from __future__ import annotations

from dataclasses import dataclass

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
from pipelines.phantoms.deposit import Cloud, Patch, deposit
from pipelines.phantoms.distractors import Distractor, sample_distractors
from pipelines.phantoms.marking import mark_truth
from pipelines.phantoms.mediastinum import LABELS
from pipelines.phantoms.plaques import Arteries, Drawn, Plaque, Scene, sample_plaques, target_score
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
    rng, calcium_rng, other_rng, texture_rng, noise_rng = random_streams(seed, kind, settings.name)
    subject = sample_subject(kind, settings, rng)
    canvas, lines = painting.paint_subject(subject, kind, settings, texture_rng)
    sampling = subject.sampling
    hu = resample(canvas, sampling)
    labels = resample_labels(canvas, sampling.grid)
    del canvas

    scene = Scene(Arteries(lines, subject.motion_mm, subject.kvp), sampling, hu)
    drawn = target_score(calcium_rng, settings.calcium)
    target = drawn if target_agatston is None else target_agatston
    plaques = sample_plaques(scene, settings.calcium, target, calcium_rng)
    others = sample_distractors(
        subject.heart, subject.thorax, settings.calcium, subject.kvp, subject.pose.to_scanner,
        other_rng,
    )  # fmt: skip
    coronary = [patch for drawn in plaques for patch in drawn.patches]
    other = _deposit_all([cloud for _, cloud in others], subject)
    for patch in (*coronary, *other):
        hu[patch.box] += patch.hu
    _add_artifacts(hu, kind, subject, plaques, others, other_rng)
    image = _finish(hu, subject, labels, noise_rng)
    found = [drawn.plaque for drawn in plaques]
    mask, truth = mark_truth(image, sampling.grid, coronary, other, labels, found, lines)
    grid = sampling.grid
    return Phantom(
        kind, int(seed), settings.name, grid.to_image(image), grid.to_image(mask),
        grid.to_image(labels), find_landmarks(subject, lines), lines, tuple(found),
        tuple(d for d, _ in others), truth, sampling.kernel.name, sampling.slice_thickness_mm,
        subject.kvp, subject.noise_hu, subject.padding_hu,
    )  # fmt: skip


def _add_artifacts(
    hu: Array,
    kind: str,
    subject: Subject,
    plaques: list[Drawn],
    others: list[tuple[Distractor, Cloud]],
    rng: np.random.Generator,
) -> None:
    """Streaks of metal, and of dense plaque that moved during a non-gated exposure."""
    for distractor, cloud in others:
        if distractor.kind in ("lead", "wires"):
            add_streaks(hu, cloud, subject.sampling, METAL_STREAK_HU, rng)
    motion = float(np.linalg.norm(subject.motion_mm))
    for drawn in plaques:
        if kind == "chest" and drawn.plaque.peak_hu > 250:
            strength = 0.02 * min(motion, 5.0) * min(drawn.plaque.peak_hu, 800.0)
            add_streaks(hu, drawn.cloud, subject.sampling, strength, rng)


def _deposit_all(clouds: list[Cloud], subject: Subject) -> list[Patch]:
    return [patch for cloud in clouds for patch in deposit(cloud, subject.sampling)]


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
