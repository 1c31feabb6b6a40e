"""Command `calcium-score train scoring`: the network that tells coronary calcium apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from pipelines.scoring_recipe import ScoringRecipe

TABLE_OPTIONS = ("model", "epochs")
"""Options that mean something with --table alone."""

BACKGROUND_OPTIONS = ("simulated", "phantom_share", "hold_out")
"""Options that mean nothing without scans to put calcium into."""

SCANS_OPTIONS = (
    "work",
    "phantoms_only",
    "network",
    "members",
    "widths",
    "simulated",
    "phantoms",
    "anatomy",
    "phantom_share",
    "validation_phantoms",
    "steps",
    "learning_rate",
    "hold_out",
    "workers",
)
"""Options that mean something with SCANS alone."""

ADDITIVE_OPTIONS = ("members", "anatomy")
"""Options that mean something for additive networks alone."""

WIDTHS = {"additive": (12, 24, 40, 56), "plain": (12, 16, 24, 32, 48)}
"""Kernels of every level by default."""


def _widths(text: str | None) -> tuple[int, ...] | None:
    """Numbers of a list with commas."""
    if text is None:
        return None
    try:
        widths = tuple(int(part) for part in text.split(","))
    except ValueError:
        widths = ()
    # every level halves the crop of 128 points
    if not 2 <= len(widths) <= 7 or min(widths) < 1:
        raise click.BadParameter(
            f"must be two to seven positive numbers with commas between. Received: {text}"
        )
    return widths


@click.command()
@click.argument("scans", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Model folder with atlas and alignment; receives scoring.weights.h5. With --table, a new "
    "model folder.",
)
@click.option(
    "--table",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="CSV with the columns scan, agatston and, if known, lm_lad, lcx, rca: trains a model "
    "further on these scans, from their scores alone.",
)
@click.option(
    "--model",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="With --table: model to start from.  [default: the one that ships]",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="With --table: passes over the scans at most.",
)
@click.option(
    "--annotations",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder of JSON files with coronary courses and named components, one per scan.",
)
@click.option(
    "--phantoms-only",
    is_flag=True,
    help="Learn from digital phantoms alone, without SCANS: to try out, not for patients.",
)
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for simulated scans and checkpoints; a rerun goes on there.  [default: OUT/work]",
)
@click.option("--network", type=click.Choice(["additive", "plain"]), default="additive")
@click.option(
    "--members",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Additive networks trained one after the other, whose mean logit counts.",
)
@click.option(
    "--widths",
    callback=lambda ctx, parameter, value: _widths(value),
    help="Kernels of every level of the network, such as 16,32,64,96,128.  [default: "
    "12,24,40,56, plain 12,16,24,32,48]",
)
@click.option(
    "--anatomy/--no-anatomy",
    default=True,
    show_default=True,
    help="Whether networks also learn to draw where arteries, aorta and valves lie.",
)
@click.option("--simulated", type=click.IntRange(min=1), default=60, show_default=True)
@click.option("--phantoms", type=click.IntRange(min=0), default=120, show_default=True)
@click.option(
    "--phantom-share",
    type=click.FloatRange(0.0, 1.0),
    help="Share of the crops that show phantoms; the rest show simulated scans.  [default: all "
    "scans alike]",
)
@click.option(
    "--validation-phantoms",
    type=click.IntRange(min=0),
    default=40,
    show_default=True,
    help="Further phantoms, to which the counting rule is fitted.",
)
@click.option("--steps", type=click.IntRange(min=1), default=5000, show_default=True)
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Peak of the schedule. Long trainings of large networks want a lower one.  [default: "
    "0.002, plain 0.001]",
)
@click.option("--seed", type=click.IntRange(min=0), default=20261123, show_default=True)
@click.option(
    "--hold-out",
    multiple=True,
    help="Scan that takes no part; may be repeated. Its scores go to held_out.csv in the folder "
    "of the network in WORK, such as WORK/additive/held_out.csv.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Processes that make scans.",
)
@click.pass_context
def command(
    ctx: click.Context,
    scans: tuple[Path, ...],
    out: Path,
    table: Path | None,
    model: Path | None,
    epochs: int,
    annotations: Path | None,
    phantoms_only: bool,
    work: Path | None,
    network: str,
    members: int,
    widths: tuple[int, ...] | None,
    anatomy: bool,
    simulated: int,
    phantoms: int,
    phantom_share: float | None,
    validation_phantoms: int,
    steps: int,
    learning_rate: float | None,
    seed: int,
    hold_out: tuple[str, ...],
    workers: int,
) -> None:
    """Train scoring from SCANS with calcium inserted along their annotated vessels.

    Of calcium, only scores of crops are learnt from. The training can be killed at any moment; the
    same command goes on.

    With --table TABLE instead of SCANS, train a model further on a cohort of your own, from
    the scores of whole scans. A third of them takes no part and judges: if no pass is better
    than the start, the start is kept.

    With --phantoms-only, train a model from nothing but digital phantoms.
    """
    if table is not None:
        if scans or annotations is not None:
            raise click.UsageError("give either SCANS with --annotations, or --table")
        _refuse_given(ctx, SCANS_OPTIONS, "with SCANS and --annotations, not with --table")
        _report_progress()
        _fine_tune(table, model, out, epochs, seed)
        return
    if phantoms_only:
        _check_phantoms_only(ctx, bool(scans) or annotations is not None, phantoms)
    elif not scans or annotations is None:
        raise click.UsageError("give SCANS with --annotations, or --table, or --phantoms-only")
    _refuse_useless(ctx, network)
    _refuse_other_folders(out)

    from pipelines.scoring_recipe import LEARNING_RATES, ScoringRecipe

    _report_progress()
    recipe = ScoringRecipe(
        network=network,
        members=members if network == "additive" else 1,
        widths=widths or WIDTHS[network],
        anatomy=anatomy,
        learning_rate=learning_rate or LEARNING_RATES[network],
        simulated=0 if phantoms_only else simulated,
        phantoms=phantoms,
        phantom_share=phantom_share,
        validation_phantoms=validation_phantoms,
        steps=steps,
        seed=seed,
        hold_out=hold_out,
        workers=workers,
    )
    validation = _train(scans, annotations, out, recipe, work or out / "work")
    click.echo(f"Weights and settings are in {out}.")
    for name, value in validation.items():
        click.echo(f"{name:<12}{value:8.3f}")


def _refuse_given(ctx: click.Context, names: tuple[str, ...], where: str) -> None:
    """An option that would do nothing is a misunderstanding, told before hours are spent."""
    given = [
        max(parameter.opts, key=len)
        for parameter in ctx.command.params
        if parameter.name in names
        and ctx.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        verb = "goes" if len(given) == 1 else "go"
        raise click.UsageError(f"{', '.join(given)} {verb} {where}")


def _refuse_useless(ctx: click.Context, network: str) -> None:
    """Options that mean nothing in a training from scans or phantoms, or for its network."""
    _refuse_given(ctx, TABLE_OPTIONS, "with --table alone")
    if network == "plain":
        _refuse_given(ctx, ADDITIVE_OPTIONS, "with --network additive alone")


def _check_phantoms_only(ctx: click.Context, scans_given: bool, phantoms: int) -> None:
    if scans_given:
        raise click.UsageError("give either SCANS with --annotations, or --phantoms-only")
    if phantoms == 0:
        raise click.UsageError("--phantoms-only needs --phantoms. Received: 0")
    _refuse_given(ctx, BACKGROUND_OPTIONS, "with SCANS and --annotations, not with --phantoms-only")


def _refuse_other_folders(out: Path) -> None:
    from pipelines.model import ModelError, read_description

    try:
        described = read_description(out)
    except ModelError:
        described = {}
    if not {"heart", "alignment"} <= set(described):
        raise click.UsageError(
            f"--out must be a model folder with atlas and alignment, as `calcium-score train "
            f"alignment` writes it. Received: {out}"
        )


def _train(
    scans: tuple[Path, ...],
    annotations: Path | None,
    out: Path,
    recipe: ScoringRecipe,
    work: Path,
) -> dict[str, float]:
    """The training; scans, annotations and models that it cannot use are wrong usage."""
    from pipelines.model import ModelError
    from pipelines.scoring_training import train_model

    try:
        return train_model(scans, annotations, out, recipe, work)
    except (ValueError, ModelError) as error:
        raise click.UsageError(str(error)) from error
    except RuntimeError as error:
        # from another process, in which a scan could not be made
        if not isinstance(error.__cause__, ValueError):
            raise
        raise click.UsageError(str(error)) from error


def _report_progress() -> None:
    import logging

    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("pipelines").setLevel(logging.INFO)


def _fine_tune(table: Path, model: Path | None, out: Path, epochs: int, seed: int) -> None:
    from calcium.training_from_scores import FineTuningOptions
    from pipelines.model import ModelError
    from pipelines.scoring_table import fine_tune_model
    from pipelines.table_rows import UnusableTable

    out.mkdir(parents=True, exist_ok=True)
    options = FineTuningOptions(epochs=epochs, seed=seed)
    try:
        found = fine_tune_model(table, model, out, options)
    except (UnusableTable, ModelError) as error:
        raise click.UsageError(str(error)) from error
    if found.best:
        click.echo(
            f"Error on scans that took no part: {found.start_error:.3f} before, "
            f"{found.kept_error:.3f} after (mean difference of log scores)."
        )
    else:
        click.echo(
            "No pass was better than the start on scans that took no part "
            f"(error {found.start_error:.3f}): the start is kept."
        )
    click.echo(f"The model is in {out}; `calcium-score run --model {out}` uses it.")
