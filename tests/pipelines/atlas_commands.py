"""`calcium-score atlas` on a small cohort, as its tests run it."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from click.testing import CliRunner

from pipelines.cli import main
from tests.atlas.blob import cohort, known_maps, oblique_grid

QUICK = ("--only", "affine", "--rounds", "1", "--spacing", "4")


def run(*words) -> object:
    return CliRunner().invoke(main, ["atlas", *map(str, words)])


def write_images(folder: Path) -> Path:
    """A folder of images and labels; the label marks what lies left of the middle."""
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    for (name, image), matrix in zip(cohort().items(), known_maps(), strict=True):
        sitk.WriteImage(image, str(folder / "images" / f"{name}.nii.gz"))
        grid = oblique_grid(matrix)
        backward = np.linalg.inv(matrix)
        x = (grid.voxel_points() @ backward[:3, :3].T + backward[:3, 3])[..., 0]
        sitk.WriteImage(
            grid.to_image((x > 0).astype(np.uint8)), str(folder / "labels" / f"{name}.nii.gz")
        )
    return folder
