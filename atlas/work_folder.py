"""Where a build keeps what it has done: everything it knows can be read from these files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registration.atomic_files import write_atomically

WORK_NAME = "work"


@dataclass(frozen=True, slots=True)
class WorkFolder:
    """Names of the working files of a build.

    Args:
        root: `OUT/work`.
    """

    root: Path

    def member(self, subject_id: str) -> Path:
        """Prepared subject."""
        return self.root / "members" / f"{subject_id}.npz"

    def label(self, subject_id: str) -> Path:
        """Copy of a subject's label image, if it has one."""
        return self.root / "members" / f"{subject_id}.label.nrrd"

    def facts(self, subject_id: str) -> Path:
        """What is known of a prepared or refused subject; written last."""
        return self.root / "members" / f"{subject_id}.json"

    def reviews(self, subject_id: str) -> tuple[str, ...]:
        """Codes of what a person should look at in a prepared subject."""
        path = self.facts(subject_id)
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return tuple(known.get("review", ()))

    def refusal(self, subject_id: str) -> Path:
        """Why a subject could not be prepared."""
        return self.root / "members" / f"{subject_id}.refused.json"

    @property
    def registration(self) -> Path:
        """Copy of the trained registration that a build goes by, if it does."""
        return self.root / "registration"

    def round(self, number: int) -> Path:
        """Folder of a round; 0 is the start reference."""
        return self.root / "rounds" / f"{number:02d}"

    def mean(self, number: int) -> Path:
        """Mean of a round."""
        return self.round(number) / "mean.npz"

    def planes(self, number: int) -> Path:
        """Middle planes of the mean of a round, for the report."""
        return self.round(number) / "planes.npz"

    def record(self, number: int) -> Path:
        """What a round came to; there only when the round is complete."""
        return self.round(number) / "round.json"

    def found(self, number: int, subject_id: str) -> Path:
        """Transform of a subject as its registration in a round found it."""
        return self.round(number) / "found" / f"{subject_id}.npz"

    def kept(self, number: int, variant: str, subject_id: str) -> Path:
        """The same after the update of the mean shape.

        Args:
            number: Of the round.
            variant: Which update; a round may try one and then another.
            subject_id: Who.
        """
        return self.round(number) / f"kept-{variant}" / f"{subject_id}.npz"

    def moved(self, number: int, variant: str, subject_id: str) -> Path:
        """A subject on the lattice of the atlas, after the same update."""
        return self.round(number) / f"moved-{variant}" / f"{subject_id}.npy"

    def read_record(self, number: int) -> dict[str, Any] | None:
        """Record of a round, `None` while it is not complete."""
        path = self.record(number)
        if not path.exists():
            return None
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return record

    def write_record(self, number: int, record: Mapping[str, Any]) -> None:
        """Declare a round complete."""
        write_atomically(self.record(number), json.dumps(record, indent=1) + "\n")

    def drop_moved(self, number: int) -> None:
        """Delete what only the averaging of a round needed."""
        for folder in self.round(number).glob("moved-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def drop_transforms(self, number: int) -> None:
        """Delete transforms and network of a round that a later one has replaced."""
        for folder in self.round(number).iterdir():
            if folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)
