"""A pair of files that a known shift registers, and the commands on it, as their tests run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from click.testing import CliRunner, Result
from scipy.ndimage import gaussian_filter

from pipelines.cli import main
from registration.geometry import ImageGrid
from registration.registrar import Registration

TURNED = sitk.Euler3DTransform((0, 0, 0), 0.2, -0.1, 0.3).GetMatrix()
GRID = ImageGrid((24, 20, 10), (0.8, 1.1, 3.0), (-31.0, 57.0, 803.0), TURNED)
SHIFT_MM = (1.6, -2.2, 3.0)
"""Where fixed points lie in the moving image: x + shift."""


class ShiftRegistrar:
    """Knows the answer; what is tested is what becomes of it."""

    name = "known shift"

    def register(self, fixed: sitk.Image, moving: sitk.Image) -> Registration:
        return Registration((sitk.TranslationTransform(3, SHIFT_MM),))


def invoke(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def write_pair(folder: Path) -> tuple[Path, Path]:
    """A moving image that is the fixed one, shifted in space; int16."""
    noise = np.random.default_rng(0).normal(size=GRID.shape)
    array = np.rint(500 * gaussian_filter(noise, 1.5)).astype(np.int16)
    fixed = GRID.to_image(array)
    origin = tuple(np.add(GRID.origin, SHIFT_MM).tolist())
    moving = ImageGrid(GRID.size, GRID.spacing, origin, GRID.direction).to_image(array)
    sitk.WriteImage(fixed, str(folder / "fixed.nii.gz"))
    sitk.WriteImage(moving, str(folder / "moving.nrrd"))
    return folder / "fixed.nii.gz", folder / "moving.nrrd"


def write_shift(folder: Path) -> Path:
    """The transform that brings the moving image to the fixed one."""
    sitk.WriteTransform(sitk.TranslationTransform(3, SHIFT_MM), str(folder / "shift.tfm"))
    return folder / "shift.tfm"
