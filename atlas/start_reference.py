"""Where a build starts: the lattice of the atlas, every subject's place, the first mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from atlas.atlas_mean import AtlasMean
from atlas.averaging import resampled
from atlas.chest_rounds import HEART
from atlas.member import Member, read_member
from atlas.registration_methods import Regions, tones
from atlas.settings import AtlasSettings
from atlas.subject_transform import (
    Matrix,
    SubjectTransform,
    read_subject_transform,
    write_subject_transform,
)
from atlas.work_folder import WorkFolder
from registration.geometry import Ellipsoid, ImageGrid

START_VARIANT = "start"
"""Name of the transforms and moved subjects of round 0."""

EXTENT_PERCENTILE = 90.0
"""Share of the subjects that the lattice holds whole, in each direction, %."""

BODY_HU = -350.0
"""Attenuation above which a CT shows the body [HU], for the extent of the lattice."""

MEDOID_SIZE = 14
"""Voxels per axis at which subjects are compared in search of the medoid."""

TIGHT_SCALE = 1.25
"""Region in which tight cardiac scans are compared, in units of the heart's radii."""


@dataclass(frozen=True, slots=True)
class _Place:
    """What is needed of a subject to lay out the atlas; a few numbers."""

    start_mm: tuple[float, ...]
    low_mm: NDArray[np.float64]
    high_mm: NDArray[np.float64]
    wide: bool
    modality: str


class StartReference:
    """The beginning of a build.

    Args:
        work: Working files.
        training: Subjects that are averaged.
        subjects: All subjects.
        settings: Of the build.
        reference: A mean to start from, in place of what the settings say.
        known: Affine maps from that mean to subjects it was built from.
    """

    def __init__(
        self,
        work: WorkFolder,
        training: Sequence[str],
        subjects: Sequence[str],
        settings: AtlasSettings,
        reference: AtlasMean | None,
        known: Mapping[str, Matrix] | None,
    ) -> None:
        self.work = work
        self.training = tuple(training)
        self.subjects = tuple(subjects)
        self.settings = settings
        self.reference = reference
        self.known = dict(known or {})

    def plan(self) -> dict[str, Any]:
        """Write where every subject starts; plain values of how the atlas is laid out.

        Raises:
            ValueError: If the subject to start from is not among those that are averaged.
        """
        places = {name: _place(read_member(self.work.member(name))) for name in self.subjects}
        wide = [name for name in self.training if places[name].wide]
        tight = [name for name in self.training if not places[name].wide]
        mixed = bool(wide) and bool(tight)
        anchors = wide if mixed else list(self.training)
        grid = self._grid([places[name] for name in anchors])
        offset = np.array(HEART.center_mm) if mixed else np.zeros(3)
        for name, place in places.items():
            matrix = np.eye(4)
            # of tight scans the middle is the heart, of wide ones that of the lungs
            own = np.zeros(3) if place.wide else offset
            matrix[:3, 3] = np.array(place.start_mm) - own
            found = SubjectTransform(self.known.get(name, matrix), (), {"stage": -1})
            write_subject_transform(found, self.work.kept(0, START_VARIANT, name))
        chosen, told = self._chosen(anchors, grid)
        return {
            "grid": {"size": grid.size, "spacing": grid.spacing, "origin": grid.origin},
            "mixed": mixed,
            "anchors": anchors,
            "starts_mm": {name: list(place.start_mm) for name, place in places.items()},
            "averaged": chosen,
            "started_from": told,
            "variant": START_VARIANT,
        }

    def regions(self, plan: Mapping[str, Any]) -> Regions:
        """Where images are compared."""
        described = plan["grid"]
        grid = ImageGrid(
            tuple(described["size"]), tuple(described["spacing"]), tuple(described["origin"])
        )
        x, y, z = grid.center.tolist()
        radii = tuple(float(v) / 2.0 for v in grid.extent_mm)
        tight = HEART.scaled(TIGHT_SCALE) if plan["mixed"] else None
        return Regions(Ellipsoid((x, y, z), radii), tight)

    def _grid(self, places: Sequence[_Place]) -> ImageGrid:
        """Lattice that holds nearly all subjects, laid start on start."""
        if self.reference is not None:
            return self.reference.grid
        starts = np.array([place.start_mm for place in places])
        low = np.percentile(
            np.array([p.low_mm for p in places]) - starts, 100.0 - EXTENT_PERCENTILE, axis=0
        )
        high = np.percentile(
            np.array([p.high_mm for p in places]) - starts, EXTENT_PERCENTILE, axis=0
        )
        spacing = self.settings.spacing_mm
        # whole voxels to either side of the origin: a shift of all subjects changes nothing
        first, last = np.floor(low / spacing + 1e-6), np.ceil(high / spacing - 1e-6)
        size = np.maximum(8, last - first + 1).astype(int)
        return ImageGrid(tuple(size.tolist()), (spacing,) * 3, tuple((first * spacing).tolist()))

    def _chosen(self, anchors: Sequence[str], grid: ImageGrid) -> tuple[list[str], str]:
        """Whose average the first reference is, and what that is called."""
        if self.reference is not None:
            return list(anchors), "an atlas"
        start = self.settings.start
        if start == "mean":
            return list(anchors), "the mean of all subjects, middle on middle"
        if start == "medoid":
            name = self._medoid(anchors, grid)
            return [name], f"{name}, the subject most like the others"
        if start not in self.training:
            raise ValueError(
                "start must be mean, medoid or the id of a usable subject that is not held out. "
                f"Received: {start!r}"
            )
        return [start], start

    def _medoid(self, names: Sequence[str], grid: ImageGrid) -> str:
        """The subject with the highest mean correlation with all others, as they lie."""
        size = np.minimum(MEDOID_SIZE, np.array(grid.size))
        spacing = grid.extent_mm / size
        coarse = ImageGrid.centered(size, spacing, grid.center)
        rows = []
        for name in names:
            member = read_member(self.work.member(name))
            start = read_subject_transform(self.work.kept(0, START_VARIANT, name))
            values, inside = resampled(member, start.to_transform(), coarse)
            bright = tones(values, member.modality).astype(float)
            bright = (bright - (bright[inside].mean() if inside.any() else 0.0)) * inside
            rows.append((bright / max(float(np.linalg.norm(bright)), 1e-12)).ravel())
        # the sum over all others of a row's correlations, without the matrix of all pairs
        total = np.sum(rows, axis=0)
        scores = [float(row @ total) for row in rows]
        return names[int(np.argmax(scores))]


def _place(member: Member) -> _Place:
    volume = member.volume
    shown = volume.valid > 0
    if member.modality == "ct" and volume.wide:
        shown &= volume.hu > BODY_HU
    shown = _opened(shown, member.grid) if volume.wide else shown
    index = np.argwhere(shown)
    if index.size == 0:
        index = np.argwhere(volume.valid > 0)
    low, high = index.min(axis=0)[::-1], index.max(axis=0)[::-1]
    ends = member.grid.physical_points(np.stack([low, high]))
    return _Place(volume.start_mm, ends[0], ends[1], volume.wide, member.modality)


def _opened(shown: NDArray[np.bool_], grid: ImageGrid) -> NDArray[np.bool_]:
    """Without specks of noise that would widen the extent."""
    image = grid.to_image(shown.astype(np.uint8))
    opened: NDArray[np.bool_] = sitk.GetArrayFromImage(
        sitk.BinaryMorphologicalOpening(image, [2, 2, 0])
    ).astype(bool)
    return opened
