"""How one subject lies in the atlas: an affine map, then B-splines from coarse to fine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from registration.atomic_files import placing
from registration.geometry import affine_transform
from registration.transforms import composite_transform

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Warp:
    """A B-spline displacement as plain numbers, so that warps of one lattice can be averaged.

    Args:
        fixed_parameters: Lattice, as `sitk.BSplineTransform` has it.
        parameters: Displacements of the control points, LPS mm, flat.
        order: Degree of the spline.
    """

    fixed_parameters: tuple[float, ...]
    parameters: NDArray[np.float64]
    order: int = 3

    @classmethod
    def from_transform(cls, transform: sitk.BSplineTransform) -> Warp:
        """Warp of an ITK transform."""
        fixed = tuple(float(v) for v in transform.GetFixedParameters())
        return cls(fixed, np.array(transform.GetParameters()), transform.GetOrder())

    def to_transform(self) -> sitk.BSplineTransform:
        """Pull-back on LPS points, mm."""
        transform = sitk.BSplineTransform(3, self.order)
        transform.SetFixedParameters(list(self.fixed_parameters))
        transform.SetParameters(self.parameters.tolist())
        return transform

    def scaled(self, factor: float) -> Warp:
        """The same lattice with every displacement multiplied."""
        return replace(self, parameters=self.parameters * factor)


@dataclass(frozen=True, slots=True)
class SubjectTransform:
    """Pull-back from points of the atlas to points of a subject.

    A point of the atlas goes through the last warp first and through the affine map last.

    Args:
        matrix: Homogeneous affine map, LPS mm, `(4, 4)`.
        warps: B-splines in the order in which they were found, coarse to fine.
        facts: What is known of how good it is; plain JSON values.
    """

    matrix: Matrix
    warps: tuple[Warp, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_transform(self) -> sitk.Transform:
        """ITK transform, exact, without a dense field."""
        stages: list[sitk.Transform] = [affine_transform(self.matrix)]
        return composite_transform([*stages, *(warp.to_transform() for warp in self.warps)])

    def deformation(self) -> sitk.Transform:
        """The warps alone, from points of the atlas to points before the affine map."""
        if not self.warps:
            return sitk.Transform(3, sitk.sitkIdentity)
        return composite_transform([warp.to_transform() for warp in self.warps])


def write_subject_transform(found: SubjectTransform, path: Path) -> None:
    """Write a subject's transform as one file."""
    arrays: dict[str, Any] = {"matrix": found.matrix}
    for number, warp in enumerate(found.warps):
        arrays[f"lattice{number}"] = np.array([*warp.fixed_parameters, float(warp.order)])
        arrays[f"warp{number}"] = warp.parameters
    with placing(path) as part, part.open("wb") as stream:
        np.savez(stream, facts=np.array(json.dumps(dict(found.facts))), **arrays)


def read_subject_transform(path: Path) -> SubjectTransform:
    """Read what `write_subject_transform` wrote."""
    with np.load(path, allow_pickle=False) as data:
        count = sum(name.startswith("warp") for name in data.files)
        warps = []
        for number in range(count):
            *lattice, order = data[f"lattice{number}"].tolist()
            warps.append(Warp(tuple(lattice), data[f"warp{number}"], int(order)))
        return SubjectTransform(data["matrix"], tuple(warps), json.loads(str(data["facts"])))
