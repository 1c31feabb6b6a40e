"""How much disk a build of an atlas takes, told before it takes it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from atlas.registration_methods import REGISTRATION_VOXELS
from atlas.work_folder import WorkFolder

BYTES_PER_VOXEL = 4.0
"""Of a subject on the lattice of the atlas: two moved images while a round ends, of two bytes per
voxel; then its log-Jacobian map."""

BYTES_PER_REGISTERED_VOXEL = 50.0
"""Of a subject on the registration grid, measured on chests of 3 mm: its transform as text 9, its
inverse 6 to 9, those of the last two rounds 14, and its displacement until the report is written
12 bytes, and a little for pictures."""

USUAL_SHARE = 0.9
"""The lattice of an atlas has about as many voxels as this quantile of its subjects."""


def expected_bytes(work: WorkFolder, subjects: Sequence[str]) -> int:
    """Most disk that a build takes, roughly: working files and results together.

    Args:
        work: Working files, with the prepared subjects.
        subjects: Their ids.

    Returns:
        Bytes; 0 without subjects.
    """
    if not subjects:
        return 0
    prepared = sum(work.member(name).stat().st_size for name in subjects)
    voxels = float(np.quantile([_voxels(work.member(name)) for name in subjects], USUAL_SHARE))
    each = BYTES_PER_VOXEL * voxels
    each += BYTES_PER_REGISTERED_VOXEL * min(voxels, float(REGISTRATION_VOXELS))
    return round(prepared + len(subjects) * each)


def disk_line(work: WorkFolder, subjects: Sequence[str]) -> str:
    """What a build will take and what is free, as a line for its user."""
    needed, free = expected_bytes(work, subjects), shutil.disk_usage(work.root).free
    line = f"at most about {_gigabytes(needed)} of disk will be taken, {_gigabytes(free)} are free"
    return f"{line}: too little" if needed > free else line


def _voxels(member: Path) -> int:
    with np.load(member, allow_pickle=False) as data:
        return int(np.prod(json.loads(str(data["facts"]))["size"]))


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
