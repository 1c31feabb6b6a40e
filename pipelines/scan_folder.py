"""The folder of one scan: filled aside, then put in place whole.

A reader never sees a half-written folder, and files that somebody else left in it stay.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipelines.journal import JOURNAL_NAME
from registration.atomic_files import PART_SUFFIX, sync_folder, umask

SCANS_FOLDER = "scans"
RESULT_NAME = "result.json"
REPORT_NAME = "report.html"
FEEDBACK_NAME = "feedback.nii.gz"
ALIGNMENT_NAME = "alignment.tfm"
STRUCTURED_REPORT_NAME = "sr.dcm"
CAPTURES_FOLDER = "sc"

OWN_NAMES = (RESULT_NAME, REPORT_NAME, FEEDBACK_NAME, ALIGNMENT_NAME, STRUCTURED_REPORT_NAME)

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


def scan_folder(out: Path, scan_id: str) -> Path:
    """Where the files of a scan belong.

    Raises:
        ValueError: If `scan_id` could lead out of the folder.
    """
    if not _SAFE_NAME.fullmatch(scan_id):
        raise ValueError(
            f"scan_id must be letters, digits, '.', '_' and '-'. Received: {scan_id!r}"
        )
    return out / SCANS_FOLDER / scan_id


def is_scan_folder(folder: Path) -> bool:
    """Whether a run wrote this folder about a scan, or was writing it when it was killed.

    Its place in the folder of the run tells, and what it holds: scans of the user may lie
    in a folder `scans`, too.
    """
    if folder.parent.name != SCANS_FOLDER or not (folder.parents[1] / JOURNAL_NAME).is_file():
        return False
    return folder.name.endswith(PART_SUFFIX) or bool(_own_files(folder))


@contextlib.contextmanager
def filling(out: Path, scan_id: str) -> Iterator[Path]:
    """A new folder to fill with the files of a scan, put in place when the block ends well.

    If the block raises, nothing appears. Files of an earlier run are replaced;
    `result.json` goes first and comes last, so that it vouches for the others.

    Args:
        out: Folder of the run.
        scan_id: Pseudonym of the scan.

    Yields:
        A folder on the same file system.
    """
    target = scan_folder(out, scan_id)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{scan_id}.", suffix=PART_SUFFIX, dir=target.parent))
    try:
        part.chmod(0o777 & ~umask())
        yield part
        _sync(part)
        _put_in_place(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove_own_files(folder: Path) -> None:
    """Delete what a run wrote about a scan, and the folder if nothing else is in it."""
    for path in _own_files(folder):
        path.unlink(missing_ok=True)
    for empty in (folder / CAPTURES_FOLDER, folder):
        with contextlib.suppress(OSError):
            empty.rmdir()


def _put_in_place(part: Path, target: Path) -> None:
    if not target.exists():
        with contextlib.suppress(OSError):  # somebody may have made it meanwhile
            part.rename(target)
            sync_folder(target.parent)
            return
    remove_own_files(target)
    target.mkdir(exist_ok=True)
    new = sorted(_own_files(part), key=lambda path: path.name == RESULT_NAME)
    for path in new:
        place = target / path.relative_to(part)
        place.parent.mkdir(exist_ok=True)
        path.replace(place)
    sync_folder(target)


def _own_files(folder: Path) -> list[Path]:
    names = [folder / name for name in OWN_NAMES]
    return [*filter(Path.exists, names), *sorted((folder / CAPTURES_FOLDER).glob("*.dcm"))]


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
