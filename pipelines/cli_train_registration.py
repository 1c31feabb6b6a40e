"""Command `calcium-score train registration`: networks that register pairs in one shot."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click


@click.command()
@click.argument("images", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Model folder; receives registration.json, registration.weights.h5, curve.csv, curve.png.",
)
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for cache and checkpoint; a rerun goes on there.  [default: OUT/work]",
)
@click.option(
    "--preset",
    type=click.Choice(["dirnet", "stack", "patients"]),
    default="dirnet",
    show_default=True,
    help="2-D slices, stacks of thick slices, or volumes of different patients.",
)
@click.option(
    "--recipe",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON file with layout and training, in place of a preset; see docs/registration.md.",
)
@click.option(
    "--group",
    help="Regular expression: images of a folder that match alike are paired.  [default: any two]",
)
@click.option(
    "--subject",
    help="Regular expression: images that match alike stay on one side of the split.",
)
@click.option(
    "--validation-share",
    type=click.FloatRange(min=0.0, max=0.9),
    default=0.1,
    show_default=True,
    help="Share of the subjects that choose the best step.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Batches per stage.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Pairs per batch.")
@click.option("--patience", type=click.IntRange(min=0), help="Validations without gain; 0: never.")
@click.option("--seed", type=click.IntRange(min=0), help="Of weights, pairs and augmentation.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
def command(
    images: Path,
    out: Path,
    work: Path | None,
    preset: str,
    recipe: Path | None,
    group: str | None,
    subject: str | None,
    validation_share: float,
    steps: int | None,
    batch_size: int | None,
    patience: int | None,
    seed: int | None,
    threads: int,
) -> None:
    """Train registration on IMAGES, without labels.

    IMAGES is a folder of NIfTI, NRRD, MetaImage, PNG, TIFF or DICOM files, or a CSV table with
    the column `image` (and `mask`, `group`, `subject`), or `fixed` and `moving`. Of DICOM every
    folder with a series is an image, or every file if the networks are for pictures. The training
    can be killed at any moment; the same command goes on, to the same weights.
    """
    from pipelines.registration_recipe import read_recipe, recipe_values, train_registration
    from pipelines.tensorflow_start import prefer_kernels

    try:
        values = recipe_values(preset, recipe)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    prefer_kernels(values.get("registration") if isinstance(values, dict) else None)
    import tensorflow as tf

    # a TensorFlow that has worked in this process already keeps its threads
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    changes = {"steps": steps, "batch_size": batch_size, "patience": patience, "seed": seed}
    try:
        metrics = train_registration(
            images,
            out,
            work or out / "work",
            read_recipe(preset, recipe, **changes),
            group=group,
            subject=subject,
            validation_share=validation_share,
            report=lambda line: click.echo(line, err=True),
        )
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename or out}: {error.strerror}.") from error
    except KeyboardInterrupt:
        raise click.ClickException("interrupted; run the same command again to go on.") from None
    click.echo(f"Weights and settings are in {out}.")
    for name, value in metrics.items():
        click.echo(f"{name:<32}{value:8.4f}")
