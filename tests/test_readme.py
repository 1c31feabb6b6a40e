"""What the documents promise exists: commands, options, make targets, files, examples."""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path

import click
import pytest

from calcium.presets import DEFAULT_PRESET, PRESETS
from pipelines.cli import main
from pipelines.results import COLUMNS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
)
CODE = re.compile(r"```[a-z]*\n(.*?)```|`([^`\n]+)`", re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
OPTION = re.compile(r"--[a-z][a-z-]*")
MAKE_TARGET = re.compile(r"^([a-z]+):", re.MULTILINE)
CONSOLE = "calcium-score"


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def code_lines(document: str) -> list[str]:
    """Lines of fenced blocks and code spans, comments cut off, continuations joined."""
    blocks = [fenced or span for fenced, span in CODE.findall(read(document))]
    return [
        line.partition(" #")[0].strip()
        for block in blocks
        for line in block.replace("\\\n", " ").splitlines()
    ]


def calls(document: str) -> list[list[str]]:
    """Words after the name of the console script, one list per call."""
    words = [shlex.split(line) for line in code_lines(document) if CONSOLE in line]
    return [line[1:] for line in words if line and Path(line[0]).name == CONSOLE]


def find_command(words: list[str]) -> click.Command:
    """Follow command names through the groups; what comes after them is arguments."""
    command: click.Command = main
    for word in words:
        if not isinstance(command, click.Group) or word.startswith("-"):
            break
        found = command.get_command(click.Context(command), word)
        assert found is not None, f"there is no command {CONSOLE} {' '.join(words)}"
        command = found
    return command


def options_of(command: click.Command) -> set[str]:
    parameters = command.get_params(click.Context(command))
    return {name for parameter in parameters for name in parameter.opts}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_and_options_exist(document: str) -> None:
    for words in calls(document):
        command = find_command(words)
        mentioned = {word.partition("=")[0] for word in words if OPTION.match(word)}
        assert mentioned <= options_of(command), f"{document}: {CONSOLE} {' '.join(words)}"


def test_every_command_stands_in_the_readme() -> None:
    named = {words[0] for words in calls("README.md") if words and not words[0].startswith("-")}
    assert named == set(main.list_commands(click.Context(main)))


def test_the_options_of_run_exist() -> None:
    table = read("README.md").partition("The main ones of `run`")[2].partition("Exit codes")[0]
    mentioned = set(OPTION.findall(table))
    assert len(mentioned) > 5
    assert mentioned <= options_of(find_command(["run"]))


def test_columns_are_those_of_the_table() -> None:
    text = " ".join(read("README.md").split())
    assert f"in this order: `{', '.join(COLUMNS)}`" in text


def test_presets_are_those_that_exist() -> None:
    rows = re.findall(r"^\| `([a-z][a-z0-9-]+)`( \(default\))?", read("README.md"), re.MULTILINE)
    listed = [name for name, _ in rows]
    assert listed == list(PRESETS)
    assert [name for name, mark in rows if mark] == [DEFAULT_PRESET.name]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_exist(document: str) -> None:
    targets = set(MAKE_TARGET.findall(read("Makefile")))
    assert {"setup", "demo", "test", "lint", "types", "bench", "model"} <= targets
    for line in code_lines(document):
        words = line.split()
        if len(words) > 1 and words[0] == "make":
            assert words[1] in targets, f"{document}: {line}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files(document: str) -> None:
    for target in LINK.findall(read(document)):
        assert ((ROOT / document).parent / target).exists(), f"{document} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_examples_run(document: str) -> None:
    results = doctest.testfile(str(ROOT / document), module_relative=False, encoding="utf-8")
    assert results.failed == 0
    if document == "docs/geometry.md":
        assert results.attempted >= 4


def test_first_screen_says_what_it_is_not() -> None:
    first_screen = "\n".join(read("README.md").splitlines()[:40])
    for promise in ("Research use, not a medical device", "**In:**", "**Out:**", "make demo"):
        assert promise in first_screen
