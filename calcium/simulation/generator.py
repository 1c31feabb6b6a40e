"""Semi-synthetic scans: a background, another acquisition, plaques and distractors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calcium.heart_field import HEART_REACH
from calcium.labeled_scan import LabeledScan
from calcium.simulation.background import Background, resample_background
from calcium.simulation.coronaries import BURDEN_SHARES, draw_coronary_plaques
from calcium.simulation.deformation import Deformation
from calcium.simulation.distractors import draw_distractors
from calcium.simulation.inserted import Insert, insert_clouds
from calcium.simulation.physics import Response, correlated_noise, kernel_filter
from calcium.simulation.placement import TissueMap
from registration.geometry import DIRECTION_ATOL, Ellipsoid, ImageGrid, transform_points

FIELD_MM = 192.0
"""In-plane extent of a simulated scan [mm]: the heart field and a margin."""

CARDIAC_SPACINGS_MM = (3.0, 3.0, 3.0, 3.0, 3.0, 2.5, 2.5, 2.0)
"""Slice spacings of cardiac protocols, drawn evenly [mm]."""

CHEST_SPACINGS_MM = (2.0, 2.5, 2.5, 3.0, 3.0, 4.0, 5.0, 5.0)
"""Slice spacings of chest protocols, drawn evenly [mm]."""

MIN_CALCIUM_INCREMENT_HU = 15.0
"""A voxel counts as plaque from this much inserted attenuation on [HU]."""


@dataclass(frozen=True, slots=True)
class Acquisition:
    """How a simulated scan is made.

    Args:
        kind: `"cardiac"` (gated, small pixels) or `"chest"`.
        pixel_mm: In-plane spacing, mm; `None` keeps the background's own grid.
        slice_spacing_mm: Distance between slices, mm.
        response: Blur of the calcium.
        kernel_px: Change of the background's kernel, see `kernel_filter`.
        noise_hu: Added noise, HU.
        noise_correlation_mm: Texture of the added noise, mm.
        motion_mm: Largest smear of plaques by cardiac motion, mm; zero when gated well.
    """

    kind: str
    pixel_mm: float | None
    slice_spacing_mm: float
    response: Response
    kernel_px: float
    noise_hu: float
    noise_correlation_mm: float
    motion_mm: float


@dataclass(frozen=True, slots=True)
class GeneratorOptions:
    """What the generator draws from.

    Args:
        native_share: Share of scans on the background's own grid, undeformed.
        cardiac_share: Share of the others with a cardiac acquisition.
        zero_share: Share of scans without inserted coronary calcium.
        faint_share: Share of plaques with a peak of 130-250 HU.
        burden_shares: Share of patients with plaque per burden, few to many plaques.
        circle_share: Share of cardiac scans blank outside a reconstruction circle.
        deformation_strength: Strength of the change of anatomy, 1 is plausible.
        spline_order: Order of background interpolation, 1 (fast) or 3.
        guessed_courses: Whether plaque is put on courses that the annotator only guessed, too.
    """

    native_share: float = 0.25
    cardiac_share: float = 0.5
    zero_share: float = 0.25
    faint_share: float = 0.5
    burden_shares: tuple[float, ...] = BURDEN_SHARES
    circle_share: float = 0.4
    deformation_strength: float = 1.0
    spline_order: int = 3
    guessed_courses: bool = True


def simulate_scan(
    background: Background,
    heart: Ellipsoid,
    seed: tuple[int, ...],
    options: GeneratorOptions | None = None,
) -> LabeledScan:
    """One semi-synthetic scan, the same for the same seed.

    Args:
        background: Anatomy to start from.
        heart: Heart in the atlas.
        seed: Seed words of the random generator.
        options: What to draw from.

    Returns:
        The scan with its coronary calcium, the background's own included.
    """
    options = options or GeneratorOptions()
    rng = np.random.default_rng(seed)
    acquisition = _draw_acquisition(rng, background, options)
    grid, deformation = _draw_geometry(rng, background, heart, acquisition, options)
    order = 1 if acquisition.pixel_mm is None else options.spline_order
    volume, own, ignored = resample_background(background, grid, deformation, order=order)
    volume = kernel_filter(volume, acquisition.kernel_px)
    atlas_to_scan = np.linalg.inv(deformation.affine) @ background.atlas_to_scan
    anatomy = background.anatomy.mapped(deformation.to_simulated)
    tissue = TissueMap(volume, grid)
    plaques: list[Insert] = []
    if rng.random() >= options.zero_share:
        plaques = draw_coronary_plaques(
            rng,
            anatomy.courses if options.guessed_courses else anatomy.seen_courses,
            tissue,
            faint_share=options.faint_share,
            motion_mm=acquisition.motion_mm,
            burden_shares=options.burden_shares,
        )
    others = draw_distractors(
        rng,
        anatomy,
        tissue,
        heart.unit_matrix(atlas_to_scan),
        motion_mm=acquisition.motion_mm,
    )
    wanted = insert_clouds(volume, grid, plaques, acquisition.response)
    unwanted = insert_clouds(volume, grid, others, acquisition.response)
    noise = correlated_noise(
        grid.shape,
        grid.spacing,
        rng,
        sigma_hu=acquisition.noise_hu,
        correlation_mm=acquisition.noise_correlation_mm,
    )
    coronary = (wanted > MIN_CALCIUM_INCREMENT_HU) & (wanted > unwanted) | own
    shown = np.clip(np.rint(volume + wanted + unwanted + noise), -1024, 3071).astype(np.int16)
    if acquisition.kind == "cardiac" and rng.random() < options.circle_share:
        _blank_outside_circle(rng, shown, grid)
    name = f"{background.name}-{'-'.join(str(word) for word in seed)}"
    return LabeledScan(
        name,
        background.name,
        acquisition.kind,
        shown,
        grid,
        atlas_to_scan,
        coronary,
        ignored & ~coronary,
        anatomy.points(),
    )


def _draw_acquisition(
    rng: np.random.Generator, background: Background, options: GeneratorOptions
) -> Acquisition:
    """Scanner settings; a native scan keeps the background's grid and most of its noise."""
    native = rng.random() < options.native_share
    kind = "cardiac" if not native and rng.random() < options.cardiac_share else "chest"
    if kind == "cardiac":
        pixel, spacing = rng.uniform(0.36, 0.62), float(rng.choice(CARDIAC_SPACINGS_MM))
        motion = rng.uniform(0.0, 1.5)
    else:
        pixel = rng.uniform(0.55, 0.98)
        spacing = float(rng.choice(CHEST_SPACINGS_MM))
        motion = rng.uniform(0.0, 6.0) * (rng.random() < 0.6)
    thickness = spacing * float(rng.choice([1.0, 1.0, 1.0, 1.25]))
    if native:
        thickness = background.slice_thickness_mm
    response = Response(
        in_plane_fwhm_mm=rng.uniform(0.7, 1.5),
        slice_thickness_mm=max(thickness, 0.6),
        slice_edge_fwhm_mm=rng.uniform(0.4, 1.0),
    )
    noise = float(np.exp(rng.uniform(np.log(3.0), np.log(38.0)))) * (rng.random() < 0.8)
    kernel = (
        0.0 if native else float(rng.choice([0.0, rng.uniform(0.3, 1.2), -rng.uniform(0.2, 1)]))
    )
    return Acquisition(
        kind,
        None if native else float(pixel),
        background.grid.spacing[2] if native else spacing,
        response,
        kernel,
        noise * (0.5 if native else 1.0),
        float(rng.uniform(0.4, 0.9)),
        float(motion),
    )


def _draw_geometry(
    rng: np.random.Generator,
    background: Background,
    heart: Ellipsoid,
    acquisition: Acquisition,
    options: GeneratorOptions,
) -> tuple[ImageGrid, Deformation]:
    """Grid around the heart and the change of anatomy that it shows."""
    center = transform_points(background.atlas_to_scan, heart.center_mm)
    half = HEART_REACH * np.linalg.norm(
        background.atlas_to_scan[:3, :3] * np.asarray(heart.radii_mm), axis=1
    )
    if acquisition.pixel_mm is None:
        return _native_part(background.grid, center, half[2]), Deformation.identity()
    deformation = Deformation.random(rng, center, strength=options.deformation_strength)
    half_z = half[2] / abs(deformation.affine[2, 2])
    pixel, spacing = acquisition.pixel_mm, acquisition.slice_spacing_mm
    size = round(FIELD_MM / pixel)
    middle = center + np.array([0.0, 0.0, rng.uniform(-0.5, 0.5) * spacing])
    slices = int(np.ceil(2 * half_z / spacing))
    grid = ImageGrid.centered((size, size, slices), (pixel, pixel, spacing), middle)
    return _covered_part(grid, background, deformation), deformation


def _native_part(grid: ImageGrid, center: NDArray[np.float64], half_z: float) -> ImageGrid:
    """The background's own voxels around the heart; axis-aligned ones like them if it is turned."""
    index = grid.indices(center)
    half = np.array([FIELD_MM / 2, FIELD_MM / 2, half_z]) / np.asarray(grid.spacing)
    low = np.clip(np.ceil(index - half), 0, np.array(grid.size) - 1).astype(int)
    high = np.clip(np.floor(index + half) + 1, low + 1, grid.size).astype(int)
    origin = tuple(grid.physical_points(low).tolist())
    part = replace(grid, size=tuple((high - low).tolist()), origin=origin)
    if np.allclose(grid.direction_matrix, np.eye(3), atol=DIRECTION_ATOL):
        return part
    middle = part.physical_points((np.array(part.size) - 1) / 2)
    return ImageGrid.centered(part.size, part.spacing, middle)


def _covered_part(grid: ImageGrid, background: Background, deformation: Deformation) -> ImageGrid:
    """Drop slices beyond the background's first and last."""
    middle = (np.array(grid.size) - 1) / 2
    index = np.stack([[middle[0], middle[1], k] for k in range(grid.size[2])])
    seen = background.grid.indices(deformation.to_background(grid.physical_points(index)))
    keep = np.flatnonzero((seen[:, 2] >= 0) & (seen[:, 2] <= background.grid.size[2] - 1))
    if len(keep) == 0:
        return grid
    origin = tuple(grid.physical_points([0, 0, int(keep[0])]).tolist())
    return replace(grid, size=(*grid.size[:2], len(keep)), origin=origin)


def _blank_outside_circle(
    rng: np.random.Generator, volume_hu: NDArray[np.int16], grid: ImageGrid
) -> None:
    """Set what lies outside a tight reconstruction circle to air, in place."""
    radius = rng.uniform(82.0, 115.0)
    offset = rng.normal(0.0, 6.0, 2)
    y = (np.arange(grid.size[1]) - (grid.size[1] - 1) / 2) * grid.spacing[1] - offset[1]
    x = (np.arange(grid.size[0]) - (grid.size[0] - 1) / 2) * grid.spacing[0] - offset[0]
    volume_hu[:, y[:, None] ** 2 + x[None] ** 2 > radius**2] = -1024
