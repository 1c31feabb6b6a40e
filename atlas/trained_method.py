"""Deformable stages of a registration that was trained before, on images like the cohort's.

One pass of its networks takes the place of all optimizer steps of a round; nothing is trained while
the atlas is built. They were trained on pairs of subjects, and a mean is smoother than any of
these: without Gauss-Newton steps on the pair after their last stage (`DeformableConfig.steps`) they
are biased.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from atlas.averaging import resampled
from atlas.file_cache import kept_per_file
from atlas.member import Member
from atlas.registration_methods import plain_mean
from atlas.subject_transform import Matrix, Warp
from registration.atomic_files import write_atomically
from registration.geometry import ImageGrid, affine_transform
from registration.registration_folder import (
    DESCRIPTION_NAME,
    WEIGHTS_NAME,
    RegistrationFolderError,
    load_registration,
    read_registration,
)
from registration.transforms import transform_stages

if TYPE_CHECKING:
    from registration.network_registrar import NetworkRegistrar


def register_by_trained(
    folder: Path, mean: Path, member: Member, matrix: Matrix
) -> tuple[Warp, ...]:
    """B-splines of all deformable stages in one pass.

    Args:
        folder: Trained registration.
        mean: File of the mean.
        member: The subject.
        matrix: Its affine pull-back, LPS mm, which the networks take as given.

    Returns:
        One warp per deformable stage, coarse to fine, on lattices that all subjects share.
    """
    fixed = plain_mean(mean)
    grid = ImageGrid.from_image(fixed)
    values, inside = resampled(member, affine_transform(matrix), grid, counted=True)
    # where a subject ends it looks like the mean from there on: there is nothing to be moved
    moving = np.where(inside, values, sitk.GetArrayViewFromImage(fixed)).astype(np.float32)
    found = _registrar(folder).register(fixed, grid.to_image(moving))
    return tuple(
        Warp.from_transform(sitk.BSplineTransform(part))
        for part in transform_stages(found.transform)
    )


def copy_registration(folder: Path, copy: Path) -> None:
    """Keep a trained registration with a build, so that it does not depend on where it came from.

    Raises:
        RegistrationFolderError: If it is not there, not whole, or no cubic B-splines of a volume.
    """
    check_registration(folder)
    copy.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS_NAME, DESCRIPTION_NAME):
        if not (copy / name).exists():
            write_atomically(copy / name, (folder / name).read_bytes())


def check_registration(folder: Path) -> str:
    """Refuse a registration by which no atlas can be built; its weights are not looked at.

    Returns:
        SHA-256 of its description, which holds that of the weights; hexadecimal.

    Raises:
        RegistrationFolderError: If it has no description, or no stages that leave as cubic
            B-splines of a volume.
    """
    settings = read_registration(folder).get("registration") or {}
    stages = [s for s in settings.get("stages") or () if s.get("kind") != "affine"]
    is_usable = stages and settings.get("composition", "compose") == "compose"
    for stage in stages:
        cubic = stage.get("transformer", "bspline3") == "bspline3"
        volume = len(stage.get("downsamplings") or ()) == 3
        is_usable = is_usable and cubic and volume and not stage.get("diffeomorphic")
    if not is_usable:
        raise RegistrationFolderError(
            f"{folder} cannot register the subjects of an atlas: it needs deformable stages for "
            "images of three axes, cubic B-splines that are composed"
        )
    return hashlib.sha256((folder / DESCRIPTION_NAME).read_bytes()).hexdigest()


@kept_per_file(maxsize=1)
def _registrar(folder: Path) -> NetworkRegistrar:
    return load_registration(folder, deformable_only=True)
