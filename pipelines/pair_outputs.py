"""Further files of a registration: dense field, Learn2Reg layout, inverse, and a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from pipelines.pair_files import UnusableFile
from registration.atomic_files import placing, write_atomically
from registration.geometry import ImageGrid
from registration.metrics import jacobian_determinant
from registration.transforms import write_transform
from registration.transforms_dense import (
    InverseTransform,
    displacement_field_mm,
    displacement_field_vox,
    inverse_transform,
    write_learn2reg,
)

TRANSFORM_SUFFIXES = (".h5", ".hdf5", ".tfm", ".txt")
"""Files of ITK transforms; a dense field is large and slow to read as text."""

FIELD_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
"""Images that hold a vector per voxel."""


@dataclass(frozen=True, slots=True)
class PairOutputs:
    """Where further files of a registration go; `None` for those that are not wanted.

    Args:
        dense: Displacement at every voxel of the fixed image, LPS mm: an ITK transform or, by
            its ending, an image of vectors.
        learn2reg: The same as Learn2Reg has it; see `write_learn2reg`.
        inverse: From moving to fixed points: an ITK transform, exact if the given one is linear,
            or an image of vectors on the grid of the moving image.
        picture: PNG of the middle slice; see `registration.figures.pair_figure`.
    """

    dense: Path | None = None
    learn2reg: Path | None = None
    inverse: Path | None = None
    picture: Path | None = None

    def check(self, dimension: int) -> None:
        """Refuse before a registration what could not be written after it.

        Raises:
            UnusableFile: If a file has no ending of its kind, or images have too few axes.
        """
        endings = {
            "dense": TRANSFORM_SUFFIXES + FIELD_SUFFIXES,
            "inverse": TRANSFORM_SUFFIXES + FIELD_SUFFIXES,
            "learn2reg": (".nii.gz", ".nii"),
            "picture": (".png",),
        }
        for name, allowed in endings.items():
            path: Path | None = getattr(self, name)
            if path is not None and not path.name.lower().endswith(allowed):
                raise UnusableFile(f"{path.name} must end in {', '.join(allowed)} (--{name})")
        if self.learn2reg is not None and dimension != 3:
            raise UnusableFile(f"Learn2Reg's layout is of three axes; the images have {dimension}")


def write_outputs(
    outputs: PairOutputs,
    images: tuple[sitk.Image, sitk.Image],
    moved: sitk.Image,
    transform: sitk.Transform,
) -> InverseTransform | None:
    """Write what is wanted, each file by atomic rename.

    Args:
        outputs: Which files.
        images: Fixed and moving image.
        moved: The moving image on the fixed grid.
        transform: Pull-back, LPS mm.

    Returns:
        The inverse with its measured error, if it was wanted.
    """
    fixed_grid, moving_grid = (ImageGrid.from_image(image) for image in images)
    if outputs.dense is not None:
        _write_dense(transform, fixed_grid, outputs.dense)
    if outputs.learn2reg is not None:
        with placing(outputs.learn2reg) as part:
            write_learn2reg(transform, fixed_grid, moving_grid, part)
    if outputs.picture is not None:
        outputs.picture.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(outputs.picture, pair_picture(images, moved, transform))
    if outputs.inverse is None:
        return None
    inverse = inverse_transform(transform, moving_grid)
    if _is_transform_file(outputs.inverse):
        with placing(outputs.inverse) as part:
            write_transform(inverse.transform, part)
    else:
        _write_dense(inverse.transform, moving_grid, outputs.inverse)
    return inverse


def pair_picture(
    images: tuple[sitk.Image, sitk.Image], moved: sitk.Image, transform: sitk.Transform
) -> bytes:
    """The middle slice of a pair before and after, the deformed grid and the Jacobian, as PNG.

    Args:
        images: Fixed and moving image; of volumes the middle slice of the fixed one is drawn.
        moved: The moving image on the fixed grid.
        transform: Pull-back, LPS mm. What it moves across the slice is not in the grid, but in
            the Jacobian.
    """
    from registration.figures import pair_figure

    grid = ImageGrid.from_image(images[0])
    lowest = float(sitk.GetArrayViewFromImage(images[1]).min())
    before = sitk.Resample(
        images[1], grid.empty_image(), sitk.Transform(), sitk.sitkLinear, lowest, sitk.sitkFloat32
    )
    pictures = [sitk.GetArrayFromImage(image) for image in (images[0], before, moved)]
    middle = 0
    slab = grid
    if grid.dimension == 3:
        count = grid.shape[0]
        first = max(0, count // 2 - 1)
        middle = count // 2 - first
        pictures = [picture[count // 2] for picture in pictures]
        size = (*grid.size[:2], min(3, count - first))
        origin = tuple(grid.physical_points([0.0, 0.0, float(first)]).tolist())
        slab = ImageGrid(size, grid.spacing, origin, grid.direction)
    field = displacement_field_vox(transform, slab)
    determinants = jacobian_determinant(field, spacing=(1.0,) * grid.dimension)
    if grid.dimension == 3:
        field, determinants = field[middle, ..., 1:], determinants[middle]
    fixed, moving, after = (np.asarray(picture, dtype=float) for picture in pictures)
    spacing = (grid.spacing[1], grid.spacing[0])
    return pair_figure(fixed, moving, after, field, determinants, spacing=spacing)


def _is_transform_file(path: Path) -> bool:
    return path.name.lower().endswith(TRANSFORM_SUFFIXES)


def _write_dense(transform: sitk.Transform, grid: ImageGrid, path: Path) -> None:
    """Displacements on a grid, LPS mm, as an ITK transform or as an image of vectors."""
    field = sitk.GetImageFromArray(displacement_field_mm(transform, grid), isVector=True)
    field.CopyInformation(grid.empty_image(sitk.sitkUInt8))
    with placing(path) as part:
        if _is_transform_file(path):
            write_transform(sitk.DisplacementFieldTransform(field), part)
        else:
            sitk.WriteImage(sitk.Cast(field, sitk.sitkVectorFloat32), str(part), True)
