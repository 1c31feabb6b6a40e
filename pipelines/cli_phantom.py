"""Command `calcium-score phantom`: labelled phantom cohorts as DICOM."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write to; one folder per phantom.",
)
@click.option(
    "--kind",
    type=click.Choice(["cardiac", "chest", "mixed"]),
    default="mixed",
    show_default=True,
    help="Gated cardiac scans, whole chests, or both in turn.",
)
@click.option(
    "--subjects", type=click.IntRange(min=1), default=6, show_default=True, help="How many."
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="The same seed gives the same files.",
)
@click.option(
    "--population",
    type=click.Choice(["standard", "shifted"]),
    default="standard",
    show_default=True,
    help="Range of anatomy, plaque and noise.",
)
def phantom(out: Path, kind: str, subjects: int, seed: int, population: str) -> None:
    """Write digital CT phantoms with known calcium scores as DICOM series.

    Each phantom is a folder with series/*.dcm, truth.json, and masks in truth/.
    """
    from pipelines.phantoms.settings import SHIFTED, STANDARD
    from pipelines.phantoms.writing import write_cohort

    settings = SHIFTED if population == "shifted" else STANDARD
    rows = write_cohort(out, subjects=subjects, seed=seed, kind=kind, settings=settings)
    click.echo(f"{'phantom':<16}{'slices':>7}{'plaques':>9}{'Agatston':>10}  category")
    for row in rows:
        click.echo(
            f"{row.name:<16}{row.slices:>7}{row.plaques:>9}{row.agatston:>10.1f}  {row.category}"
        )
