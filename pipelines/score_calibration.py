"""The calibration of a model's scores, from a table of scores that are known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from calcium.calibration import LEAST_PER_BIN, Calibration, fit_calibration
from calcium.presets import DEFAULT_PRESET
from pipelines.model import DESCRIPTION_NAME, read_description, read_identity, update_description
from pipelines.results import printable
from pipelines.score_pairs import ScorePairs
from pipelines.table_rows import UnusableTable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def calibrate_model(folder: Path, pairs: ScorePairs) -> Calibration:
    """Fit a calibration to scans with known scores and put it into the model's settings.

    Args:
        folder: Model folder that made the predictions.
        pairs: Predicted and reference scores under the model's own definition of the score.
            Where a pair does not say which definition or model it is of, it is taken on trust.

    Raises:
        UnusableTable: If no kind of scan has enough pairs, or predictions are of another
            model or follow another definition of the score.
        ModelError: If the folder holds no model that can score.
    """
    description = read_description(folder)
    scoring: Mapping[str, object] = description.get("scoring", {})
    preset = str(scoring.get("preset", DEFAULT_PRESET))
    _refuse_others("preset", preset, pairs.presets, "run it without --preset")
    # a calibration changes the hash of its model, but neither name nor version
    label = printable(read_identity(folder).label)
    _refuse_others("model", label, pairs.models, "run the model that is to be calibrated")
    known = [k for k, kind in enumerate(pairs.kinds) if kind]
    calibration = fit_calibration(
        pairs.predicted[known],
        pairs.reference[known],
        [pairs.kinds[k] for k in known],
        preset=preset,
    )
    if not calibration.bins:
        raise UnusableTable(
            f"intervals need at least {LEAST_PER_BIN} scans of a kind, cardiac or chest, with a "
            f"known score. Received: {len(known)} with a kind"
        )
    record = {
        "command": "calcium-score train calibration PREDICTED.csv REFERENCE.csv --out MODEL",
        "scans": dict(calibration.counts),
    }
    update_description(
        folder,
        {
            "scoring": {**scoring, "calibration": calibration.to_dict()},
            "training": {"calibration": record},
        },
    )
    return calibration


def _refuse_others(column: str, wanted: str, found: Sequence[str], advice: str) -> None:
    """Errors of another model, or under another definition, say nothing of this one's."""
    others = sorted({value for value in found if value and value != wanted})
    if others:
        count = sum(value in others for value in found)
        raise UnusableTable(
            f"predictions must be of the {column} {wanted}, as {DESCRIPTION_NAME} says; {advice}. "
            f"Received: {count} of {len(found)} rows of {', '.join(others)}"
        )
