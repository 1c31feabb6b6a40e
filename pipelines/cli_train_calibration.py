"""Command `calcium-score train calibration`: what a model's scores are worth, by known scores."""

from __future__ import annotations

from pathlib import Path

import click

_TABLE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("predicted", metavar="PREDICTED.csv", type=_TABLE)
@click.argument("reference", metavar="REFERENCE.csv", type=_TABLE)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Model folder that made the predictions; receives the calibration.",
)
def command(predicted: Path, reference: Path, out: Path) -> None:
    """Give a model 90 % intervals and chances of categories, from scans with known scores.

    PREDICTED.csv is the scores.csv of a run with the model, REFERENCE.csv names scans and
    their scores as for `calcium-score evaluate`. The scans must have taken no part in the
    training of the model; at least 20 of a kind, cardiac or chest, are needed, some hundreds
    are better.
    """
    from pipelines.model import ModelError
    from pipelines.score_calibration import calibrate_model
    from pipelines.score_pairs import read_pairs  # not needed for --help
    from pipelines.table_rows import UnusableTable

    try:
        calibration = calibrate_model(out, read_pairs(predicted, reference))
    except (UnusableTable, ModelError) as error:
        raise click.UsageError(str(error)) from error
    for kind, bins in calibration.bins.items():
        click.echo(f"{kind}: {calibration.counts[kind]} scans, {len(bins)} intervals by score")
    click.echo(f"Written: {out / 'model.json'}")
