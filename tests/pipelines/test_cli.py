from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pipelines.cli import COMMANDS, LazyGroup, main


def installed_script() -> str:
    """The console script of the environment that runs the tests."""
    script = shutil.which("calcium-score", path=sysconfig.get_path("scripts"))
    if script is None:
        pytest.skip("the package is not installed in this environment")
    return script


def test_help_lists_the_commands_and_the_disclaimer() -> None:
    done = CliRunner().invoke(main, ["--help"])
    assert done.exit_code == 0
    assert "not a medical device" in done.output
    for name in ("run", "demo", "train"):
        assert f"\n  {name} " in done.output


@pytest.mark.parametrize("name", main.list_commands(click.Context(main)))
def test_every_listed_command_has_a_help_page(name: str) -> None:
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0
    assert done.output.startswith(f"Usage: calcium-score {name}")


def test_commands_live_where_the_map_says() -> None:
    context = click.Context(main)
    for name in main.list_commands(context):
        module, _, attribute = COMMANDS[name][0].partition(":")
        assert getattr(importlib.import_module(module), attribute) is main.get_command(
            context, name
        )


def test_commands_whose_module_is_missing_are_not_listed() -> None:
    group = LazyGroup({"fly": ("pipelines.cli_fly:command", "Fly.")}, name="group")
    context = click.Context(group)
    assert group.list_commands(context) == []
    assert group.get_command(context, "fly") is None


def test_unknown_command_is_wrong_usage() -> None:
    done = CliRunner().invoke(main, ["fly"])
    assert done.exit_code == 2
    assert "No such command" in done.stderr


def test_installed_script_prints_its_version() -> None:
    done = subprocess.run(
        [installed_script(), "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("calcium-score ")


def test_installed_script_refuses_an_input_that_does_not_exist(tmp_path: Path) -> None:
    words = [installed_script(), "run", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "does not exist" in done.stderr


def test_module_is_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Usage: calcium-score")
