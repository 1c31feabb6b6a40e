"""A registration network trained on the cohort, against the mean of a round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from atlas.averaging import resampled
from atlas.dense_deformation import dense_transform
from atlas.file_cache import kept_per_file
from atlas.member import Member, read_member
from atlas.registration_methods import ComparedMean, compared_mean, tones
from atlas.settings import AtlasSettings, Stage
from atlas.subject_transform import SubjectTransform, Warp
from registration.atomic_files import placing
from registration.cohort import ONE_GROUP, Cohort, CohortImage

if TYPE_CHECKING:
    from registration.network_registrar import NetworkRegistrar
    from registration.networks.registration_network import RegistrationConfig
    from registration.training import TrainingOptions

FIRST_ROUND_FACTOR = 3
"""The first training of a stage starts from nothing and takes this many times the steps."""

_KERNELS = 16


def train_network(
    folder: Path,
    mean: Path,
    members: Sequence[tuple[str, Path, SubjectTransform]],
    stage: Stage,
    settings: AtlasSettings,
    *,
    before: Path | None = None,
    report: Callable[[str], None] = print,
) -> Path:
    """Train the network of a stage on pairs of the mean and every member; resumable.

    Args:
        folder: Receives the pairs, the checkpoint and the trained registration.
        mean: File of the mean.
        members: Name, file and transform of the earlier stages of every member.
        stage: Control points.
        settings: Steps, weights and seed.
        before: Folder of the last round's network, from which this one goes on.
        report: Called with lines of plain text.

    Returns:
        Folder that `load_registration` reads.
    """
    from registration.registration_folder import DESCRIPTION_NAME, WEIGHTS_NAME, save_registration
    from registration.training import RegistrationTrainer

    trained = folder / "trained"
    if (trained / DESCRIPTION_NAME).exists():
        return trained
    cohort = _pairs(folder / "pairs", compared_mean(mean, stage.shrink), members)
    config = _config(stage)
    trainer = RegistrationTrainer(
        config,
        cohort,
        None,
        folder / "training",
        options=_options(stage, settings, before),
        report=report,
    )
    if before is not None:
        trainer.network.load_weights(before / WEIGHTS_NAME)
    save_registration(trained, trainer.train(), config, name="atlas")
    return trained


def register_by_network(
    folder: Path, mean: ComparedMean, member: Member, before: SubjectTransform
) -> Warp:
    """B-spline of a stage in one pass of a trained network."""
    pull_back = dense_transform(before, mean.grid)
    values, _ = resampled(member, pull_back, mean.grid, counted=True)
    found = _registrar(folder).register(
        mean.grid.to_image(mean.values), mean.grid.to_image(tones(values, mean.modality))
    )
    return Warp.from_transform(sitk.BSplineTransform(found.transform))


@kept_per_file(maxsize=1)
def _registrar(folder: Path) -> NetworkRegistrar:
    from registration.registration_folder import load_registration

    return load_registration(folder)


def _pairs(
    folder: Path, mean: ComparedMean, members: Sequence[tuple[str, Path, SubjectTransform]]
) -> Cohort:
    """Mean and moved members as image files, and the pairs of them."""

    def written(name: str, values: NDArray[Any], weight: NDArray[Any]) -> CohortImage:
        paths = folder / f"{name}.nrrd", folder / f"{name}.mask.nrrd"
        arrays: tuple[NDArray[Any], ...] = (
            values.astype(np.float32),
            (weight > 0).astype(np.uint8),
        )
        for path, array in zip(paths, arrays, strict=True):
            if not path.exists():
                with placing(path) as part:
                    sitk.WriteImage(mean.grid.to_image(array), str(part), True)
        return CohortImage(paths[0], ONE_GROUP, name, paths[1])

    images = [written("mean", mean.values * mean.weight, mean.weight)]
    for name, path, transform in members:
        values, inside = resampled(
            read_member(path), dense_transform(transform, mean.grid), mean.grid, counted=True
        )
        # of a member that lies beside the mean there is nothing to learn
        if (inside > 0).any():
            images.append(written(f"member-{name}", tones(values, mean.modality), inside))
    return Cohort(tuple(images), tuple((0, number) for number in range(1, len(images))))


def _config(stage: Stage) -> RegistrationConfig:
    from registration.networks.deformable_network import DeformableConfig
    from registration.networks.registration_network import RegistrationConfig
    from registration.pair_preparation import IntensityScaling

    spacing = stage.control_point_spacing_vox / stage.shrink
    halvings = round(float(np.log2(spacing)))
    if 2**halvings != spacing or halvings < 1:
        raise ValueError(
            f"a network's control points lie 2, 4, 8, … voxels apart. Received: {spacing:g}"
        )
    network = DeformableConfig(
        downsamplings=(halvings,) * 3,
        kernels=_KERNELS,
        convolutions=1,
        stem_stride=2,
        displacement_limit=0.4,
    )
    return RegistrationConfig((network,), scaling=IntensityScaling(window=(0.0, 1.0)))


def _options(stage: Stage, settings: AtlasSettings, before: Path | None) -> TrainingOptions:
    from registration.augmentation import Augmentation
    from registration.objective import Objective
    from registration.training import TrainingOptions

    distance = stage.control_point_spacing_vox / stage.shrink
    factor = FIRST_ROUND_FACTOR if before is None else 1
    return TrainingOptions(
        steps=settings.network_steps * factor,
        batch_size=4,
        learning_rate=1.5e-3 if before is None else 5e-4,
        objective=Objective("ncc", bending_weight=settings.bending_weight * distance**2),
        augmentation=Augmentation(gamma=0.1),
        evaluate_every=50,
        seed=settings.seed,
    )
