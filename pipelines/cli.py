"""The console script `calcium-score`: which commands there are, and nothing else.

Commands are imported when they are called, so that `--help` answers at once.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

import click

from pipelines.tensorflow_start import prepare_tensorflow
from pipelines.version import program_version

COMMANDS: Mapping[str, tuple[str, str]] = {
    "run": ("pipelines.cli_run:command", "Score every CT in folders, zips and single files."),
    "demo": ("pipelines.cli_demo:command", "Score phantoms of known truth; nothing needed."),
    "phantom": ("pipelines.cli_phantom:phantom", "Write labeled phantom scans as DICOM."),
    "register": ("pipelines.cli_register:command", "Register a moving image to a fixed one."),
    "warp": ("pipelines.cli_warp:command", "Apply a transform to an image, labels or points."),
    "atlas": ("pipelines.cli_atlas:command", "Build a mean image of a cohort."),
    "train": ("pipelines.cli_train:command", "Train the networks of a model."),
    "agatston": ("pipelines.cli_agatston:command", "Reference Agatston score of a mask."),
    "evaluate": ("pipelines.cli_evaluate:command", "Agreement of two tables of scores."),
}
"""Command name to where it lives and what the list of commands says about it."""

DISCLAIMER = "Research use, not a medical device."


class LazyGroup(click.Group):
    """A group whose commands are imported on first use.

    Args:
        commands: Command name to `("module:attribute", one line of help)`. Names whose
            module does not exist are left out.
        **settings: What `click.Group` takes: `name`, `help` and so on.
    """

    def __init__(
        self,
        commands: Mapping[str, tuple[str, str]],
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self._places = {
            command: place
            for command, place in commands.items()
            if importlib.util.find_spec(place[0].partition(":")[0]) is not None
        }

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order given."""
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of that name; `None` if there is none."""
        if cmd_name not in self._places:
            return None
        prepare_tensorflow()
        module, _, attribute = self._places[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        rows = [(name, line) for name, (_, line) in self._places.items()]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"calcium-score {program_version()}. {DISCLAIMER}")
        ctx.exit()


main = LazyGroup(
    COMMANDS,
    name="calcium-score",
    help=(
        "Coronary artery calcium scores from CT, one-shot image registration and group-wise "
        f"atlases.\n\n{DISCLAIMER}\n\nExit codes: 0 every scan scored, 2 wrong usage, "
        "3 some scan rejected or failed, 4 nothing to score."
    ),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_print_version,
            help="Print the version and leave.",
        )
    ],
)
