"""Command `calcium-score train alignment`: the atlas, and the network that finds the heart."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click


@click.command()
@click.argument("scans", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Model folder; receives atlas.nii.gz and alignment.weights.h5.",
)
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for checkpoint and curves; a rerun goes on there.  [default: OUT/work]",
)
@click.option(
    "--atlas",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Atlas of chest CT to align to, as `calcium-score atlas build` writes it.  [default: an "
    "affine mean of SCANS is built]",
)
@click.option("--steps", type=click.IntRange(min=1), default=1500, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--phantoms",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Synthetic scans added to the cohort.",
)
@click.option("--hold-out", multiple=True, help="Scan kept for validation; may be repeated.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
def command(
    scans: tuple[Path, ...],
    out: Path,
    work: Path | None,
    atlas: Path | None,
    steps: int,
    seed: int,
    phantoms: int,
    hold_out: tuple[str, ...],
    threads: int,
) -> None:
    """Build the atlas from SCANS, or take ATLAS, and train the network that aligns to it.

    SCANS are non-contrast CT of whole chests: folders, archives or files. No labels are
    needed. The training can be killed at any moment; the same command goes on.
    """
    import tensorflow as tf

    from pipelines.alignment_training import AlignmentRecipe, train_alignment

    # a TensorFlow that has worked in this process already keeps its threads
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    recipe = AlignmentRecipe(
        steps=steps, seed=seed, phantoms=phantoms, hold_out=hold_out, atlas=atlas
    )
    try:
        metrics = train_alignment(
            scans, out, work or out / "work", recipe, report=lambda line: click.echo(line, err=True)
        )
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"Atlas, weights and settings are in {out}.")
    for name, value in metrics.items():
        click.echo(f"{name:<24}{value:8.3f}")
