"""`calcium-score evaluate`: agreement of predicted and reference scores."""

from __future__ import annotations

from pathlib import Path

import click

_TABLE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("evaluate")
@click.argument("predicted", metavar="PREDICTED.csv", type=_TABLE)
@click.argument("reference", metavar="REFERENCE.csv", type=_TABLE)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for evaluation.json, .md, .html and the figures.",
)
def command(predicted: Path, reference: Path, out: Path) -> None:
    """Measure how well predicted scores agree with reference scores.

    PREDICTED.csv is the scores.csv of a run. REFERENCE.csv has a column `agatston` and a
    column `scan_id`, `scan` or `source` that names each scan by its scan_id, its source,
    or one folder or file name in its source that no other scan shares.

    Prints ICC(2,1), linearly weighted kappa, Bland-Altman limits and more; writes them
    with a confusion matrix, a calibration table and figures. Scans that were refused
    are counted, not scored.
    """
    from pipelines.evaluation_report import measure_rows, write_evaluation
    from pipelines.score_pairs import read_pairs  # not needed for --help
    from pipelines.table_rows import UnusableTable

    try:
        pairs = read_pairs(predicted, reference)
    except UnusableTable as error:
        raise click.UsageError(str(error)) from error
    try:
        record = write_evaluation(pairs, out)
    except OSError as error:
        message = f"cannot write to {out}: {error.strerror}. Choose another folder."
        raise click.BadParameter(message, param_hint="--out") from error
    rows = measure_rows(record)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
    click.echo(f"\nWritten: {out / 'evaluation.html'}")
