"""Version of the installed program."""

from __future__ import annotations


def program_version() -> str:
    """Version of the installed package, `"0+source"` when run from a bare checkout."""
    from importlib import metadata  # a third of the time that `--help` would take

    try:
        return metadata.version("calcium-score")
    except metadata.PackageNotFoundError:
        return "0+source"
