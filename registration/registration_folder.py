"""The folder a trained registration lives in: settings, weights, and the hash of the weights.

Networks are built in code from the settings and only weights are read, once their SHA-256 is
right: a folder from elsewhere can be wrong, but it cannot run code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registration.file_digest import file_sha256

if TYPE_CHECKING:
    import keras

    from registration.network_registrar import NetworkRegistrar
    from registration.networks.multi_stage import MultiStageRegistration
    from registration.networks.registration_network import RegistrationConfig
    from registration.objective import Objective
    from registration.refinement import RefinementOptions

DESCRIPTION_NAME = "registration.json"
WEIGHTS_NAME = "registration.weights.h5"
FORMAT = 1
"""Version of the layout of `registration.json`."""


class RegistrationFolderError(ValueError):
    """A folder that holds no usable registration; the message says why."""


def save_registration(
    folder: Path,
    network: MultiStageRegistration,
    config: RegistrationConfig,
    *,
    name: str | None = None,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write weights and description, each by atomic rename.

    Args:
        folder: Where to; made if it is not there.
        network: Trained stages.
        config: What they were built from.
        name: Name of the model; by default that of the folder.
        training: How it was trained: options, images, validation. Kept for the record.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"partial.{WEIGHTS_NAME}"
    network.save_weights(partial)
    os.replace(partial, folder / WEIGHTS_NAME)
    description = {
        "format": FORMAT,
        "name": name or folder.resolve().name,
        "registration": config.to_dict(),
        "training": dict(training or {}),
        "files": {WEIGHTS_NAME: file_sha256(folder / WEIGHTS_NAME)},
    }
    partial = folder / f"partial.{DESCRIPTION_NAME}"
    partial.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, folder / DESCRIPTION_NAME)


def read_registration(folder: Path) -> dict[str, Any]:
    """Description of a folder, its layout checked.

    Raises:
        RegistrationFolderError: If there is no readable `registration.json` of this format.
    """
    path = folder / DESCRIPTION_NAME
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RegistrationFolderError(
            f"There is no {DESCRIPTION_NAME} in {folder}. Give a folder as "
            "`calcium-score train registration` writes it."
        ) from None
    except (OSError, ValueError) as error:
        raise RegistrationFolderError(
            f"{path} cannot be read as JSON ({type(error).__name__})."
        ) from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise RegistrationFolderError(
            f"{path} does not describe a registration of format {FORMAT}."
        )
    return description


def trained_similarity(description: Mapping[str, Any]) -> Objective:
    """Similarity that the networks of a folder were trained with, as an objective without weights.

    Args:
        description: As `read_registration` gives it; NCC if it does not tell of the training.

    Raises:
        RegistrationFolderError: If the record names a similarity that cannot be.
    """
    from registration.objective import Objective

    options = (description.get("training") or {}).get("options") or {}
    known = options.get("objective") or {}
    try:
        return Objective(**{k: known[k] for k in ("similarity", "window") if k in known})
    except (TypeError, ValueError) as error:
        raise RegistrationFolderError(
            f"The registration cannot be refined, as {DESCRIPTION_NAME} does not tell what it was "
            f"trained with: {error}"
        ) from error


def load_registration(
    folder: Path,
    *,
    refinement: RefinementOptions | None = None,
    passes: int | None = None,
    affine_steps: int | None = None,
    deformable_steps: int | None = None,
    unfold: bool = False,
    deformable_only: bool = False,
) -> NetworkRegistrar:
    """Registrar of a folder, its weights verified.

    Args:
        folder: As `save_registration` writes it.
        refinement: Optimizer steps per pair after the networks. Options without an objective
            take the similarity that the networks were trained with: another one can lead
            away from what they found.
        passes: How often every deformable stage looks at the pair; as the folder says by default.
        affine_steps: Gauss-Newton steps on the pair after an affine stage; likewise.
        deformable_steps: Such steps after every deformable stage; likewise.
        unfold: Smooth the spline of every deformable stage where it folds, even if the folder does
            not say so.
        deformable_only: Leave affine stages out and take images as they lie, for pairs that an
            affine transform has brought together already.

    Raises:
        RegistrationFolderError: If description or weights are missing, changed, or do not fit.
        ValueError: If the last stage admits no refinement, a stage no further passes or steps, or
            cannot be unfolded, or there is no stage of the kind that steps are asked of.
    """
    from registration.network_registrar import NetworkRegistrar
    from registration.networks.registration_network import registration_of

    description = read_registration(folder)
    networks, config = _trained_networks(folder, description)
    if passes is not None:
        config = config.in_passes(passes)
    if affine_steps is not None:
        config = config.with_affine_steps(affine_steps)
    if deformable_steps is not None:
        config = config.with_deformable_steps(deformable_steps)
    if unfold:
        config = config.unfolding()
    if deformable_only:
        deformable = config.deformable_only()
        networks = [
            n for n, s in zip(networks, config.stages, strict=True) if s in deformable.stages
        ]
        config = deformable
    network = registration_of(networks, config)
    if refinement is not None and refinement.objective is None:
        refinement = replace(refinement, objective=trained_similarity(description))
    return NetworkRegistrar(
        network, config, name=str(description.get("name", folder.name)), refinement=refinement
    )


def _trained_networks(
    folder: Path, description: Mapping[str, Any]
) -> tuple[Sequence[keras.Model], RegistrationConfig]:
    """Networks of all stages with their verified weights, and the settings they were made from."""
    from registration.networks.registration_network import RegistrationConfig, build_registration

    expected = description.get("files", {}).get(WEIGHTS_NAME)
    path = folder / WEIGHTS_NAME
    if not path.is_file() or file_sha256(path) != expected:
        raise RegistrationFolderError(
            f"{WEIGHTS_NAME} in {folder} is missing or not the file that {DESCRIPTION_NAME} "
            "describes (SHA-256 differs). Copy the folder again, or train it again."
        )
    try:
        config = RegistrationConfig.from_dict(description["registration"])
        network = build_registration(config)
        network.load_weights(path)
    except (KeyError, TypeError, ValueError) as error:
        raise RegistrationFolderError(
            f"The settings in {folder / DESCRIPTION_NAME} do not fit its weights or this version "
            f"of the program: {error}"
        ) from error
    return network.stages, config
