"""Versions of the installed program and of what it stands on."""

from __future__ import annotations

import contextlib


def program_version() -> str:
    """Version of the installed package, `"0+source"` when run from a bare checkout."""
    from importlib import metadata  # a third of the time that `--help` would take

    try:
        return metadata.version("calcium-score")
    except metadata.PackageNotFoundError:
        return "0+source"


def package_versions() -> dict[str, str]:
    """Versions of the packages that results depend on, by name."""
    from importlib import metadata

    names = ("numpy", "scipy", "SimpleITK", "pydicom", "keras", "tensorflow_cpu", "tensorflow")
    versions = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
