"""Commands `calcium-score atlas build` and `atlas refine`: a mean image of a cohort."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from atlas.settings import AtlasSettings
    from pipelines.atlas_build import AtlasExecution
    from pipelines.atlas_cohort import CohortEntry
    from pipelines.atlas_continuation import Continuation
    from pipelines.atlas_record import AtlasSummary

ALL_IN, SOME_LEFT_OUT = 0, 3
"""Exit codes; 2 is wrong usage, 1 an atlas that cannot be built."""


@click.group("atlas")
def command() -> None:
    """Build a mean image of a cohort, or go on with one."""


def _common(function: Callable[..., None]) -> Callable[..., None]:
    """Options of both commands."""
    options = [
        click.option(
            "--out",
            required=True,
            type=click.Path(file_okay=False, path_type=Path),
            help="Folder of the atlas; the same command again goes on where it stopped.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="Processes to work in; each takes one subject at a time, with one thread.",
        ),
        click.option(
            "--scheduler", metavar="ADDRESS", help="Dask scheduler to use, as tcp://host:port."
        ),
        click.option(
            "--keep",
            type=click.Choice(["outputs", "work", "rounds"]),
            default="work",
            show_default=True,
            help="What stays when it is finished: results, also what `refine` needs, or all.",
        ),
        click.option("--fresh", is_flag=True, help="Start anew; files of others are left alone."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@command.command("build")
@click.argument("cohort", type=click.Path(exists=True, path_type=Path))
@_common
@click.option(
    "--modality",
    type=click.Choice(["auto", "ct", "other"]),
    default="auto",
    show_default=True,
    help="HU, or intensities of any scale.",
)
@click.option(
    "--spacing",
    type=click.FloatRange(min=0, min_open=True),
    help="Edge of the atlas' voxels, mm.  [default: 3 for CT, else the cohort's median]",
)
@click.option(
    "--start",
    default="mean",
    show_default=True,
    help="First reference: mean, medoid, or the id of a subject.",
)
@click.option(
    "--method",
    type=click.Choice(["gradient", "network", "trained", "elastix"]),
    default="gradient",
    show_default=True,
    help="What finds the deformable stages.",
)
@click.option(
    "--registration",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of `train registration` on images like these, for --method trained.",
)
@click.option(
    "--only",
    type=click.Choice(["rigid", "affine", "deformable"]),
    default="deformable",
    show_default=True,
    help="Last degrees of freedom.",
)
@click.option(
    "--average",
    type=click.Choice(["mean", "trimmed", "median"]),
    default="mean",
    show_default=True,
    help="How subjects are averaged; trimmed leaves out a tenth at either end.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    help="Most rounds of every affine and deformable stage.  [default: 2 to 5, by stage]",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.002,
    show_default=True,
    help="Gain in correlation of held-out subjects below which a stage ends.",
)
@click.option(
    "--shape-step",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=0.25,
    show_default=True,
    help="Share of the mean displacement taken out in every deformable round.",
)
@click.option(
    "--sharpen",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Weight of an unsharp mask on every average.",
)
@click.option(
    "--pose",
    type=click.Choice(["scanner", "principal"]),
    default="scanner",
    show_default=True,
    help="The subjects' mean pose, or that of the atlas' axes of inertia.",
)
@click.option(
    "--hold-out",
    type=click.FloatRange(min=0, max=0.5),
    default=0.1,
    show_default=True,
    help="Share of the subjects to judge by; none of fewer than 8.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.pass_context
def build(ctx: click.Context, /, cohort: Path, out: Path, **chosen: Any) -> None:
    """Build the mean image of COHORT and lay every subject into it.

    COHORT is a folder with CT series (DICOM, NIfTI, NRRD, MetaImage) or other volumes, a folder
    with `images/` and, if wanted, `labels/` and `masks/`, or a CSV table with the column `path`
    and, if wanted, `id`, `mask`, `label` and `group`. Fields of view and spacings may be mixed.

    Writes OUT/atlas.nii.gz, deviation and coverage, transforms of every subject, history.csv,
    atlas.json and qc.html. Can be killed at any moment; the same command goes on, to the same
    atlas.

    Exit codes: 0 every subject is in it, 1 it cannot be built, 2 wrong usage, 3 some subject is
    left out, or its files could not be written.
    """
    _use_one_thread()
    from pipelines.atlas_cohort import find_modality, find_spacing_mm, read_entries

    execution = _execution(chosen)
    digest = _registration_digest(chosen)
    try:
        entries = read_entries(cohort, exclude=[out])
        modality = chosen["modality"]
        modality = find_modality(entries) if modality == "auto" else modality
        spacing = chosen["spacing"] or find_spacing_mm(entries, modality)
    except (ValueError, OSError) as error:
        raise click.BadParameter(f"{error}.", param_hint="COHORT") from error
    settings = _settings(modality, spacing, digest, chosen)
    click.echo(
        f"{len(entries)} subjects, {'CT' if modality == 'ct' else 'not CT'}, "
        f"voxels of {spacing:g} mm, at most {settings.most_rounds} rounds",
        err=True,
    )
    summary = _run(entries, out, settings, execution, None, chosen["registration"])
    _finish(ctx, summary, out)


@command.command("refine")
@click.argument("atlas", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("cohort", type=click.Path(exists=True, path_type=Path))
@_common
@click.pass_context
def refine(ctx: click.Context, /, atlas: Path, cohort: Path, out: Path, **chosen: Any) -> None:
    """Go on with a finished ATLAS and the new subjects of COHORT, into another folder.

    The subjects of ATLAS take part from its working files. Images of COHORT that are among them
    are skipped; another image under an id of ATLAS is refused. Settings are those of ATLAS. Exit
    codes are those of `build`.
    """
    _use_one_thread()
    from pipelines.atlas_cohort import read_entries
    from pipelines.atlas_continuation import new_entries, read_continuation, refined_settings

    execution = _execution(chosen)
    if out.resolve() == atlas.resolve():
        raise click.BadParameter("must be another folder than ATLAS.", param_hint="--out")
    try:
        continuation, settings = read_continuation(atlas)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="ATLAS") from error
    try:
        new, known = new_entries(continuation, read_entries(cohort, exclude=[out]))
    except (ValueError, OSError) as error:
        raise click.BadParameter(f"{error}.", param_hint="COHORT") from error
    click.echo(f"{len(continuation.entries)} subjects of the atlas, {len(new)} new ones", err=True)
    if known:
        click.echo(f"skipped as known: {', '.join(known)}", err=True)
    entries = sorted([*continuation.entries, *new], key=lambda entry: entry.subject.subject_id)
    summary = _run(entries, out, refined_settings(settings), execution, continuation)
    _finish(ctx, summary, out)


def _use_one_thread() -> None:
    """Before numpy is imported: one thread sums in one order."""
    from pipelines.single_thread import SINGLE_THREAD

    os.environ.update(SINGLE_THREAD)


def _execution(chosen: dict[str, Any]) -> AtlasExecution:
    from pipelines.atlas_build import AtlasExecution

    if chosen["scheduler"] is not None and chosen["workers"] != 1:
        raise click.UsageError("--workers and --scheduler exclude each other.")
    return AtlasExecution(
        workers=chosen["workers"],
        scheduler=chosen["scheduler"],
        keep=chosen["keep"],
        fresh=chosen["fresh"],
        command=tuple(sys.argv),
        report=lambda line: click.echo(line, err=True),
    )


def _registration_digest(chosen: dict[str, Any]) -> str:
    """Digest of the trained registration, if the method needs one."""
    folder = chosen["registration"]
    if (folder is None) == (chosen["method"] == "trained"):
        raise click.UsageError("--method trained needs --registration; other methods have none.")
    if folder is None:
        return ""
    from atlas.trained_method import check_registration

    try:
        return check_registration(folder)
    except ValueError as error:
        told = str(error).removesuffix(".")
        raise click.BadParameter(f"{told}.", param_hint="--registration") from error


def _settings(
    modality: Any, spacing: float, registration_sha256: str, chosen: dict[str, Any]
) -> AtlasSettings:
    from dataclasses import replace

    from atlas.settings import AtlasSettings, default_stages

    kinds = ("rigid", "affine", "deformable")
    wanted = kinds[: kinds.index(chosen["only"]) + 1]
    stages = tuple(
        stage for stage in default_stages(modality, chosen["method"]) if stage.kind in wanted
    )
    if chosen["rounds"]:
        stages = tuple(
            stage if stage.kind == "rigid" else replace(stage, rounds=chosen["rounds"])
            for stage in stages
        )
    return AtlasSettings(
        modality=modality,
        spacing_mm=spacing,
        start=chosen["start"],
        method=chosen["method"],
        stages=stages,
        average=chosen["average"],
        shape_step=chosen["shape_step"],
        sharpen=chosen["sharpen"],
        pose=chosen["pose"],
        tolerance=chosen["tolerance"],
        held_out_share=chosen["hold_out"],
        seed=chosen["seed"],
        registration_sha256=registration_sha256,
    )


def _run(
    entries: list[CohortEntry] | tuple[CohortEntry, ...],
    out: Path,
    settings: AtlasSettings,
    execution: AtlasExecution,
    continuation: Continuation | None,
    registration: Path | None = None,
) -> AtlasSummary:
    """Build with a bar on stderr for the round at work; errors in a user's words."""
    from dataclasses import replace

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from atlas.mean_update import AtlasError
    from pipelines.atlas_build import build_atlas
    from pipelines.atlas_continuation import OtherBuildError
    from pipelines.output_lock import OutputInUseError
    from pipelines.workers import WorkersLostError

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            bar = bars.add_task("", total=None)

            def on_progress(what: str, done: int, total: int) -> None:
                bars.update(bar, description=what, completed=done, total=total)

            return build_atlas(
                entries,
                out,
                settings,
                replace(execution, on_progress=on_progress),
                continuation=continuation,
                registration=registration,
            )
    except (OtherBuildError, OutputInUseError) as error:
        raise click.BadParameter(f"{error}.", param_hint="--out") from error
    except (AtlasError, WorkersLostError, ImportError) as error:
        raise click.ClickException(f"{error}.") from error
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise click.ClickException("interrupted; run the same command again to go on.") from None


def _finish(ctx: click.Context, summary: AtlasSummary, out: Path) -> None:
    record = summary.record
    click.echo(
        f"Mean of {record['subjects_averaged']} subjects after {record['rounds']} rounds, "
        f"{record['mean_displacement_vox']:.3f} voxels from the mean shape."
    )
    for name, reason in summary.left_out:
        click.echo(f"left out: {name}: {reason}")
    for name, reason in summary.failed:
        click.echo(f"failed: {name}: {reason}; the same command tries again")
    click.echo(f"Atlas: {out / 'atlas.nii.gz'}   Report: {out / 'qc.html'}")
    ctx.exit(SOME_LEFT_OUT if summary.left_out or summary.failed else ALL_IN)
