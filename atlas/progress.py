"""What a build says while it works: one line per round, with the time that is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from atlas.settings import AtlasSettings


class Progress:
    """Lines of plain text about the rounds of a build.

    Args:
        settings: Which rounds there can be.
        is_mixed: Whether focused stages take place.
    """

    def __init__(self, settings: AtlasSettings, is_mixed: bool) -> None:
        self._stages = [
            0 if stage.focused and not is_mixed else stage.rounds for stage in settings.stages
        ]

    def line(self, record: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> str:
        """What a round came to.

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
        told.append(f"{record['seconds']:.0f} s")
        left = self.rounds_left(record, records)
        if left:
            seconds = left * float(record["seconds"])
            told.append(f"at most {left} more rounds, {duration(seconds)}")
        return "; ".join(told)

    def rounds_left(self, record: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> int:
        """Rounds that may follow, at most."""
        number = int(record["stage_number"])
        done = sum(other["stage_number"] == number for other in records)
        rest = 0 if record["stage_over"] else self._stages[number] - done
        return rest + sum(self._stages[number + 1 :])


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
