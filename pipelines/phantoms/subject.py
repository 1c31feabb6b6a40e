"""One subject: everything drawn at random before anything is painted."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.phantoms.acquisition import KERNELS, Sampling
from pipelines.phantoms.heart import CORONARY_KNOTS, HEART_CENTER, ROOT, Heart
from pipelines.phantoms.mediastinum import AIRWAY_KNOTS, sac_distance
from pipelines.phantoms.pose import Pose
from pipelines.phantoms.settings import KINDS, PhantomSettings
from pipelines.phantoms.thorax import Thorax
from registration.geometry import ImageGrid

Points = NDArray[np.float64]


HEART_OFFSET_MM = np.array([8.0, 4.0, 1.0])
"""Mean place of the heart relative to the one that `heart` describes."""


WALL_GAP_MM = 2.0
"""Least distance between the pericardium and the front chest wall."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Anatomy, position and acquisition of one phantom.

    Args:
        heart: The heart, anatomy frame.
        thorax: The chest, anatomy frame.
        pose: Anatomy frame to scanner.
        sampling: Final grid and blur.
        blood_hu: Attenuation of blood.
        muscle_hu: Attenuation of heart muscle.
        noise_hu: Standard deviation at the body's middle on the final grid.
        kvp: Tube voltage, kV.
        motion_mm: Motion of the heart during one exposure, scanner axes, shape `(3,)`.
        padding_hu: Value outside the reconstruction circle, `None` if it is not padded.
    """

    heart: Heart
    thorax: Thorax
    pose: Pose
    sampling: Sampling
    blood_hu: float
    muscle_hu: float
    noise_hu: float
    kvp: int
    motion_mm: Points
    padding_hu: int | None


def random_streams(seed: int, kind: str, name: str) -> list[np.random.Generator]:
    """Independent generators for subject, plaques, distractors, texture and noise."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}. Received: {kind!r}")
    salt = zlib.crc32(f"{kind}/{name}".encode())
    children = np.random.SeedSequence([int(seed), salt]).spawn(5)
    return [np.random.default_rng(child) for child in children]


def sample_subject(kind: str, settings: PhantomSettings, rng: np.random.Generator) -> Subject:
    """Draw one subject."""
    heart, thorax = _sample_heart(settings, rng), _sample_thorax(settings, rng)
    heart = _behind_the_sternum(heart, thorax)
    a, acquisition = settings.anatomy, settings.acquisition
    scale = rng.uniform(*a.body_scale) * rng.uniform(*a.axis_scale, 3)
    offset = np.array([rng.uniform(-15, 15), rng.uniform(-190, -60), rng.uniform(-1200, 200)])
    roll, warp = rng.uniform(-a.roll_deg, a.roll_deg), rng.uniform(*a.warp_mm)
    pose = Pose.sample(rng, scale=scale, roll_deg=roll, warp_mm=warp, offset=offset)
    sampling = _sample_sampling(kind, settings, heart, thorax, pose, rng)
    blood = rng.uniform(*a.blood_hu)
    muscle = 45.0 + rng.uniform(-3, 6)
    body = float(scale[0] * (1 + (thorax.fat_mm - 15) / 80))
    thin = np.sqrt(3.0 / sampling.slice_thickness_mm)
    noise = rng.uniform(*acquisition.noise_hu) * body**2 * sampling.kernel.noise_factor * thin**0.7
    amplitude = acquisition.gated_motion_mm if kind == "cardiac" else acquisition.motion_mm
    direction = rng.normal(size=3) * (1.0, 1.0, 0.7)
    motion = direction / np.linalg.norm(direction) * rng.uniform(*amplitude)
    padding = int(rng.choice([-2000, -1024])) if rng.random() < acquisition.padding else None
    kvp = int(rng.choice(acquisition.kvp))
    return Subject(heart, thorax, pose, sampling, blood, muscle, float(noise), kvp, motion, padding)


def _sample_heart(settings: PhantomSettings, rng: np.random.Generator) -> Heart:
    a = settings.anatomy
    angles = np.deg2rad(rng.uniform(-1, 1, 3) * a.heart_rotation_deg)
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [k for k in range(3) if k != axis]
        step = np.eye(3)
        step[i, i] = step[j, j] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        turn = step @ turn
    stretch = rng.uniform(*a.heart_scale) * rng.uniform(0.95, 1.05, 3)
    shift = HEART_OFFSET_MM + rng.uniform(-1, 1, 3) * a.heart_shift_mm
    low, high = a.epicardial_fat_mm
    fat = low + (high - low) * rng.beta(1.2, 1.8)
    sizes = rng.uniform(0.92, 1.1, 4)
    return Heart(
        turn @ np.diag(stretch), shift, float(rng.uniform(*a.aorta_radius_mm)), float(fat),
        (float(sizes[0]), float(sizes[1]), float(sizes[2]), float(sizes[3])),
    )  # fmt: skip


def _behind_the_sternum(heart: Heart, thorax: Thorax) -> Heart:
    """Move a heart that would push through the front chest wall back until it fits."""
    axes = [np.linspace(a, b, 15) for a, b in zip(*heart.bounds(4.0), strict=True)]
    x, y, z = (c.ravel().astype(np.float32) for c in np.meshgrid(*axes))
    sac = sac_distance(heart, (x, y, z))
    beyond = thorax.cavity((x, y, z)) - np.maximum(sac, -8.0)
    ahead = (sac < 4.0) & (y < heart.shift[1] + HEART_CENTER[1])
    excess = float(np.max(beyond[ahead], initial=-WALL_GAP_MM)) + WALL_GAP_MM
    back = np.array([0.0, np.clip(excess, 0.0, 30.0), 0.0])
    return replace(heart, shift=heart.shift + back)


def _sample_thorax(settings: PhantomSettings, rng: np.random.Generator) -> Thorax:
    a = settings.anatomy
    low, high = a.fat_mm
    female = bool(rng.random() < a.female)
    fluid = [float(rng.uniform(8, 45)) if rng.random() < a.effusion else 0.0 for _ in range(2)]
    return Thorax(
        fat_mm=float(low + (high - low) * rng.beta(1.3, 2.2)),
        muscle=float(rng.uniform(0.7, 1.3)),
        depth=float(rng.uniform(0.94, 1.08)),
        diaphragm_mm=float(rng.uniform(*a.diaphragm_shift_mm)),
        female=female,
        breast_mm=float(rng.uniform(6, 34)),
        lung_hu=float(rng.uniform(*a.lung_hu)),
        emphysema=float(rng.uniform(0.3, 1.2)) if rng.random() < a.emphysema else 0.0,
        effusion_mm=(fluid[0], fluid[1]),
        marrow_hu=float(rng.uniform(80, 220)),
    )


def _sample_sampling(
    kind: str, settings: PhantomSettings, heart: Heart, thorax: Thorax, pose: Pose,
    rng: np.random.Generator,
) -> Sampling:  # fmt: skip
    acquisition = settings.acquisition
    kernel = KERNELS[str(rng.choice(acquisition.kernels))]
    low, high = (pose.to_scanner(np.stack(heart.bounds(0.0))) for _ in range(1)).__next__()
    middle = pose.to_scanner(heart.place(HEART_CENTER)[None])[0]
    if kind == "cardiac":
        spacing = float(rng.choice(acquisition.slice_spacing_mm))
        fov = float(rng.uniform(*acquisition.fov_mm))
        center = middle + np.array([rng.uniform(-12, 12), rng.uniform(-2, 20), 0])
        top = high[2] + rng.uniform(-2, 22)
        bottom = low[2] - rng.uniform(2, 20)
    else:
        spacing = float(rng.choice(acquisition.chest_slice_spacing_mm))
        fov = float(rng.uniform(*acquisition.chest_fov_mm))
        body = pose.to_scanner(np.array([[0.0, 0.0, -40.0]]))[0]
        center = body + np.array([rng.uniform(-12, 12), rng.uniform(-10, 15), 0])
        ends = pose.to_scanner(
            np.array([[0, 0, rng.uniform(90, 125)], [0, 0, rng.uniform(-225, -170)]])
        )
        top, bottom = float(ends[0, 2]), float(ends[1, 2])
    if settings.heart_crop_mm is not None:
        fov, center = settings.heart_crop_mm, middle
        top, bottom = middle[2] + fov / 2, middle[2] - fov / 2
    count = int(np.ceil((top - bottom) / spacing))
    start = bottom + rng.uniform(0, spacing)
    center = np.array([center[0], center[1], start + (count - 1) * spacing / 2])
    pixel = fov / settings.matrix
    grid = ImageGrid.centered(
        (settings.matrix, settings.matrix, count), (pixel, pixel, spacing), center
    )
    thickness = spacing * float(rng.choice(acquisition.thickness_factors))
    return Sampling(rounded_grid(grid), kernel, thickness)


def rounded_grid(grid: ImageGrid) -> ImageGrid:
    """The grid as DICOM's decimal strings can hold it."""
    spacing = tuple(round(s, 6) for s in grid.spacing)
    origin = tuple(round(o, 4) for o in grid.origin)
    return ImageGrid(grid.size, spacing, origin)


def find_landmarks(subject: Subject, lines: dict[str, Points]) -> dict[str, tuple[float, ...]]:
    """Named points in scanner LPS mm."""
    heart, pose = subject.heart, subject.pose
    corners = {
        "aortic_root": heart.place(ROOT),
        "heart_center": heart.place(HEART_CENTER),
        "left_main_bronchus": np.array(AIRWAY_KNOTS["left_main"]).T @ (0.0, 0.7, 0.3, 0.0),
        "carina": np.zeros(3),
        "apex": _farthest(heart, (72.0, -76.0, -114.0), (0.61, -0.59, -0.53)),
        "left_heart_border": _farthest(heart, (70.0, -42.0, -84.0), (1.0, 0.0, 0.0)),
        "right_heart_border": _farthest(heart, (-45.0, -44.0, -80.0), (-1.0, 0.0, 0.0)),
        "sternum_lower": np.array([0.0, float(subject.thorax.front(-60.0)), -60.0]),
        "vertebra": np.array([0.0, float(subject.thorax.spine(-60.0)), -60.0]),
    }
    points = {name: pose.to_scanner(p[None])[0] for name, p in corners.items()}
    points["lm_ostium"], points["rca_ostium"] = lines["LM"][0], lines["RCA"][0]
    return {name: tuple(float(v) for v in p) for name, p in points.items()}


def _farthest(heart: Heart, start: tuple[float, ...], direction: tuple[float, ...]) -> Points:
    """Point of the heart's outer surface beyond `start` along a direction, anatomy frame."""
    inside = heart.place(np.array(start)) - 12.0 * np.array(direction)
    steps = inside + np.arange(0, 45, 0.5)[:, None] * np.array(direction)
    x, y, z = steps.T.astype(np.float32)
    outside = np.flatnonzero(heart.surface((x, y, z)) > 0)
    result: Points = steps[int(outside[0])] if len(outside) else steps[-1]
    return result


CORONARIES = tuple(CORONARY_KNOTS)
"""Names of the coronary arteries drawn."""
