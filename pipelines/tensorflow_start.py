"""How commands start TensorFlow: without what it says of itself.

Its libraries write lines such as "oneDNN custom operations are on" past Python, before any
setting of log levels is read. Here they go to a file for as long as the import lasts; whatever
else was said in that time is passed on afterwards.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_LIBRARY = "tensorflow"

_OWN_LINE = re.compile(
    rb"^WARNING: All log messages before absl::InitializeLog|^[IW]\d{4} .*\.cc:\d+\] "
    rb"|^To enable the following instructions: "
)
"""Information and warnings of TensorFlow's compiled parts; errors begin with E or F. One of
them has a second line."""


def prepare_tensorflow() -> None:
    """From now on, import TensorFlow without its own messages; nothing is imported yet."""
    known = any(isinstance(finder, _QuietFinder) for finder in sys.meta_path)
    if not known and _LIBRARY not in sys.modules:
        sys.meta_path.insert(0, _QuietFinder())


def prefer_kernels(registration: Any) -> None:
    """Let TensorFlow use oneDNN for networks of three axes; before its first import.

    It decides by the processor, and without AVX-512 its own convolutions of volumes take two to
    ten times as long. In two dimensions they are the faster ones. What the environment says
    already is left as it is.

    Args:
        registration: Plain values of a `RegistrationConfig`; anything else changes nothing.
    """
    stages = registration.get("stages") if isinstance(registration, dict) else None
    if isinstance(stages, list) and stages and all(_axes(stage) == 3 for stage in stages):
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def _axes(stage: Any) -> int:
    """Image axes of a stage's plain values, 0 if they cannot be told."""
    if not isinstance(stage, dict):
        return 0
    if stage.get("kind") == "affine":
        return int(stage.get("dimension", 3))
    downsamplings = stage.get("downsamplings", ())
    return len(downsamplings) if isinstance(downsamplings, list | tuple) else 0


def dask_setup(worker: object) -> None:
    """Called by Dask in every worker process that preloads this module."""
    del worker
    prepare_tensorflow()


@contextlib.contextmanager
def filtered_stderr() -> Iterator[None]:
    """File descriptor 2 without lines of TensorFlow's compiled parts, for the whole process."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept, contextlib.ExitStack() as stack:
        terminal = os.dup(2)
        stack.callback(os.close, terminal)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            kept.seek(0)
            for line in kept:
                if not _OWN_LINE.match(line):
                    os.write(2, line)


class _QuietFinder(MetaPathFinder):
    """Finds TensorFlow as anyone would, and steps aside."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _LIBRARY:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _QuietLoader(spec.loader)
        return spec


class _QuietLoader(Loader):
    """Runs a module with filtered error output, then leaves it to its real loader."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        with filtered_stderr():
            self._loader.exec_module(module)
