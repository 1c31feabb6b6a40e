"""Command `calcium-score register`: one moving image to one fixed image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pipelines.pair_metrics import PairMetrics
    from registration.registrar import Registrar

_NEW_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("fixed", type=click.Path(path_type=Path, exists=True))
@click.argument("moving", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder; receives moved.*, transform.tfm and metrics.json.",
)
@click.option(
    "--model",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder of `train registration`: networks for images like these.",
)
@click.option(
    "--method",
    type=click.Choice(["network", "elastix"]),
    default="network",
    show_default=True,
    help="Networks of --model, or elastix, which needs none.",
)
@click.option(
    "--passes",
    type=click.IntRange(min=1),
    help="How often every deformable network looks at the pair, each time at what is left over: "
    "takes so many times as long and comes nearer. As the model says by default.",
)
@click.option(
    "--affine-steps",
    type=click.IntRange(min=0),
    help="Steps on this pair after an affine network, before the deformable ones: a handful takes "
    "less time than the network and comes as near as an affine transform can. As the model says by "
    "default.",
)
@click.option(
    "--deformable-steps",
    type=click.IntRange(min=0),
    help="Steps on this pair after every deformable network with a B-spline, on the correlation of "
    "the images: a few go nearly as far as --refine, in a tenth of the time. As the model says by "
    "default.",
)
@click.option(
    "--unfold",
    is_flag=True,
    help="Smooth the B-splines of networks and --refine where they fold, until nothing folds.",
)
@click.option(
    "--symmetric",
    is_flag=True,
    help="Register both ways and answer what lies between, so that it matters little which image "
    "is FIXED. Takes twice as long.",
)
@click.option(
    "--refine",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Optimizer steps on this pair after the networks, on the similarity of their training.",
)
@click.option(
    "--refine-bending",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Weight of the bending energy in these steps, mm².",
)
@click.option(
    "--refine-finer",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Further steps on voxels of half the size that the networks see: slow in three axes, but "
    "small structures count there.",
)
@click.option(
    "--ignore-margins",
    is_flag=True,
    help="Leave out of all these steps what is blank at the faces of an image, as of one that was "
    "resampled onto a larger grid, and what lies beyond the moving image.",
)
@click.option(
    "--control-points",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    show_default=True,
    help="Distance between the control points of --method elastix, mm.",
)
@click.option(
    "--iterations",
    type=click.IntRange(min=1),
    help="Iterations of --method elastix, for each of two resolutions of either stage.  "
    "[default: 100]",
)
@click.option(
    "--bending",
    type=click.FloatRange(min=0),
    help="Weight of the bending energy of --method elastix, mm².  [default: 0]",
)
@click.option(
    "--dense",
    type=_NEW_FILE,
    help="Also write the displacement at every voxel of FIXED, LPS mm: an ITK transform (.h5, "
    ".tfm), or an image of vectors (.nii.gz, .nrrd, .mha).",
)
@click.option(
    "--learn2reg",
    type=_NEW_FILE,
    help="Also write it as Learn2Reg reads it (.nii.gz; three axes).",
)
@click.option(
    "--inverse",
    type=_NEW_FILE,
    help="Also write the inverse, from points of MOVING to points of FIXED, in one of the formats "
    "of --dense, and tell how far it is from undoing the transform.",
)
@click.option(
    "--picture",
    type=_NEW_FILE,
    help="Also draw the middle slice (.png): checkerboards before and after, deformed grid, "
    "Jacobian.",
)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
def command(
    fixed: Path,
    moving: Path,
    out: Path,
    model: Path | None,
    method: str,
    passes: int | None,
    affine_steps: int | None,
    deformable_steps: int | None,
    unfold: bool,
    symmetric: bool,
    refine: int,
    refine_bending: float,
    refine_finer: int,
    ignore_margins: bool,
    control_points: float,
    iterations: int | None,
    bending: float | None,
    dense: Path | None,
    learn2reg: Path | None,
    inverse: Path | None,
    picture: Path | None,
    threads: int,
) -> None:
    """Register MOVING to FIXED, two or three axes, and write what came of it.

    Images are NIfTI, NRRD, MetaImage, PNG or TIFF files, or DICOM: a file, or a folder with
    one series, of any modality. The moved image lies on the grid of FIXED, in the format and
    voxel type of MOVING (NRRD for a series). transform.tfm takes points of FIXED to points of
    MOVING, LPS mm, and is read by SimpleITK, and by 3D Slicer where it has three axes and no
    B-spline but cubic ones (otherwise give it the field of --dense). `calcium-score warp` applies
    it to anything else.
    """
    from pipelines.pair_files import UnusableFile
    from pipelines.pair_outputs import PairOutputs
    from pipelines.pair_registration import register_files
    from registration.symmetric_registrar import SymmetricRegistrar

    if method == "network" and model is None:
        raise click.UsageError("--method network needs --model; --method elastix needs none.")
    looks = {"passes": passes, "affine_steps": affine_steps, "deformable_steps": deformable_steps}
    looks["unfold"] = unfold
    if method == "elastix" and any((model, refine, refine_finer, *looks.values())):
        raise click.UsageError(
            "--model, --passes, --affine-steps, --deformable-steps, --unfold, --refine and "
            "--refine-finer belong to --method network."
        )
    if method == "network" and (iterations is not None or bending is not None):
        raise click.UsageError("--iterations and --bending belong to --method elastix.")
    if ignore_margins and not (refine or refine_finer):
        raise click.UsageError("--ignore-margins needs --refine or --refine-finer: it is of those.")
    try:
        if model is None:
            registrar = _elastix(control_points, iterations, bending, threads)
        else:
            steps = {"steps": refine, "finer_steps": refine_finer}
            steps["ignore_margins"] = ignore_margins
            registrar = _networks(model, looks, steps, refine_bending, threads)
        if symmetric:
            registrar = SymmetricRegistrar(registrar)
        outputs = PairOutputs(dense, learn2reg, inverse, picture)
        metrics = register_files(fixed, moving, out, registrar, outputs=outputs)
    except UnusableFile as error:
        raise click.UsageError(f"{error}.") from error
    except (ImportError, RuntimeError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    _tell(metrics, out)


def _tell(metrics: PairMetrics, out: Path) -> None:
    names = ["ncc_before", "ncc_after", "folding_percent", "sd_jacobian", "seconds"]
    if metrics.inverse_mean_error_mm is not None:
        names += ["inverse_mean_error_mm", "inverse_max_error_mm"]
    width = max(16, *(len(name) + 2 for name in names))
    for name in names:
        value = getattr(metrics, name)
        click.echo(f"{name:<{width}}{'-' if value is None else f'{value:9.4f}'}")
    click.echo(f"Moved image, transform and metrics are in {out}.")
    for doubt in metrics.doubts:
        click.echo(f"Warning: {doubt}", err=True)
    for note in metrics.notes:
        click.echo(f"Note: {note}", err=True)


def _networks(
    model: Path,
    looks: Mapping[str, Any],
    steps: Mapping[str, Any],
    bending: float,
    threads: int,
) -> Registrar:
    import contextlib

    from pipelines.tensorflow_start import prefer_kernels
    from registration.registration_folder import (
        load_registration,
        read_registration,
        trained_similarity,
    )

    try:
        description = read_registration(model)
        prefer_kernels(description.get("registration"))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--model") from error
    import tensorflow as tf

    from registration.refinement import RefinementOptions

    # a TensorFlow that has worked in this process already keeps its threads
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    options = None
    try:
        if any(steps.values()):
            objective = replace(trained_similarity(description), bending_weight=bending)
            options = RefinementOptions(**steps, objective=objective)
        return load_registration(model, refinement=options, **looks)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--model") from error


def _elastix(
    control_point_spacing_mm: float, iterations: int | None, bending: float | None, threads: int
) -> Registrar:
    from registration.baselines import ElastixRegistrar, ElastixStage

    stages = [ElastixStage("affine"), ElastixStage("bspline", control_point_spacing_mm)]
    if iterations is not None:
        stages = [replace(stage, iterations=iterations) for stage in stages]
    if bending is not None:
        stages[1] = replace(stages[1], bending_weight=bending)
    return ElastixRegistrar(stages, threads=threads)
