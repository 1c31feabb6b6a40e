"""Fixtures shared by the test rooms."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PROJECT_ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real scans that lie beside a development checkout.

    Elsewhere the test skips; in continuous integration a skip would hide a gap, so it fails.
    """
    folder = PROJECT_ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        reason = "needs the real scans in ../shared/data, which do not ship with the project"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
