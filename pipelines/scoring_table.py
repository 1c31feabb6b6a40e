"""Fine-tuning of a model on a cohort of one's own, from a table of scores alone."""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from calcium.counting_rule import CountingRule
from calcium.labeled_scan import LabeledScan
from calcium.lattice_scan import LatticeScan, lattice_scan, load_lattice_scan, save_lattice_scan
from calcium.networks.predictor import Predictor
from calcium.orientation import Orientation
from calcium.territories import VesselAtlas
from calcium.training_from_scores import (
    FineTuning,
    FineTuningOptions,
    ScoredScan,
    fine_tune,
    split_scans,
)
from pipelines.guards import evaluate_guards
from pipelines.model import (
    DEFAULT_MODEL,
    SCORING_WEIGHTS_NAME,
    VESSELS_NAME,
    Model,
    ModelError,
    load_model,
    read_identity,
    update_description,
)
from pipelines.reasons import UnusableSeries
from pipelines.reference_scores import NoSuchScan, read_single_scan
from pipelines.run import scan_kind
from pipelines.scan import Scan
from pipelines.scoring_scan_keys import digest_of
from pipelines.table_rows import UnusableTable, read_rows
from registration.geometry import affine_matrix

if TYPE_CHECKING:
    from registration.alignment import Alignment

LOGGER = logging.getLogger(__name__)

TERRITORY_COLUMNS = {"lm_lad": "LM/LAD", "lcx": "LCX", "rca": "RCA"}
"""Columns of the table with scores by coronary territory; all three or none."""

TOTAL_ATOL, TOTAL_RTOL = 1.0, 0.01
"""Largest difference of a score from the sum of its territories, in points and as a share of it:
reports round both."""

PREPARATION = 3
"""Version of the way scans are prepared; those that another one has kept are made anew."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """One scan of the table.

    Args:
        line: Where it stands in the table, counted from 1.
        path: Folder, archive or file of the scan.
        agatston: Reference score.
        territories: Reference scores by territory, `None` where the table has none.
    """

    line: int
    path: Path
    agatston: float
    territories: dict[str, float] | None


def read_score_table(path: Path) -> list[TableRow]:
    """Rows of a CSV with the columns `scan, agatston` and, if known, `lm_lad, lcx, rca`.

    Args:
        path: The table; scans are paths relative to its folder, or absolute.

    Raises:
        UnusableTable: If a column is missing, a row has more cells than the header, a score
            is none or not the sum of its territories, or a scan does not exist.
    """
    rows = read_rows(path, ("scan", "agatston"))
    columns = next(iter(rows.values()))
    given = [name for name in TERRITORY_COLUMNS if name in columns]
    if given and len(given) < len(TERRITORY_COLUMNS):
        raise UnusableTable(
            f"{path.name} needs all of the columns {', '.join(TERRITORY_COLUMNS)}, or none. "
            f"Received: {', '.join(given)}"
        )
    return [_row(path, line, row, bool(given)) for line, row in rows.items()]


def _row(table: Path, line: int, cells: dict[str, str], by_territory: bool) -> TableRow:
    row = {column: cell.strip() for column, cell in cells.items()}

    def score(column: str) -> float:
        try:
            value = float(row[column])
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < 0:
            raise UnusableTable(
                f"line {line} of {table.name}: {column} must be a score of 0 or more. "
                f"Received: {row[column]!r}"
            )
        return value

    place = table.parent / row["scan"]
    if not row["scan"] or not place.exists():
        raise UnusableTable(f"line {line} of {table.name}: the scan does not exist there")
    agatston = score("agatston")
    if not by_territory:
        return TableRow(line, place, agatston, None)
    parts = {TERRITORY_COLUMNS[column]: score(column) for column in TERRITORY_COLUMNS}
    total = sum(parts.values())
    if abs(total - agatston) > TOTAL_ATOL + TOTAL_RTOL * agatston:
        raise UnusableTable(
            f"line {line} of {table.name}: {', '.join(TERRITORY_COLUMNS)} must sum to agatston. "
            f"Received: {total:g} and {agatston:g}"
        )
    return TableRow(line, place, agatston, parts)


def fine_tune_model(
    table: Path, start: Path | None, out: Path, options: FineTuningOptions
) -> FineTuning:
    """Train a model further on the scans of a table, into a new model folder.

    Scans that `run` would refuse are named in the log and left out. Without a better
    result on the scans that judge, the weights of the start are kept.

    Args:
        table: CSV, see `read_score_table`.
        start: Model to start from, `None` for the one that ships.
        out: Folder of the new model, no other's; also keeps prepared scans in `work`.
        options: Length and rate.

    Raises:
        UnusableTable: If the table cannot be used, or too few scans can.
        ModelError: If the start is no whole model of the additive network, or `out` is its
            folder or that of the default model.
    """
    place = start or DEFAULT_MODEL
    for folder, name in ((place, "the model to start from"), (DEFAULT_MODEL, "the default model")):
        if out.resolve() == folder.resolve():
            raise ModelError(f"the new model needs a folder of its own. Received: that of {name}")
    model = load_model(place)
    scoring = dict(model.description["scoring"])
    if scoring["network"] != "additive":
        raise ModelError(f"only additive models can be trained further. Received: {place}")
    scans = list(prepared_scans(read_score_table(table), model, out / "work" / "scans"))
    try:
        training, judges = split_scans(scans)
    except ValueError as error:
        raise UnusableTable(f"{table.name}: {error}") from error
    predictor = Predictor.from_settings(scoring, place / SCORING_WEIGHTS_NAME)
    rule = CountingRule.from_dict(scoring["counting"]) if "counting" in scoring else CountingRule()
    vessels = VesselAtlas.load(place / VESSELS_NAME) if (place / VESSELS_NAME).is_file() else None
    found = fine_tune(
        predictor.network, training, judges, rule, options, vessels=vessels, report=LOGGER.info
    )
    _write(out, place, predictor, scoring, _record(table, start, options, found, scans))
    return found


def prepared_scans(rows: Sequence[TableRow], model: Model, cache: Path) -> Iterator[ScoredScan]:
    """Scans on the lattice; those that `run` would not score are named in the log and left out.

    Args:
        rows: The table.
        model: Model whose atlas locates the heart.
        cache: Folder that keeps prepared scans, by the bytes of their files.

    Raises:
        UnusableTable: If one scan stands on two lines, as files of the same bytes do.
    """
    cache.mkdir(parents=True, exist_ok=True)
    lines: dict[str, int] = {}
    for row in rows:
        try:
            scan = read_single_scan(row.path)
        except (UnusableSeries, NoSuchScan) as refusal:
            LOGGER.warning("line %d: %s; left out", row.line, refusal)
            continue
        first = lines.setdefault(scan.content_hash, row.line)
        if first != row.line:
            raise UnusableTable(
                f"lines {first} and {row.line} of the table are of one scan; keep one of them"
            )
        path = cache / f"{digest_of(PREPARATION, scan.content_hash, model.model_hash)}.npz"
        if not path.exists():
            alignment = model.aligner.align(scan.image)
            refusals = [
                f for f in evaluate_guards(scan, alignment, model) if f.severity == "reject"
            ]
            if refusals:
                told = " ".join(f"{finding.code}: {finding.message}" for finding in refusals)
                LOGGER.warning("line %d: %s Left out", row.line, told)
                continue
            save_lattice_scan(path, _lattice(scan, alignment, model))
            LOGGER.info("line %d: prepared", row.line)
        yield ScoredScan(load_lattice_scan(path), row.agatston, row.territories)


def _lattice(scan: Scan, alignment: Alignment, model: Model) -> LatticeScan:
    """A scan on the lattice, upright as the scorer sees it; where its calcium is, nobody knows."""
    orientation = Orientation.of(scan.grid)
    volume = np.ascontiguousarray(orientation.apply(sitk.GetArrayViewFromImage(scan.image)))
    labeled = LabeledScan(
        scan.scan_id,
        scan.scan_id,
        scan_kind(scan.grid),
        volume,
        orientation.grid,
        affine_matrix(alignment.atlas_to_scan),
        np.zeros(volume.shape, bool),
    )
    return lattice_scan(labeled, model.scorer.heart, model.scorer.preset)


def _record(
    table: Path,
    start: Path | None,
    options: FineTuningOptions,
    found: FineTuning,
    scans: Sequence[ScoredScan],
) -> dict[str, Any]:
    """What `model.json` says of the fine-tuning; neither paths nor names of scans."""
    identity = read_identity(start)
    parts = ["calcium-score train scoring --table TABLE --out MODEL", f"--seed {options.seed}"]
    parts += [f"--epochs {options.epochs}"] + ([] if start is None else ["--model START"])
    return {
        "command": " ".join(parts),
        "start": {"model": identity.label, "sha256": identity.model_hash},
        "table_sha256": hashlib.sha256(table.read_bytes()).hexdigest(),
        "scans": len(scans),
        "log_error_before": round(found.start_error, 4),
        "log_error_after": round(found.kept_error, 4),
        "passes": len(found.errors),
        "kept_pass": found.best,
    }


def _write(
    out: Path, place: Path, predictor: Predictor, scoring: dict[str, Any], record: dict[str, Any]
) -> None:
    """The new model: files of the start, new weights, and no calibration: errors have changed."""
    for path in sorted(place.iterdir()):
        if path.is_file():
            shutil.copyfile(path, out / path.name)
    if record["kept_pass"]:
        predictor.network.save_weights(out / SCORING_WEIGHTS_NAME)
        scoring.pop("calibration", None)
    update_description(
        out, {"name": out.name, "scoring": scoring, "training": {"fine_tuning": record}}
    )
