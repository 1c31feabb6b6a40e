"""Command `calcium-score warp`: a transform applied to an image, labels or landmarks."""

from __future__ import annotations

from pathlib import Path

import click

_FILE = click.Path(path_type=Path, exists=True)


@click.command()
@click.argument("source", metavar="INPUT", type=_FILE)
@click.option(
    "--transform",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="ITK transform from fixed to moving points, as `register` writes it.",
)
@click.option(
    "--reference", required=True, type=_FILE, help="The fixed image, whose grid the result takes."
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="File to write."
)
@click.option("--labels", is_flag=True, help="INPUT holds labels: take the nearest voxel.")
def command(source: Path, transform: Path, reference: Path, out: Path, labels: bool) -> None:
    """Bring INPUT, which belongs to the moving image, to the fixed one.

    INPUT is an image, labels (with --labels), DICOM as `register` takes it, or a table
    of landmarks: CSV with columns x, y, z in LPS mm, or a file of 3D Slicer (.fcsv, .mrk.json).

    Images and landmarks both end up in the space of the fixed image. Images get there through
    the transform as it is: every fixed voxel asks it where to look. Landmarks travel in the
    opposite direction, so they go through its inverse, which is computed here; give the same
    file for both.
    """
    from pipelines.pair_files import UnusableFile
    from pipelines.pair_warping import warp_file

    try:
        doubts = warp_file(source, transform, reference, out, labels=labels)
    except UnusableFile as error:
        raise click.UsageError(f"{error}.") from error
    for doubt in doubts:
        click.echo(doubt, err=True)
    click.echo(f"{out}")
