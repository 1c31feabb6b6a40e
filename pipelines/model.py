"""The model folder: what it holds, how it is verified, how it becomes a working `Model`.

`model.json` names every file with its SHA-256, so its own hash stands for the whole model.
Networks are built in code from its settings and only weights are read: a model folder from
elsewhere can be wrong, but it cannot run code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import SimpleITK as sitk

from pipelines.batch import ModelIdentity
from registration.file_digest import file_sha256

if TYPE_CHECKING:
    from calcium.scoring import Scorer
    from registration.alignment import ReferenceAligner
    from registration.geometry import Ellipsoid

DEFAULT_MODEL = Path(__file__).resolve().parent.parent / "calcium" / "models" / "default"
"""The model that ships with the package."""

DESCRIPTION_NAME = "model.json"
ATLAS_NAME = "atlas.nii.gz"
ALIGNMENT_WEIGHTS_NAME = "alignment.weights.h5"
SCORING_WEIGHTS_NAME = "scoring.weights.h5"
VESSELS_NAME = "vessels.json"
"""Courses of the coronary arteries; a model without it names no territories."""

FORMAT = 1
"""Version of the layout of `model.json`."""

SECTIONS = ("heart", "alignment", "scoring")
"""Settings without which a model cannot score."""


class ModelError(Exception):
    """A model folder that cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Model:
    """A verified model, ready to align and score.

    Args:
        name: Name of the model.
        version: Its version.
        model_hash: SHA-256 of `model.json`.
        atlas: Mean image in HU, LPS mm.
        heart: The heart in atlas space.
        aligner: Finds the heart of a scan.
        scorer: Scores an aligned scan.
        description: All of `model.json`.
    """

    name: str
    version: str
    model_hash: str
    atlas: sitk.Image
    heart: Ellipsoid
    aligner: ReferenceAligner
    scorer: Scorer
    description: Mapping[str, Any]


def read_description(folder: Path | None = None) -> dict[str, Any]:
    """Contents of `model.json`, checked for layout but not against the files.

    Args:
        folder: Model folder, `None` for the one that ships.

    Raises:
        ModelError: If there is no readable `model.json` of a known layout.
    """
    path = (folder or DEFAULT_MODEL) / DESCRIPTION_NAME
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"There is no {DESCRIPTION_NAME} in {path.parent}. Give --model a model folder, "
            "as the train commands write it."
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({type(error).__name__}).") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ModelError(
            f"{path} is not a model description of format {FORMAT}; this version of the "
            "program reads no other."
        )
    return description


def read_identity(folder: Path | None = None) -> ModelIdentity:
    """Name, version and hash of a model, without loading it.

    Raises:
        ModelError: If there is no readable `model.json` of a known layout.
    """
    description = read_description(folder)
    digest = file_sha256((folder or DEFAULT_MODEL) / DESCRIPTION_NAME)
    return ModelIdentity(str(description["name"]), str(description["version"]), digest)


def load_model(folder: Path | None = None, *, preset: str | None = None) -> Model:
    """Verify a model folder by its hashes and build its networks.

    Args:
        folder: Model folder, `None` for the one that ships.
        preset: Definition of the Agatston score, `None` for the model's own.

    Raises:
        ModelError: If a file is missing or changed, or settings are missing or unknown.
    """
    from calcium.scoring import Scorer
    from registration.alignment import ReferenceAligner
    from registration.geometry import Ellipsoid

    place = folder or DEFAULT_MODEL
    description = read_description(place)
    identity = read_identity(place)
    missing = [section for section in SECTIONS if section not in description]
    if missing:
        raise ModelError(
            f"The model in {place} is not complete: {', '.join(missing)} missing from "
            f"{DESCRIPTION_NAME}. Train the rest with `calcium-score train`."
        )
    verify_files(place, description)
    atlas = sitk.ReadImage(str(place / ATLAS_NAME))
    try:
        heart = Ellipsoid.from_dict(description["heart"])
        aligner = ReferenceAligner.from_settings(
            atlas, heart, description["alignment"], place / ALIGNMENT_WEIGHTS_NAME
        )
        scorer = Scorer.from_settings(
            heart,
            description["scoring"],
            place / SCORING_WEIGHTS_NAME,
            preset=preset,
            vessels=place / VESSELS_NAME if VESSELS_NAME in description["files"] else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"The settings in {place / DESCRIPTION_NAME} do not fit this version of the "
            f"program: {error}"
        ) from error
    return Model(
        identity.name,
        identity.version,
        identity.model_hash,
        atlas,
        heart,
        aligner,
        scorer,
        description,
    )


def verify_files(folder: Path, description: Mapping[str, Any]) -> None:
    """Compare every file of a model with its SHA-256.

    Raises:
        ModelError: If a file is missing, changed, or named by a path.
    """
    for name, expected in description.get("files", {}).items():
        path = folder / name
        if Path(name).name != name:
            raise ModelError(f"{DESCRIPTION_NAME} in {folder} names a path, {name!r}: refused.")
        if not path.is_file():
            raise ModelError(f"{name} is missing from the model in {folder}. Copy it whole.")
        if file_sha256(path) != expected:
            raise ModelError(
                f"{name} in {folder} is not the file that {DESCRIPTION_NAME} describes "
                "(SHA-256 differs). Copy the model again, or train it again."
            )
    for name in (ATLAS_NAME, ALIGNMENT_WEIGHTS_NAME, SCORING_WEIGHTS_NAME):
        if name not in description.get("files", {}):
            raise ModelError(f"{DESCRIPTION_NAME} in {folder} does not list {name}.")


def update_description(
    folder: Path, sections: Mapping[str, Any], *, name: str | None = None
) -> None:
    """Put sections into a model's `model.json` and hash its files anew, atomically.

    Args:
        folder: Model folder; a new one is described from scratch.
        sections: Top-level keys to set, such as `alignment` or `scoring`; `training` and
            `data` are merged with what stands there.
        name: Name of a new model; by default that of the folder.

    Raises:
        ModelError: If an existing `model.json` cannot be read.
    """
    path = folder / DESCRIPTION_NAME
    if path.exists():
        description = read_description(folder)
    else:
        description = {"format": FORMAT, "name": name or folder.name, "version": "1"}
    for key, value in sections.items():
        if key == "training":
            description[key] = {**description.get(key, {}), **value}
        elif key == "data":
            known = {entry["name"]: entry for entry in description.get(key, [])}
            known.update({entry["name"]: entry for entry in value})
            description[key] = list(known.values())
        else:
            description[key] = value
    names = (ATLAS_NAME, ALIGNMENT_WEIGHTS_NAME, SCORING_WEIGHTS_NAME, VESSELS_NAME)
    description["files"] = {n: file_sha256(folder / n) for n in names if (folder / n).is_file()}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
