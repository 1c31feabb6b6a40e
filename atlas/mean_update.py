"""The unbiased update: pose, size and shape of an atlas become the mean of its subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.affine_mean import drift_correction
from atlas.atlas_mean import AtlasMean
from atlas.quality import principal_rotation
from atlas.settings import AtlasSettings, Stage
from atlas.subject_transform import (
    SubjectTransform,
    Warp,
    read_subject_transform,
    write_subject_transform,
)
from atlas.work_folder import WorkFolder
from registration.geometry import Ellipsoid, ImageGrid, transform_points
from registration.transforms_dense import displacement_field_mm

TRAINED_CORRECTIONS = 3
"""How often the rest of the mean displacement is taken out where all of it is of one round: that
of a trained registration is larger than what the last, short steps of a stage leave."""


class AtlasError(RuntimeError):
    """An atlas cannot be built; the message says why."""


class MeanUpdate:
    """Turns the transforms found in a round into those that are kept: no bias is left in them.

    Args:
        work: Working files; transforms are read from and written to them.
        subjects: Ids of everyone who was registered.
        settings: What decides the atlas.
    """

    def __init__(self, work: WorkFolder, subjects: Sequence[str], settings: AtlasSettings) -> None:
        self.work = work
        self.subjects = tuple(subjects)
        self.settings = settings

    def affine(
        self,
        number: int,
        averaged: Sequence[str],
        before: AtlasMean,
        start: Mapping[str, Any],
        focus: Ellipsoid | None,
    ) -> float:
        """Give the atlas the mean size, shape, pose and place; how far that moved it, mm.

        What is focused on keeps its place, as its region is told in the space of the atlas.
        Otherwise the mean of the subjects' middles becomes the origin.
        """
        matrices = {
            name: read_subject_transform(self.work.found(number, name)).matrix
            for name in self.subjects
        }
        middle = before.grid.center if focus is None else np.array(focus.center_mm)
        back = drift_correction([matrices[name] for name in averaged], middle)
        if self.settings.pose == "principal" and focus is None:
            turn = np.eye(4)
            # of the mean as corrected: the correction brings the scanner's pose back
            linear = np.linalg.inv(back[:3, :3]).astype(np.float64)
            turn[:3, :3] = principal_rotation(before, linear)
            turn[:3, 3] = middle - turn[:3, :3] @ middle
            back = back @ turn
        if focus is None:
            anchors = [name for name in averaged if name in start["anchors"]] or list(averaged)
            places = [
                transform_points(np.linalg.inv(matrices[name] @ back), start["starts_mm"][name])
                for name in anchors
            ]
            shift = np.eye(4)
            shift[:3, 3] = np.mean(places, axis=0)
            back = back @ shift
        for name in self.subjects:
            found = read_subject_transform(self.work.found(number, name))
            kept = SubjectTransform(found.matrix @ back, found.warps, found.facts)
            write_subject_transform(kept, self.work.kept(number, "affine", name))
        corners = before.grid.physical_points(_corners(before.grid))
        return float(np.linalg.norm(transform_points(back, corners) - corners, axis=-1).mean())

    def shape(
        self, number: int, averaged: Sequence[str], step: float, grid: ImageGrid, stage: Stage
    ) -> tuple[str, float]:
        """Take a share of the mean displacement out of every transform.

        Control points of one lattice are averaged in place of dense fields: a B-spline is linear
        in them. The correction is a B-spline of its own, so that the subjects stay in register.

        Returns:
            What the updated transforms are called, and the mean size of the displacement, mm.
        """
        variant = f"step-{step:g}"
        total: Warp | None = None
        for name in averaged:
            warp = read_subject_transform(self.work.found(number, name)).warps[-1]
            if total is None:
                total = warp
            elif total.fixed_parameters != warp.fixed_parameters:
                raise AtlasError("all subjects of a round must have the same control points")
            else:
                total = Warp(
                    total.fixed_parameters, total.parameters + warp.parameters, total.order
                )
        assert total is not None
        mean = total.scaled(1.0 / len(averaged))
        update = mean.scaled(-step)
        if step == 1.0:
            for _ in range(TRAINED_CORRECTIONS if stage.trained else 1):
                update = self._without_rest(number, averaged, update, grid)
        for name in self.subjects:
            found = read_subject_transform(self.work.found(number, name))
            kept = SubjectTransform(found.matrix, (*found.warps, update), found.facts)
            write_subject_transform(kept, self.work.kept(number, variant, name))
        # of a trained registration all warps are of this round, and their mean is the update's
        told = update if stage.trained else mean
        points = told.parameters.reshape(3, -1)
        return variant, float(np.linalg.norm(points, axis=0).mean())

    def _without_rest(
        self, number: int, averaged: Sequence[str], update: Warp, grid: ImageGrid
    ) -> Warp:
        """The update, with what is left of the mean of all stages together taken out as well.

        Stages add up only to first order, so their means can be zero and that of their products
        is not. The rest is small and smooth: its values at the control points are its
        coefficients, nearly.
        """
        lattice = ImageGrid.from_image(update.to_transform().GetCoefficientImages()[0])
        inside, part = _nodes_within(lattice, grid)
        rest = np.zeros((*inside.shape, 3))
        for name in averaged:
            found = read_subject_transform(self.work.found(number, name))
            deformation = SubjectTransform(np.eye(4), (*found.warps, update)).deformation()
            rest += displacement_field_mm(deformation, inside)
        rest /= len(averaged)
        rest = np.pad(rest, [*part, (0, 0)], mode="edge")
        correction = np.moveaxis(rest, -1, 0).ravel()
        return Warp(update.fixed_parameters, update.parameters - correction, update.order)


def _nodes_within(lattice: ImageGrid, grid: ImageGrid) -> tuple[ImageGrid, list[tuple[int, int]]]:
    """The control points inside a grid, and how many lie before and after along array axes."""
    ends = lattice.indices(grid.physical_points([[0] * 3, [n - 1 for n in grid.size]]))
    first = np.clip(np.ceil(ends[0]), 0, np.array(lattice.size) - 1).astype(int)
    last = np.clip(np.floor(ends[1]), first, np.array(lattice.size) - 1).astype(int)
    origin = lattice.physical_points(first).tolist()
    size = tuple((last - first + 1).tolist())
    after = np.array(lattice.size) - 1 - last
    outside = [(int(a), int(b)) for a, b in zip(first[::-1], after[::-1], strict=True)]
    return ImageGrid(size, lattice.spacing, tuple(origin), lattice.direction), outside


def _corners(grid: ImageGrid) -> NDArray[np.float64]:
    ends = [(0.0, float(n - 1)) for n in grid.size]
    return np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)
