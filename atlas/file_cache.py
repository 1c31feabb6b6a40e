"""What is read from a file, kept in memory for as long as the file stays what it was."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar, cast

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

FileState = tuple[tuple[str, int, int, int], ...]
"""Name, inode, time of the last change [ns] and size [bytes] of every file."""


def kept_per_file(maxsize: int) -> Callable[[FunctionT], FunctionT]:
    """Decorator: remember the last values of a function of a file, or of a folder's files.

    Builds write their rounds under the same names, and processes outlive builds: a path alone does
    not say which mean it leads to.

    Args:
        maxsize: Values to keep.
    """

    def decorate(function: FunctionT) -> FunctionT:
        @lru_cache(maxsize=maxsize)
        def kept(path: Path, state: FileState, *others: Hashable) -> Any:
            return function(path, *others)

        @wraps(function)
        def looked_up(path: Path, *others: Hashable) -> Any:
            return kept(path, file_state(path), *others)

        return cast("FunctionT", looked_up)

    return decorate


def file_state(path: Path) -> FileState:
    """What tells one content of a file, or of the files of a folder, from the next.

    Raises:
        FileNotFoundError: If nothing is there.
    """
    files = sorted(f for f in path.iterdir() if f.is_file()) if path.is_dir() else [path]
    return tuple(_state(file) for file in files)


def _state(file: Path) -> tuple[str, int, int, int]:
    # opened, as network file systems answer for a name by what they knew seconds ago
    with file.open("rb") as stream:
        facts = os.fstat(stream.fileno())
    return file.name, facts.st_ino, facts.st_mtime_ns, facts.st_size
