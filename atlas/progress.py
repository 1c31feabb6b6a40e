"""What a build says while it works: one line per round, with the time that is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from atlas.settings import AtlasSettings, Stage

DEFORMABLE_WEIGHT = 4.5
"""Time that a deformable round takes beyond that of an affine one, in units of the latter, where
images are compared at every voxel; measured on 40 hippocampi and 70 CT."""

SHRINK_POWER = 1.5
"""By which power of the voxels that are left out that time falls; likewise."""

RESULTS_WEIGHT = 6.0
"""Time to write the results of deformable stages, same unit; of affine ones as a round's."""


class Progress:
    """Lines of plain text about the rounds of a build.

    Args:
        settings: Which rounds there can be.
        is_mixed: Whether focused stages take place.
    """

    def __init__(self, settings: AtlasSettings, is_mixed: bool) -> None:
        self._stages = settings.stages
        self._most = [
            0 if stage.focused and not is_mixed else stage.rounds for stage in settings.stages
        ]

    def line(self, record: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> str:
        """What a round came to, and what is left to do.

        Args:
            record: Of the round.
            records: Of all rounds so far, this one the last.
        """
        judged = record["held_out_similarity"]
        told = [
            f"round {record['round']} ({record['stage']}): "
            f"similarity {record['similarity']:.4f}"
            + (f", held out {judged:.4f}" if judged is not None else ""),
            f"atlas changed {100 * record['change']:.1f} %",
            f"mean shift {record['mean_displacement_mm']:.2f} mm",
        ]
        if record["left_out"]:
            names = ", ".join(doubt["subject_id"] for doubt in record["left_out"])
            told.append(f"left out: {names}")
        if record.get("verdict"):
            ends = "the stage ends" if record["stage_over"] else "the stage goes on"
            told.append(f"{ends} ({record['verdict']})")
        told.append(f"{record['seconds']:.0f} s")
        left = self.rounds_left(record, records)
        rounds = f"up to {left} more rounds and the results" if left else "the results are left"
        told.append(f"{rounds}, about {duration(self.seconds_left(record, records))}")
        return "; ".join(told)

    def rounds_left(self, record: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> int:
        """Rounds that may follow, at most."""
        return sum(self._rounds_left_by_stage(record, records))

    def seconds_left(
        self, record: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
    ) -> float:
        """Time for all rounds that may follow and for the results, s.

        Rounds of a stage take what its last ones took; of one that has hardly begun as much as
        their weight says, by the pace of the rounds most like them.
        """
        counts = self._rounds_left_by_stage(record, records)
        seconds = sum(
            count * stage_weight(stage) * self._pace(number, records)
            for number, (count, stage) in enumerate(zip(counts, self._stages, strict=True))
            if count
        )
        last = len(self._stages) - 1
        results = RESULTS_WEIGHT if self._stages[last].kind == "deformable" else 1.0
        return seconds + results * self._pace(last, records)

    def _rounds_left_by_stage(
        self, record: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
    ) -> list[int]:
        number = int(record["stage_number"])
        done = sum(other["stage_number"] == number for other in records)
        rest = 0 if record["stage_over"] else self._most[number] - done
        return [*(0 for _ in self._most[:number]), rest, *self._most[number + 1 :]]

    def _pace(self, number: int, records: Sequence[Mapping[str, Any]]) -> float:
        """Seconds per weight in a stage."""
        rounds = [record for record in records if record["stage_number"] >= 0]
        own = [record for record in rounds if record["stage_number"] == number]
        kind = self._stages[number].kind
        alike = [r for r in rounds if self._stages[r["stage_number"]].kind == kind]
        # the first round of a stage begins with nothing, the first deformable one with a start of
        # TensorFlow: neither is what the next ones will be like
        chosen = own[1:] or alike[1:] or rounds
        seconds = sum(float(record["seconds"]) for record in chosen)
        return seconds / sum(stage_weight(self._stages[r["stage_number"]]) for r in chosen)


def stage_weight(stage: Stage) -> float:
    """Time that a round of a stage takes, in units of an affine one; a rough guess.

    Example:
        >>> stage_weight(Stage("affine", 2)), stage_weight(Stage("deformable", 2, 4.0))
        (1.0, 5.5)
    """
    if stage.kind != "deformable":
        return 1.0
    return 1.0 + float(DEFORMABLE_WEIGHT / stage.shrink**SHRINK_POWER)


def duration(seconds: float) -> str:
    """A duration for reading.

    Example:
        >>> duration(42.0), duration(600.0), duration(9000.0)
        ('42 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
