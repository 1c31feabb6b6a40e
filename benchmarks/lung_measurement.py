"""What is measured in a pair of chest scans: landmarks, correlation, masks; and pictures."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from registration_pairs import LabeledPair, Measurement, Row

from registration.figures import middle_plane, pair_figure
from registration.geometry import ImageGrid
from registration.metrics import jacobian_determinant, target_registration_errors_mm
from registration.transforms import moving_points
from registration.transforms_dense import displacement_field_vox

CORONAL = 1
"""Array axis across coronal planes."""

PADDING_HU = -1000.0

Points = NDArray[np.float64] | None


@dataclass(frozen=True, slots=True)
class LungMeasurement:
    """Measures pairs of chest scans labeled 1 in the lungs.

    Args:
        points: Fixed and moving landmarks by name of the pair, LPS mm; `None` for none.
        pictures: Folder of the pictures.
    """

    points: Mapping[str, Sequence[Points]]
    pictures: Path

    def of_pair(self, pair: LabeledPair, transform: sitk.Transform, method: str = "") -> Row:
        """Errors of landmarks, correlation in the fixed lungs, overlap and Jacobian."""
        row = Measurement({"lungs": 1}).of_pair(pair, transform)
        moved = sitk.Resample(pair.moving, pair.fixed, transform, sitk.sitkLinear, PADDING_HU)
        lungs = sitk.GetArrayViewFromImage(pair.fixed_labels) > 0
        values = [sitk.GetArrayViewFromImage(image)[lungs] for image in (pair.fixed, moved)]
        row = {"tre_mm": None, "ncc": float(np.corrcoef(*values)[0, 1]), **row}
        fixed_landmarks, moving_landmarks = self.points[pair.name]
        if fixed_landmarks is not None and moving_landmarks is not None:
            found = moving_points(transform, fixed_landmarks)
            errors = target_registration_errors_mm(found, moving_landmarks)
            row["tre_mm"] = float(errors.mean())
        self._draw(pair, moved, transform, method)
        return row

    def _draw(
        self, pair: LabeledPair, moved: sitk.Image, transform: sitk.Transform, method: str
    ) -> None:
        grid = ImageGrid.from_image(pair.fixed)
        before = sitk.Resample(pair.moving, pair.fixed, sitk.Transform(), sitk.sitkLinear, -1000.0)
        field = displacement_field_vox(transform, grid)
        determinants = jacobian_determinant(field, spacing=(1.0,) * grid.dimension)
        planes = [
            middle_plane(sitk.GetArrayViewFromImage(image), axis=CORONAL)[::-1]
            for image in (pair.fixed, before, moved)
        ]
        in_plane = middle_plane(field, axis=CORONAL)[::-1][..., [0, 2]] * (-1.0, 1.0)
        picture = pair_figure(
            *planes,
            in_plane,
            middle_plane(determinants, axis=CORONAL)[::-1],
            spacing=(grid.spacing[2], grid.spacing[0]),
        )
        self.pictures.mkdir(parents=True, exist_ok=True)
        name = f"{pair.name} {method}".strip().replace(" ", "-").replace("+", "-")
        (self.pictures / f"{name}.png").write_bytes(picture)


def read_pair(options: argparse.Namespace) -> tuple[LabeledPair, Points, Points]:
    """Follow-up (fixed) and baseline (moving) with lung masks and landmarks, if given."""
    fixed, moving = (_read(options.data / f"{n}.mha") for n in ("followup", "baseline"))
    masks = [
        sitk.ReadImage(str(options.data / f"{n}_mask.mha")) != 0 for n in ("followup", "baseline")
    ]
    pair = LabeledPair("lung-pair", fixed, moving, masks[0], masks[1])
    return pair, read_points(options.points_fixed), read_points(options.points_moving)


def read_points(path: Path | None) -> Points:
    """Landmarks of a CSV file with columns x, y, z, LPS mm; `None` without a file."""
    if path is None:
        return None
    with path.open(newline="", encoding="utf-8-sig") as stream:
        return np.array([[float(row[c]) for c in "xyz"] for row in csv.DictReader(stream)])


def _read(path: Path) -> sitk.Image:
    image = sitk.ReadImage(str(path), sitk.sitkFloat32)
    return sitk.Clamp(image, sitk.sitkFloat32, PADDING_HU, 500.0)
