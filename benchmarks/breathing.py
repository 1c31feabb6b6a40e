"""Chest phantoms that breathe by a known motion, and landmarks in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from phantom_chests import make_chest
from registration_pairs import LabeledPair

from registration.geometry import ImageGrid

DESCENT_MM = (22.0, 30.0)
"""Range of the diaphragm's descent."""

FORWARD_MM = (3.0, 6.0)
"""Range of the forward motion of the front chest wall."""

NOISE_HU = 15.0
"""Standard deviation of fresh noise in the breathed image: the first image's moves with it."""

LANDMARKS = 100
"""Landmarks per phantom."""

GRADIENT_PERCENTILE = 90.0
"""Landmarks lie in lung tissue where the gradient is above this percentile."""

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Breath:
    """Displacement of tissue on breathing in, smooth, without sliding at the pleura.

    Args:
        top_mm: Height (LPS z) above which the lungs do not descend.
        depth_mm: Length below `top_mm` over which the descent grows to its full size.
        descent_mm: Downward motion at the diaphragm.
        forward_mm: Forward motion at the front wall.
        center: Middle of the chest (x, y), mm.
        radii: Half axes (x, y) of the ellipse within which tissue moves, mm.
    """

    top_mm: float
    depth_mm: float
    descent_mm: float
    forward_mm: float
    center: tuple[float, float]
    radii: tuple[float, float]

    def inhaled(self, points: Points) -> Points:
        """Where points of the first image lie after breathing in, LPS mm, `(..., 3)`."""
        down = _smooth_step((self.top_mm - points[..., 2]) / self.depth_mm)
        offset = (points[..., :2] - self.center) / self.radii
        inside = _smooth_step((1.25 - np.linalg.norm(offset, axis=-1)) / 0.5)
        front = _smooth_step(0.5 - points[..., 1] / (2 * self.radii[1]))
        moved = np.array(points, dtype=float)
        moved[..., 2] -= self.descent_mm * down * inside
        moved[..., 1] -= self.forward_mm * front * inside
        return moved


def breathing_pair(seed: int, cache: Path) -> tuple[LabeledPair, Points, Points]:
    """A chest breathed out (fixed) and in (moving), with landmarks in both.

    Returns:
        The pair, labeled lungs; fixed landmarks; moving landmarks, LPS mm, shape `(n, 3)`.
    """
    image, lungs = make_chest(seed, {"lungs": ("lung",)}, cache)
    rng = np.random.default_rng([seed, 1])
    breath = _draw_breath(lungs, rng)
    grid = ImageGrid.from_image(image)
    back = _exhaled_field(breath, grid)
    inhaled = sitk.Resample(image, image, back, sitk.sitkLinear, -1000.0)
    noise = rng.normal(0.0, NOISE_HU, grid.shape).astype(np.float32)
    noisy = grid.to_image(sitk.GetArrayFromImage(inhaled) + noise)
    labels = sitk.Resample(lungs, lungs, back, sitk.sitkNearestNeighbor, 0)
    fixed_points = _landmarks(image, lungs, rng)
    pair = LabeledPair(f"chest-{seed}", image, noisy, lungs, labels)
    return pair, fixed_points, breath.inhaled(fixed_points)


def _draw_breath(lungs: sitk.Image, rng: np.random.Generator) -> Breath:
    grid = ImageGrid.from_image(lungs)
    points = grid.voxel_points()[sitk.GetArrayViewFromImage(lungs) > 0]
    low, high = np.percentile(points, (1.0, 99.0), axis=0)
    return Breath(
        top_mm=float(high[2]),
        depth_mm=float(high[2] - low[2]),
        descent_mm=float(rng.uniform(*DESCENT_MM)),
        forward_mm=float(rng.uniform(*FORWARD_MM)),
        center=(float(low[0] + high[0]) / 2, float(low[1] + high[1]) / 2),
        radii=(float(high[0] - low[0]) / 2, float(high[1] - low[1]) / 2),
    )


def _exhaled_field(breath: Breath, grid: ImageGrid) -> sitk.DisplacementFieldTransform:
    """Pull-back from inhaled to first points: the motion inverted by fixed-point iteration."""
    points = grid.voxel_points()
    origin = points.copy()
    for _ in range(30):
        origin = origin - (breath.inhaled(origin) - points)
    image = sitk.GetImageFromArray(origin - points, isVector=True)
    image.CopyInformation(grid.empty_image())
    return sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64))


def _landmarks(image: sitk.Image, lungs: sitk.Image, rng: np.random.Generator) -> Points:
    """Voxels of the lungs with steep gradients: vessels, bronchi, fissures of the phantom."""
    inner = sitk.GetArrayFromImage(sitk.BinaryErode(lungs, (2, 2, 2)))
    gradient = sitk.GetArrayFromImage(sitk.GradientMagnitude(image))
    steep = gradient > np.percentile(gradient[inner > 0], GRADIENT_PERCENTILE)
    candidates = ImageGrid.from_image(image).voxel_points()[(inner > 0) & steep]
    chosen = rng.choice(len(candidates), size=min(LANDMARKS, len(candidates)), replace=False)
    return np.asarray(candidates[chosen])


def _smooth_step(values: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(values, 0.0, 1.0)
    return np.asarray(clipped * clipped * (3.0 - 2.0 * clipped))
