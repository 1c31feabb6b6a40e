"""`calcium-score agatston`: the reference score of a mask."""

from __future__ import annotations

import json
from pathlib import Path

import click

from calcium.presets import PRESETS
from pipelines.reasons import UnusableSeries
from pipelines.reference_scores import (
    NoSuchScan,
    read_mask,
    read_single_scan,
    reference_scores,
    to_record,
    to_table,
    voltage_note,
)

EXIT_REJECTED = 3
EXIT_NOTHING = 4


@click.command("agatston")
@click.argument("scan", type=click.Path(exists=True, path_type=Path))
@click.argument("mask", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--preset",
    "names",
    type=click.Choice(list(PRESETS)),
    multiple=True,
    help="Definition of the score; may be repeated. Every one if left out.",
)
@click.option(
    "--label",
    "labels",
    type=int,
    multiple=True,
    help="Label of the mask that counts; may be repeated. Every one but 0 if left out.",
)
@click.option(
    "--calibration",
    type=float,
    help="Mass calibration, mg/(HU cm³). That of the scan's header if left out.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every lesion.")
@click.pass_context
def command(
    ctx: click.Context,
    scan: Path,
    mask: Path,
    names: tuple[str, ...],
    labels: tuple[int, ...],
    calibration: float | None,
    as_json: bool,
) -> None:
    """Print the Agatston, volume and mass score of MASK on SCAN.

    SCAN is a folder or archive with one CT series, or a NIfTI, NRRD or MetaImage file.
    MASK is a label image on the voxels of that scan; it may be flipped or cropped. Voxels
    below 130 HU never count, so it may be drawn generously.

    Exit codes: 0 scored, 2 wrong usage or a mask that does not fit, 3 the scan cannot be
    used, 4 no scan there.
    """
    try:
        subject = read_single_scan(scan)
        results = reference_scores(
            subject,
            read_mask(mask, labels),
            [PRESETS[name] for name in names] or list(PRESETS.values()),
            calibration_mg_per_hu_cm3=calibration,
        )
    except UnusableSeries as refusal:
        click.echo(f"Error: {refusal}", err=True)
        ctx.exit(EXIT_REJECTED)
    except NoSuchScan as error:
        click.echo(f"Error: {error}", err=True)
        ctx.exit(EXIT_NOTHING)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if note := voltage_note(subject):
        click.echo(f"Note: {note}", err=True)
    records = [to_record(result) for result in results]
    click.echo(json.dumps(records, indent=2) if as_json else to_table(records))
