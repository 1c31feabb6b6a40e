"""What `run` and `demo` print: progress to stderr, the table to stdout, an exit code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipelines.batch import BatchSummary
from pipelines.model import ModelError
from pipelines.output_lock import OutputInUseError
from pipelines.results import ScanResult
from pipelines.run import RunOptions
from pipelines.run_inputs import Execution, OutputIsInputError, score_inputs
from pipelines.workers import WorkersLostError

PRINTED_ROWS = 60
"""Series printed one by one; of longer batches only those that were not simply scored."""


def run_with_progress(
    inputs: Sequence[Path], options: RunOptions, execution: Execution
) -> BatchSummary:
    """Score the inputs with a progress bar on stderr.

    Raises:
        click.ClickException: In place of every error that a user can mend.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            bar = progress.add_task("Looking for series", total=None)

            def found(number: int) -> None:
                progress.update(bar, description="Scoring", total=number)

            def finished(result: ScanResult) -> None:
                progress.advance(bar)

            return score_inputs(inputs, options, execution, on_found=found, on_finish=finished)
    except ModelError as error:
        raise click.BadParameter(str(error), param_hint="--model") from error
    except (OutputInUseError, OutputIsInputError) as error:
        raise click.BadParameter(f"{error}.", param_hint="--out") from error
    except PermissionError as error:
        raise click.BadParameter("cannot write there.", param_hint="--out") from error
    except OSError as error:
        raise click.ClickException(f"cannot write to {options.out}: {error.strerror}.") from error
    except KeyboardInterrupt:
        raise click.ClickException("interrupted; run the same command again to go on.") from None
    except WorkersLostError as error:
        raise click.ClickException(f"{error}.") from error


def print_summary(summary: BatchSummary, out: Path) -> None:
    """Print one line per series and the counts to stdout."""
    shown = summary.results
    if len(shown) > PRINTED_ROWS:
        shown = tuple(result for result in shown if result.status != "ok")
        click.echo(f"{len(summary.results) - len(shown)} series are ok; the others:")
    if shown:
        click.echo(f"{'scan':<14}{'status':<10}{'Agatston':>9}  {'category':<9} reasons, source")
    for result in shown:
        click.echo(_line(result))
    counts = ", ".join(f"{n} {status}" for status, n in summary.counts.items() if n)
    skipped = f", {summary.n_skipped} finished before" if summary.n_skipped else ""
    if summary.results:
        click.echo(f"{len(summary.results)} series: {counts}{skipped}. {summary.seconds:.1f} s")
        click.echo(f"Reports: {out / 'index.html'}   Table: {out / 'scores.csv'}")
    else:
        click.echo("Nothing to score: no series of images found.", err=True)


def _line(result: ScanResult) -> str:
    agatston = "-" if result.agatston is None else f"{result.agatston:.1f}"
    told = "  ".join(part for part in (result.reasons, result.source) if part)
    category = result.risk_category or "-"
    return f"{result.scan_id:<13} {result.status:<9} {agatston:>9}  {category:<9} {told}"
