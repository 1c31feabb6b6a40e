"""`calcium-score run`: the command line of the main job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from calcium.presets import PRESETS

if TYPE_CHECKING:
    from pipelines.batch import BatchSummary

ALL_SCORED, SOME_NOT_SCORED, NOTHING_TO_SCORE = 0, 3, 4
"""Exit codes; 2 is wrong usage, as everywhere in click."""

ALLOWABLE = (
    "ALIGNMENT_UNCERTAIN",
    "CONTRAST",
    "HEART_NOT_COVERED",
    "KVP",
    "METAL",
    "SHARP_KERNEL",
    "THICK_SLICES",
)
"""Refusals that leave an image to score. The others cannot be overruled: without all slices
in their places there is nothing that a score could be computed from."""


def exit_code(summary: BatchSummary) -> int:
    """What a batch came to, for scripts."""
    if not summary.results:
        return NOTHING_TO_SCORE
    unscored = summary.counts["rejected"] + summary.counts["failed"]
    return SOME_NOT_SCORED if unscored else ALL_SCORED


def check_allowed(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    """Upper-case reason codes; refuses those that nobody can overrule."""
    from pipelines.reasons import REASONS

    codes = tuple(value.strip().upper() for value in values)
    for code in codes:
        if code in REASONS and code not in ALLOWABLE:
            raise click.BadParameter(
                f"{code} cannot be allowed: {REASONS[code]} There is nothing to score then."
            )
        if code not in ALLOWABLE:
            raise click.BadParameter(f"{code!r} is none of {', '.join(ALLOWABLE)}.")
    return codes


@click.command("run")
@click.argument(
    "inputs",
    metavar="INPUT...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, path_type=Path),
)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for tables and reports; a rerun goes on where the last one stopped.",
)
@click.option(
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Model folder.  [default: the model that ships]",
)
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help="Definition of the Agatston score.  [default: the model's own]",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes to work in.",
)
@click.option("--scheduler", metavar="ADDRESS", help="Dask scheduler to use, as tcp://host:port.")
@click.option("--dicom-out", is_flag=True, help="Also write DICOM results (sr.dcm, sc/*.dcm).")
@click.option(
    "--identifiers",
    type=click.Choice(["pseudonym", "keep"]),
    default="pseudonym",
    show_default=True,
    help="Whether DICOM results name the patient.",
)
@click.option("--fresh", is_flag=True, help="Start anew; files of others are left alone.")
@click.option(
    "--allow",
    metavar="REASON",
    multiple=True,
    callback=check_allowed,
    help="Score in spite of this refusal, for review; may be repeated. "
    f"One of {', '.join(ALLOWABLE)}.",
)
@click.pass_context
def command(
    ctx: click.Context,
    inputs: tuple[Path, ...],
    out: Path,
    model: Path | None,
    preset: str | None,
    workers: int,
    scheduler: str | None,
    dicom_out: bool,
    identifiers: str,
    fresh: bool,
    allow: tuple[str, ...],
) -> None:
    """Score every CT in folders, zip archives and files (DICOM, NIfTI, NRRD, MetaImage).

    Writes OUT/scores.csv with one row per series, OUT/index.html, and a report for each
    series in OUT/scans. Series that are refused have a row and a report as well.

    Exit codes: 0 every series scored, 2 wrong usage, 3 some series rejected or failed,
    4 nothing to score.
    """
    if scheduler is not None and workers != 1:
        raise click.UsageError("--workers and --scheduler exclude each other.")
    from pipelines.cli_output import print_summary, run_with_progress
    from pipelines.run import RunOptions
    from pipelines.run_inputs import Execution

    options = RunOptions(
        out=out,
        model=model,
        preset=preset,
        allow=allow,
        dicom_out=dicom_out,
        identifiers="keep" if identifiers == "keep" else "pseudonym",
    )
    execution = Execution(
        workers=workers, scheduler=scheduler, fresh=fresh, command=tuple(sys.argv)
    )
    summary = run_with_progress(inputs, options, execution)
    print_summary(summary, out)
    ctx.exit(exit_code(summary))
