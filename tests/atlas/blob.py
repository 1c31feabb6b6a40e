"""Subjects of a known shape: one blob with parts, seen through known affine maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from atlas.builder import AtlasBuilder
from atlas.member import prepare_member, write_member
from atlas.settings import AtlasSettings, Stage
from atlas.work_folder import WorkFolder
from registration.geometry import ImageGrid

SPACING_MM = 3.0
AFFINE_STAGES = (Stage("rigid", 1), Stage("affine", 2))

_PARTS = (
    ((0.0, 0.0, 0.0), (30.0, 24.0, 20.0), 500.0),
    ((12.0, -6.0, 4.0), (9.0, 6.0, 8.0), 400.0),
    ((-13.0, 5.0, -5.0), (6.0, 9.0, 5.0), -350.0),
    ((2.0, 12.0, 9.0), (5.0, 4.0, 6.0), 300.0),
)
"""Middle (mm), radii (mm) and brightness of each part."""


def intensity(points: np.ndarray) -> np.ndarray:
    """Brightness of the blob at its own points, LPS mm, `(..., 3)` to `(...)`."""
    total = np.zeros(points.shape[:-1])
    for center, radii, value in _PARTS:
        radius = np.linalg.norm((points - center) / np.array(radii), axis=-1)
        total += value / (1.0 + np.exp(8.0 * (radius - 1.0)))
    return total


def oblique_grid(matrix: np.ndarray, size=(36, 26, 22), spacing=(2.4, 3.2, 3.4)) -> ImageGrid:
    """An oblique, anisotropic grid about where a map puts the middle of the blob."""
    turn = np.radians(7.0)
    direction = np.array(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    )
    half = (np.array(size) - 1) / 2 * np.array(spacing)
    origin = matrix[:3, 3] - direction @ half
    return ImageGrid(size, spacing, tuple(origin.tolist()), tuple(direction.ravel().tolist()))


def subject(matrix: np.ndarray, grid: ImageGrid | None = None, seed: int = 0) -> sitk.Image:
    """The blob seen through a map from its own points to those of the image."""
    grid = grid or oblique_grid(matrix)
    backward = np.linalg.inv(matrix)
    points = grid.voxel_points() @ backward[:3, :3].T + backward[:3, 3]
    noise = np.random.default_rng(seed).normal(0.0, 8.0, grid.shape)
    return grid.to_image((intensity(points) + noise + 50.0).astype(np.float32))


def known_maps() -> list[np.ndarray]:
    """Six maps in pairs of opposite changes, so that their mean linear part is the identity."""
    changes = (
        np.diag([0.09, -0.06, 0.05]),
        np.array([[0.0, -0.1, 0.03], [0.1, 0.0, -0.05], [-0.03, 0.05, 0.0]]),
        np.array([[0.03, 0.05, 0.0], [0.02, -0.05, 0.04], [0.0, -0.03, 0.05]]),
    )
    maps = []
    for number, change in enumerate(c * sign for c in changes for sign in (1.0, -1.0)):
        matrix = np.eye(4)
        matrix[:3, :3] += change
        matrix[:3, 3] = (40.0 * number, -25.0, 200.0 + 30.0 * number)
        maps.append(matrix)
    return maps


def prepare_all(images: dict[str, sitk.Image], folder: Path) -> WorkFolder:
    """Working files with these subjects prepared."""
    work = WorkFolder(folder / "work")
    for name, image in images.items():
        member = prepare_member(image, modality="other", spacing_mm=SPACING_MM)
        write_member(member, work.member(name))
    return work


def build(images: dict[str, sitk.Image], folder: Path, held_out=frozenset(), **changes):
    """The finished build, and the builder."""
    work = prepare_all(images, folder)
    changes = {"stages": AFFINE_STAGES, **changes}
    settings = AtlasSettings(modality="other", spacing_mm=SPACING_MM, **changes)
    builder = AtlasBuilder(work, list(images), held_out, settings, report=lambda line: None)
    return builder.build(), builder


def cohort(global_map: np.ndarray | None = None) -> dict[str, sitk.Image]:
    """Six subjects; a global map moves them all, images and contents."""
    images = {}
    for number, matrix in enumerate(known_maps()):
        moved = matrix if global_map is None else global_map @ matrix
        grid = oblique_grid(matrix)
        if global_map is not None:
            turned = global_map[:3, :3] @ grid.direction_matrix
            origin = global_map[:3, :3] @ np.array(grid.origin) + global_map[:3, 3]
            grid = ImageGrid(
                grid.size, grid.spacing, tuple(origin.tolist()), tuple(turned.ravel().tolist())
            )
        images[f"s{number}"] = subject(moved, grid, seed=number)
    return images


def correlation(first, second) -> float:
    """Of two means where both can be trusted, the second resampled onto the first."""
    reference = first.grid.empty_image(sitk.sitkUInt8)
    values, valid = (
        sitk.GetArrayFromImage(sitk.Resample(image, reference, sitk.Transform(), sitk.sitkLinear))
        for image in (second.image(), second.valid_image())
    )
    both = first.valid & (valid > 0.99)
    return float(np.corrcoef(first.values[both], values[both])[0, 1])
