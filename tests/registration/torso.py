"""A torso given by a formula, so that any affine change of it is known exactly."""

from __future__ import annotations

import numpy as np

from registration.geometry import Ellipsoid, ImageGrid, transform_points

HEART = Ellipsoid((25.0, -30.0, -10.0), (60.0, 50.0, 55.0))

_PARTS = (
    (Ellipsoid((0.0, 0.0, 0.0), (170.0, 120.0, 260.0)), 40.0),
    (Ellipsoid((-80.0, -5.0, 15.0), (60.0, 85.0, 120.0)), -850.0),
    (Ellipsoid((85.0, 0.0, 15.0), (58.0, 85.0, 120.0)), -850.0),
    (Ellipsoid((10.0, -20.0, 70.0), (32.0, 45.0, 70.0)), 30.0),
    (HEART, 45.0),
    (Ellipsoid((-10.0, 30.0, 40.0), (9.0, 9.0, 60.0)), -900.0),
    (Ellipsoid((0.0, 85.0, 0.0), (22.0, 25.0, 260.0)), 230.0),
    (Ellipsoid((0.0, -108.0, 10.0), (25.0, 8.0, 80.0)), 180.0),
    (Ellipsoid((60.0, -40.0, -120.0), (90.0, 80.0, 45.0)), 60.0),
    (Ellipsoid((-60.0, -30.0, -115.0), (90.0, 85.0, 50.0)), 60.0),
)


def torso_hu(points: np.ndarray) -> np.ndarray:
    """Attenuation [HU] at LPS points (mm), edges about 4 mm wide."""
    hu = np.full(points.shape[:-1], -1000.0)
    for shape, value in _PARTS:
        depth_mm = (1.0 - shape.relative_radius(points)) * min(shape.radii_mm)
        share = np.clip(depth_mm / 4.0 + 0.5, 0.0, 1.0)
        hu = hu * (1.0 - share) + value * share
    return hu


def torso_scan(grid: ImageGrid, atlas_to_scan: np.ndarray | None = None, *, noise_hu: float = 0.0):
    """Scan of the torso whose alignment to the torso itself is `atlas_to_scan`."""
    matrix = np.eye(4) if atlas_to_scan is None else atlas_to_scan
    hu = torso_hu(transform_points(np.linalg.inv(matrix), grid.voxel_points()))
    hu += np.random.default_rng(0).normal(0.0, noise_hu, hu.shape)
    return grid.to_image(np.rint(hu).astype(np.int16))


def oblique_chest_grid(center=(0.0, 0.0, 0.0), size=(100, 90, 70), spacing=(3.6, 3.4, 5.0)):
    """Anisotropic grid, turned by 12 degrees about the table's normal."""
    cosine, sine = np.cos(0.21), np.sin(0.21)
    direction = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    half = (np.array(size) - 1) / 2 * np.array(spacing)
    origin = np.array(center) - direction @ half
    return ImageGrid(size, spacing, tuple(origin.tolist()), tuple(direction.ravel().tolist()))


def small_affine(shift=(0.0, 0.0, 0.0), center=HEART.center_mm):
    """A mild affine about the heart: turned, stretched, sheared, moved; homogeneous."""
    linear = np.array([[1.08, 0.06, -0.03], [-0.09, 0.95, 0.05], [0.02, -0.07, 1.05]])
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = np.array(center) + shift - linear @ np.array(center)
    return matrix


def mean_distance_mm(first, second, region=HEART):
    """Mean distance between where two matrices put the points of a region, mm."""
    points = region.sample_points(15.0)
    apart = transform_points(first, points) - transform_points(second, points)
    return float(np.linalg.norm(apart, axis=1).mean())
