"""One run at a time in one output folder."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

LOCK_NAME = ".lock"

LOGGER = logging.getLogger("calcium_score")


class OutputInUseError(RuntimeError):
    """Another run is writing to the same folder."""


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the folder; the lock vanishes with the process, however it ends."""
    try:
        import fcntl
    except ImportError:  # no such lock on Windows
        yield
        return
    handle = os.open(out / LOCK_NAME, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputInUseError("another run is writing to this folder") from error
        except OSError:  # file systems without locks
            LOGGER.debug("no locks on this file system")
        yield
    finally:
        os.close(handle)
