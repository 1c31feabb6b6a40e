"""The log file of an output folder: what the program tells of itself while it works there."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

LOGGER = logging.getLogger("calcium_score")


@contextlib.contextmanager
def logging_to(path: Path, *, level: int | None = None, delay: bool = False) -> Iterator[None]:
    """Send what is logged to a file, and nowhere else, for as long as a `with` block lasts.

    Args:
        path: File that is added to.
        level: Least severity that is logged; by default that of the logger as it is.
        delay: Make the file with the first line only.
    """
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace", delay=delay)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before = LOGGER.level, LOGGER.propagate
    LOGGER.addHandler(handler)
    if level is not None:
        LOGGER.setLevel(level)
    LOGGER.propagate = False
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        handler.close()
        LOGGER.setLevel(before[0])
        LOGGER.propagate = before[1]
