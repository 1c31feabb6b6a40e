"""Who takes part in an atlas: files of every subject, and who is held out to judge by."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from registration.atomic_files import write_atomically
from registration.table_files import read_rows

SPLIT_NAME = "split.csv"
"""Which subjects are held out; written once and kept by every later run."""

TRAINING, HELD_OUT = "training", "held-out"

LEAST_FOR_HOLD_OUT = 8
"""Cohorts of fewer subjects need all of them for the mean."""

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


@dataclass(frozen=True, slots=True)
class Subject:
    """One subject of a cohort, by its files alone.

    Args:
        subject_id: Name in tables, file names and reports.
        path: Image file, or any file or folder that a reader knows to open.
        mask: Image whose voxels above zero count when images are compared; all by default.
        label: Label image to be carried to the atlas.
        group: Subjects of a group are alike; each gives its share to the held-out ones.

    Raises:
        ValueError: If the name could not be a file name.
    """

    subject_id: str
    path: Path
    mask: Path | None = None
    label: Path | None = None
    group: str = ""

    def __post_init__(self) -> None:
        if not _SAFE_NAME.fullmatch(self.subject_id):
            raise ValueError(
                "an id must be letters, digits, '.', '_' and '-', as it becomes a file name. "
                f"Received: {self.subject_id!r}"
            )


def read_subjects(table: Path) -> tuple[Subject, ...]:
    """Subjects of a table (see `read_rows`), in the order of their ids.

    The table has the column `path` (or `image`) and, if wanted, `id`, `mask`, `label` and
    `group`. Paths are relative to its folder; without ids the file names stand in.

    Raises:
        ValueError: If a column is missing, a file is not there, or an id occurs twice.
    """
    rows = read_rows(table)
    columns = set(rows[0]) if rows else set()
    column = next((name for name in ("path", "image") if name in columns), None)
    if column is None:
        raise ValueError(f"the table must have a column `path`. Received: {sorted(columns)}")
    subjects = []
    for number, row in enumerate(rows, start=2):
        files = {
            name: table.parent / row[name] for name in (column, "mask", "label") if row.get(name)
        }
        lost = [path.name for path in files.values() if not path.exists()]
        if column not in files or lost:
            raise ValueError(
                "every row must name files that exist. "
                f"Received: row {number} of {table.name}, {lost or 'no path'}"
            )
        path = files[column]
        name = row.get("id") or stem(path)
        group = row.get("group", "")
        subjects.append(Subject(name, path, files.get("mask"), files.get("label"), group))
    return in_order(subjects)


def in_order(subjects: Sequence[Subject]) -> tuple[Subject, ...]:
    """Subjects by id: whatever is summed over them is summed in this order.

    Raises:
        ValueError: If an id occurs twice.
    """
    ordered = sorted(subjects, key=lambda subject: subject.subject_id)
    names = [subject.subject_id for subject in ordered]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"every subject needs an id of its own. Received twice: {twice}")
    return tuple(ordered)


def stem(path: Path) -> str:
    """File name without its endings, made fit to be one.

    Example:
        >>> stem(Path("images/case 12.nii.gz"))
        'case_12'
    """
    name = re.sub(r"\.(nii\.gz|[A-Za-z]{2,4})$", "", path.name, flags=re.IGNORECASE)
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip("._-") or "subject"


def held_out_ids(
    folder: Path, subjects: Sequence[Subject], *, share: float, seed: int, goes_on: bool = False
) -> frozenset[str]:
    """Who is held out, by `split.csv`, which is written if it is not there.

    Subjects that came later stand in the file as training: who was held out once stays so. Only
    where an atlas of too few to hold anybody out goes on with enough, some of them are drawn; who
    was averaged before has left traces in the mean and cannot judge it.

    Args:
        folder: Where `split.csv` is, or is to be.
        subjects: The cohort.
        share: Share of every group to hold out, rounded; none of fewer than
            `LEAST_FOR_HOLD_OUT` subjects.
        seed: Which ones.
        goes_on: Whether an atlas goes on with more subjects.

    Raises:
        ValueError: If the file does not have the columns `id` and `part`.
    """
    path = folder / SPLIT_NAME
    parts = _read_split(path) if path.exists() else {}
    was_small = goes_on and len(parts) < LEAST_FOR_HOLD_OUT and HELD_OUT not in parts.values()
    if not path.exists() or was_small:
        new = [subject for subject in subjects if subject.subject_id not in parts]
        drawn = new if len(subjects) >= LEAST_FOR_HOLD_OUT else []
        parts |= dict.fromkeys(_drawn(drawn, share, seed), HELD_OUT)
    listed = {s.subject_id: parts.get(s.subject_id, TRAINING) for s in subjects}
    if listed.keys() - parts.keys() or not path.exists():
        lines = [f"{name},{part}" for name, part in sorted({**listed, **parts}.items())]
        write_atomically(path, "\n".join(["id,part", *lines]) + "\n")
    return frozenset(name for name, part in listed.items() if part == HELD_OUT)


def is_drawn_split(path: Path, groups: Mapping[str, str], *, share: float, seed: int) -> bool:
    """Whether a split is what `held_out_ids` drew, and not made or changed by hand.

    Args:
        path: The split.
        groups: Group of every subject of the cohort, by id.
        share: Share that was to be held out.
        seed: Of the draw.
    """
    try:
        parts = _read_split(path)
    except ValueError:
        return False
    if not parts.keys() <= groups.keys():
        return False
    subjects = [Subject(name, path, group=groups[name]) for name in parts]
    drawn = subjects if len(subjects) >= LEAST_FOR_HOLD_OUT else []
    expected = dict.fromkeys(parts, TRAINING)
    expected |= dict.fromkeys(_drawn(drawn, share, seed), HELD_OUT)
    return parts == expected


def _read_split(path: Path) -> dict[str, str]:
    """Part of every subject, by id."""
    rows = read_rows(path)
    if not all({"id", "part"} <= set(row) for row in rows):
        raise ValueError(f"{SPLIT_NAME} must have the columns `id` and `part`: {path}")
    return {row["id"]: row["part"] for row in rows}


def _drawn(subjects: Sequence[Subject], share: float, seed: int) -> list[str]:
    """The share of every group whose ids have the lowest digests; at least one of all."""
    if not subjects or share == 0:
        return []
    groups: dict[str, list[str]] = {}
    for subject in subjects:
        groups.setdefault(subject.group, []).append(subject.subject_id)
    drawn = []
    for names in groups.values():
        ranked = sorted(names, key=lambda n: hashlib.sha256(f"{seed} {n}".encode()).digest())
        drawn += ranked[: round(share * len(names))]
    if not drawn:
        names = [subject.subject_id for subject in subjects]
        drawn = [min(names, key=lambda n: hashlib.sha256(f"{seed} {n}".encode()).digest())]
    return drawn
