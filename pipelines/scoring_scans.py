"""Labeled scans that scoring learns from: simulated in annotated CT, and phantoms.

Scans are made by several processes and kept in a cache folder, under names that change with
whatever they are made of; tasks hold paths.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
import SimpleITK as sitk

from calcium.anatomy_maps import AnatomyPoints
from calcium.labeled_scan import LabeledScan
from calcium.lattice_scan import LatticeScan, lattice_scan, load_lattice_scan, save_lattice_scan
from calcium.orientation import Orientation
from calcium.simulation.anatomy import Anatomy
from calcium.simulation.annotations import component_masks, read_annotations
from calcium.simulation.background import Background
from calcium.simulation.generator import GeneratorOptions, simulate_scan
from calcium.territories import VesselAtlas
from pipelines.discovery import SeriesCandidate, find_series
from pipelines.phantoms import STANDARD, VARIED, make_phantom
from pipelines.phantoms.settings import KINDS, PhantomSettings
from pipelines.reading import read_scan
from pipelines.run import scan_kind
from pipelines.scoring_scan_keys import alignment_digest, background_digest, digest_of
from pipelines.source_names import names_in_source
from pipelines.workers import Work
from registration.geometry import Ellipsoid, ImageGrid, affine_matrix, transform_points

if TYPE_CHECKING:
    from registration.alignment import ReferenceAligner

LOGGER = logging.getLogger(__name__)

FIRST_TRAINING_PHANTOM = 1_000_000
"""Phantom seeds from here on are for training; benchmarks stay below."""

FIRST_VALIDATION_PHANTOM = 1_900_000
"""Phantom seeds from here on validate a training and choose its counting rule."""

PHANTOM_GROUP = "phantom"
"""Begin of the group that every phantom is."""

SCORING_OFFSET_MM = (1.5, -13.0, -4.0)
"""From the middle of the alignment's region to that of seven annotated heart boxes [mm]."""

SCORING_RADII_MM = (74.0, 66.0, 64.0)
"""Half axes that hold 95 % of the annotated coronary courses within 1.2 radii [mm]."""

Matrix = tuple[tuple[float, ...], ...]
"""Homogeneous matrix as nested tuples, so that tasks are values."""


@dataclass(frozen=True, slots=True)
class BackgroundSource:
    """An annotated scan on disk, aligned.

    Args:
        name: Name of its annotation.
        candidate: Its files.
        annotations: Folder of annotation files.
        atlas_to_scan: Homogeneous matrix from atlas to scan, LPS mm.
    """

    name: str
    candidate: SeriesCandidate
    annotations: Path
    atlas_to_scan: Matrix

    def read(self) -> Background:
        """The scan with what is known of its anatomy, axes along (S, P, L).

        Raises:
            ValueError: If the annotation does not fit the scan, or its slices are not axial.
        """
        annotation = read_annotations(self.annotations)[self.name]
        scan = read_scan(self.candidate)
        stored = sitk.GetArrayFromImage(scan.image)
        # boxes of an annotation are indices into the array as it is stored
        masks = component_masks(annotation, stored)
        orientation = Orientation.of(scan.grid)
        volume, coronary, unknown = (orientation.apply(a) for a in (stored, *masks))
        return Background(
            self.name,
            volume,
            orientation.grid,
            np.array(self.atlas_to_scan),
            Anatomy.from_annotation(annotation),
            coronary,
            unknown,
            scan.acquisition.slice_thickness_mm or scan.slice_spacing_mm,
        )


def find_backgrounds(
    folders: Sequence[Path], annotations: Path, aligner: ReferenceAligner
) -> Iterator[BackgroundSource]:
    """Annotated scans of some folders, aligned to the atlas.

    A scan belongs to the annotation that is named as the scan's file, with or without suffix,
    or as a folder on the way to it, the given one included.

    Args:
        folders: Folders, archives or files with CT.
        annotations: Folder of annotation files.
        aligner: Finds the heart.

    Raises:
        ValueError: If an annotation fits several scans, or a scan several annotations; at the
            first scan that is asked for, before any is aligned.
    """
    for name, candidate in _annotated(find_series(list(folders)), read_annotations(annotations)):
        matrix = affine_matrix(aligner.align(read_scan(candidate).image).atlas_to_scan)
        rows = tuple(tuple(float(v) for v in row) for row in matrix)
        yield BackgroundSource(name, candidate, annotations, rows)


def _annotated(
    candidates: Sequence[SeriesCandidate], names: Collection[str]
) -> list[tuple[str, SeriesCandidate]]:
    """Scans with the name of their annotation; nobody gets the arteries of somebody else."""
    pairs = []
    for candidate in candidates:
        fitting = sorted(names_in_source(candidate.source).intersection(names))
        if len(fitting) > 1:
            raise ValueError(
                "a scan must have one annotation; rename its file, or a folder on the way to it. "
                f"Received: a scan that is named as {' and '.join(fitting)}"
            )
        pairs += [(name, candidate) for name in fitting]
    times = Counter(name for name, _ in pairs)
    for name, count in times.items():
        if count > 1:
            raise ValueError(
                "an annotation must be of one scan; leave out the other series of that name, or "
                f"rename them. Received: {count} series that are named as {name}"
            )
    return pairs


def vessel_atlas(sources: Sequence[BackgroundSource], heart: Ellipsoid) -> VesselAtlas:
    """Courses of the coronary arteries of annotated scans, in heart units."""
    people = []
    for source in sources:
        anatomy = Anatomy.from_annotation(read_annotations(source.annotations)[source.name])
        to_unit = heart.unit_matrix(np.array(source.atlas_to_scan))
        people.append({v: transform_points(to_unit, c) for v, c in anatomy.courses.items()})
    return VesselAtlas(tuple(people))


@dataclass(frozen=True, slots=True)
class SimulatedTask:
    """One semi-synthetic scan to be made.

    Args:
        source: Scan that calcium is inserted into.
        heart: Heart to score in.
        seed: Seed of the training.
        number: Number of the scan among those of its background.
        path: Where it is kept.
    """

    source: BackgroundSource
    heart: Ellipsoid
    seed: int
    number: int
    path: Path

    def make(self) -> None:
        """Simulate and write."""
        patient = crc32(self.source.name.encode())
        options = GeneratorOptions(spline_order=3 if self.number % 3 == 0 else 1)
        seed = (self.seed, patient, self.number)
        background = _background(self.source, background_digest(self.source))
        scan = simulate_scan(background, self.heart, seed, options)
        save_lattice_scan(self.path, lattice_scan(scan, self.heart))


@dataclass(frozen=True, slots=True)
class UnchangedTask:
    """An annotated scan as it is: nothing is put into it, and nothing of it is passed over.

    Args:
        source: The scan.
        heart: Heart to score in.
        path: Where it is kept.
    """

    source: BackgroundSource
    heart: Ellipsoid
    path: Path

    def make(self) -> None:
        """Bring the scan onto the lattice and write it."""
        found = _background(self.source, background_digest(self.source))
        scan = LabeledScan(
            f"{found.name}{UNCHANGED}",
            found.name,
            scan_kind(found.grid),
            found.volume_hu,
            found.grid,
            found.atlas_to_scan,
            np.zeros(found.grid.shape, bool) if found.coronary is None else found.coronary,
        )
        save_lattice_scan(self.path, lattice_scan(scan, self.heart))


@dataclass(frozen=True, slots=True)
class PhantomTask:
    """One phantom to be made, aligned as scans are.

    Args:
        model: Model folder whose alignment is used.
        seed: Seed of the phantom.
        path: Where it is kept.
    """

    model: Path
    seed: int
    path: Path

    @property
    def kind(self) -> str:
        """Cardiac and chest in turn."""
        return KINDS[self.seed % 2]

    @property
    def settings(self) -> PhantomSettings:
        """Both populations in turn, for either kind."""
        return (STANDARD, VARIED)[self.seed // 2 % 2]

    def make(self) -> None:
        """Draw, align and write."""
        aligner, heart = _aligner(self.model)
        scan = labeled_phantom(self.kind, self.seed, aligner, self.settings)
        save_lattice_scan(self.path, lattice_scan(scan, heart))


Task = SimulatedTask | UnchangedTask | PhantomTask

UNCHANGED = "-unchanged"
"""End of the name of a scan that nothing was put into."""


def simulated_tasks(
    source: BackgroundSource, heart: Ellipsoid, cache: Path, *, seed: int, count: int
) -> list[Task]:
    """Semi-synthetic scans of one background."""
    key = digest_of(background_digest(source), heart.to_dict())
    names = [f"{source.name}-{seed}-{number:04d}-{key}.npz" for number in range(count)]
    return [
        SimulatedTask(source, heart, seed, number, cache / name)
        for number, name in enumerate(names)
    ]


def unchanged_task(source: BackgroundSource, heart: Ellipsoid, cache: Path) -> Task:
    """A background as it is."""
    key = digest_of(background_digest(source), heart.to_dict())
    return UnchangedTask(source, heart, cache / f"{source.name}{UNCHANGED}-{key}.npz")


def phantom_tasks(model: Path, cache: Path, *, first_seed: int, count: int) -> list[Task]:
    """Phantoms of both kinds and populations."""
    key = digest_of(alignment_digest(model), SCORING_OFFSET_MM, SCORING_RADII_MM)
    seeds = range(first_seed, first_seed + count)
    return [PhantomTask(model, seed, cache / f"phantom-{seed}-{key}.npz") for seed in seeds]


def cached_scans(tasks: Sequence[Task], *, workers: int = 1) -> Iterator[LatticeScan]:
    """The scans of all tasks, in order; what the cache lacks is made first.

    Args:
        tasks: What to make.
        workers: Processes that make scans.

    Raises:
        RuntimeError: If a scan cannot be made.
    """
    missing = [task for task in tasks if not task.path.exists()]
    if missing:
        LOGGER.info("making %d of %d scans", len(missing), len(tasks))
        work = Work(_make, _give_up)
        for _ in (
            work.in_this_process(missing)
            if workers == 1
            else work.on_workers(missing, workers=workers)
        ):
            pass
    for task in tasks:
        yield load_lattice_scan(task.path)


def labeled_phantom(
    kind: str, seed: int, aligner: ReferenceAligner, settings: PhantomSettings = STANDARD
) -> LabeledScan:
    """A phantom with its coronary calcium known."""
    phantom = make_phantom(kind, seed, settings=settings)
    return LabeledScan(
        f"{PHANTOM_GROUP}-{seed}",
        f"{PHANTOM_GROUP}-{seed}",
        kind,
        sitk.GetArrayFromImage(phantom.image),
        ImageGrid.from_image(phantom.image),
        affine_matrix(aligner.align(phantom.image).atlas_to_scan),
        sitk.GetArrayFromImage(phantom.calcium_mask) > 0,
        anatomy=AnatomyPoints.of(phantom.centerlines),
    )


def load_aligner(folder: Path) -> tuple[ReferenceAligner, Ellipsoid]:
    """Aligner of a model that may have no scoring yet, and the heart to score in.

    The ellipsoid of the alignment says where images are compared; courses of coronary
    arteries reach further forward, so scoring has an ellipsoid of its own.
    """
    from pipelines.model import ALIGNMENT_WEIGHTS_NAME, ATLAS_NAME, read_description
    from registration.alignment import ReferenceAligner
    from registration.geometry import Ellipsoid

    description = read_description(folder)
    region = Ellipsoid.from_dict(description["heart"])
    aligner = ReferenceAligner.from_settings(
        sitk.ReadImage(str(folder / ATLAS_NAME)),
        region,
        description["alignment"],
        folder / ALIGNMENT_WEIGHTS_NAME,
    )
    x, y, z = (float(a) + b for a, b in zip(region.center_mm, SCORING_OFFSET_MM, strict=True))
    return aligner, Ellipsoid((x, y, z), SCORING_RADII_MM)


def _make(task: Task) -> None:
    task.make()


def _give_up(task: Task, error: BaseException) -> None:
    raise RuntimeError(f"{task.path.stem} could not be made: {error}") from error


@lru_cache(maxsize=1)
def _background(source: BackgroundSource, digest: str) -> Background:
    del digest  # files that were changed are read anew
    return source.read()


@lru_cache(maxsize=1)
def _aligner(folder: Path) -> tuple[ReferenceAligner, Ellipsoid]:
    return load_aligner(folder)
