"""Which subjects a round averages, which judge it, and which it leaves out by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atlas.mean_update import AtlasError
from atlas.quality import Doubt, doubtful, with_unplaced
from atlas.settings import AtlasSettings, Stage
from atlas.subject_transform import Matrix

LEAST_AVERAGED = 2
"""Subjects below which a mean is no mean."""


@dataclass(frozen=True, slots=True)
class RoundSubjects:
    """Who takes part in a round, and in what way.

    Args:
        averaged: Ids of those the mean is made of.
        held_out: Ids of those that are registered, but not averaged.
        doubts: Those who are left out, with the reasons.
        similarities: Similarity to the mean of every subject, by id.
    """

    averaged: tuple[str, ...]
    held_out: tuple[str, ...]
    doubts: tuple[Doubt, ...]
    similarities: Mapping[str, float]

    @property
    def judges(self) -> tuple[str, ...]:
        """The held out, if there are any, else all: they tell when a stage is over."""
        return self.held_out or self.averaged

    @property
    def judged_similarity(self) -> float:
        """Mean similarity of the judges."""
        return self._similarity(self.judges)

    def told(self) -> dict[str, Any]:
        """Entries of the record of a round."""
        return {
            "similarity": self._similarity(self.averaged),
            "held_out_similarity": self._similarity(self.held_out) if self.held_out else None,
            "judged_similarity": self.judged_similarity,
            "averaged": list(self.averaged),
            "judges": list(self.judges),
            "left_out": [
                {"subject_id": doubt.subject_id, "reason": doubt.reason} for doubt in self.doubts
            ],
            "similarities": {name: round(value, 5) for name, value in self.similarities.items()},
        }

    def _similarity(self, names: Sequence[str]) -> float:
        return float(np.mean([self.similarities[name] for name in names]))


def round_subjects(
    found: Mapping[str, tuple[Matrix, Mapping[str, Any]]],
    training: Sequence[str],
    held_out: Sequence[str],
    stage: Stage,
    settings: AtlasSettings,
    records: Sequence[Mapping[str, Any]],
) -> RoundSubjects:
    """Choose who takes part in a round, by what its registrations came to.

    Args:
        found: Affine map and facts of every subject, by id.
        training: Ids of those that may be averaged.
        held_out: Ids of those that may not.
        stage: To which the round belongs. What a deformable one leaves out depends on the last
            affine one, too: a deformation can make anything resemble the mean.
        settings: Of the build.
        records: Of the rounds before.

    Raises:
        AtlasError: If fewer than `LEAST_AVERAGED` are left to average.
    """
    doubts = doubtful(found, training, settings)
    if stage.kind == "deformable":
        doubts = with_unplaced(doubts, records, settings.stages)
    left_out = {doubt.subject_id for doubt in doubts}
    averaged = tuple(name for name in training if name not in left_out)
    if len(averaged) < LEAST_AVERAGED:
        told = "; ".join(f"{doubt.subject_id}: {doubt.reason}" for doubt in doubts)
        raise AtlasError(f"fewer than two subjects fit each other. Left out: {told}")
    return RoundSubjects(
        averaged=averaged,
        held_out=tuple(name for name in held_out if name not in left_out),
        doubts=doubts,
        similarities={name: float(facts["similarity"]) for name, (_, facts) in found.items()},
    )
