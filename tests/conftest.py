"""Fixtures shared by the test rooms."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

PROJECT_ROOT = Path(__file__).resolve().parent.parent

_STATUS = pytest.StashKey[int]()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remember how the tests went."""
    session.config.stash[_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave before ITK's own Python package is torn down.

    After everything has been reported, the end of a process that has had some hundred tests,
    itk-elastix and TensorFlow in it is now and then a segmentation fault inside ITK, and the status
    that of a crash. A process that only registers ends well.
    """
    if "itk" in sys.modules and _STATUS in config.stash:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[_STATUS])


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
