"""`calcium-score demo`: phantoms of known truth, scored by the real program."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command("demo")
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for phantoms, tables and reports.",
)
@click.option(
    "--subjects",
    type=click.IntRange(min=1),
    default=6,
    show_default=True,
    help="How many phantoms; from 6 on, every risk category occurs.",
)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option(
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Model folder.  [default: the model that ships]",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes to work in.",
)
@click.pass_context
def command(
    ctx: click.Context, out: Path, subjects: int, seed: int, model: Path | None, workers: int
) -> None:
    """Write digital phantoms as DICOM, score them, print truth beside prediction.

    Needs no data and no network. OUT/phantoms holds the scans, OUT/results what
    `calcium-score run` says about them. The same seed gives the same phantoms.
    """
    from pipelines.cli_output import run_with_progress
    from pipelines.cli_run import exit_code
    from pipelines.demo import agreement_lines, prepare_cohort
    from pipelines.run import RunOptions
    from pipelines.run_inputs import Execution

    click.echo(f"Writing {subjects} phantoms (about 15 s each) ...", err=True)
    cohort = prepare_cohort(out / "phantoms", subjects=subjects, seed=seed)
    options = RunOptions(out=out / "results", model=model)
    execution = Execution(workers=workers, command=tuple(sys.argv))
    summary = run_with_progress([row.series for row in cohort], options, execution)
    for line in agreement_lines(cohort, summary.results):
        click.echo(line)
    click.echo(f"Reports: {options.out / 'index.html'}")
    ctx.exit(exit_code(summary))
