"""Makes the scripts' folder importable, as it is when a script runs."""

from __future__ import annotations

import sys

import pytest

from tests.conftest import PROJECT_ROOT


@pytest.fixture(autouse=True)
def _scripts_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(PROJECT_ROOT / "benchmarks"))
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(PROJECT_ROOT / "benchmarks")):
            del sys.modules[name]
