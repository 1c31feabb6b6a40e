"""Names by which a series may be called: the folders on the way to it, and its own."""

from __future__ import annotations

import re
from functools import cache

from pipelines.discovery import DICOM_SUFFIXES
from pipelines.volume_headers import suffix_of

_MORE_FILES = re.compile(r"(?P<mark> \[(?:[^\[\]]|\[[^\[\]]*\])+ and \d+ more\])$")
_SAME_FILE = re.compile(r"^(?P<name>.+)(?P<mark> \[(?P=name)\])$")
"""How `pipelines.discovery` marks series in one folder, `p1 [IM1.dcm and 9 more]`, and files of
one path, `a.nii [a.nii]`. Brackets that a folder's own name ends with are no such mark."""


@cache
def names_in_source(source: str) -> frozenset[str]:
    """Whole folder and file names of a source, with and without suffix.

    Args:
        source: Where a series lies, as `pipelines.discovery` says it: from the name of the
            input on, with forward slashes.

    Example:
        >>> sorted(names_in_source("cohort/p1/ct.nii.gz"))
        ['cohort', 'ct', 'ct.nii.gz', 'p1']
    """
    path = source.rstrip("/")
    name = path.rpartition("/")[2]
    mark = _MORE_FILES.search(name) or _SAME_FILE.search(name)
    if mark:
        path = path[: -len(mark["mark"])]
    parts = [part for part in path.split("/") if part]
    return frozenset({*parts, *map(_without_suffix, parts)})


def _without_suffix(name: str) -> str:
    """A dot alone begins no suffix: folders may be named by a UID."""
    suffixes = (suffix_of(name) or "", *DICOM_SUFFIXES, ".zip")
    found = next((s for s in suffixes if s and name.lower().endswith(s)), "")
    return name[: len(name) - len(found)] or name
