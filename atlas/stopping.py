"""When a stage of a build has come to its end, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atlas.settings import AtlasSettings, Stage

SMALL_CHANGE = 10.0
"""Change of the atlas that counts as none, in units of the tolerance of similarity."""

SMALL_SHIFT_VOX = 0.1
"""Mean displacement that counts as none, voxels of the atlas."""

FALLING = 0.5
"""Share of the last round's value below which a value still falls. One that falls more slowly stays
above what is small for rounds to come: that alone is no reason for them."""

_STILL_FALLS = "still falls"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a stage is over.

    Args:
        is_over: Whether the next round belongs to the next stage.
        reason: Why, in words.
    """

    is_over: bool
    reason: str


def stage_verdict(
    stage: Stage, settings: AtlasSettings, rounds: Sequence[Mapping[str, Any]]
) -> Verdict:
    """Whether one more round of a stage is worth it.

    A stage is over when those who judge lose, or gain less than the tolerance while neither the
    atlas nor its mean shape is on its way to rest: what still changes is small, or does not get
    smaller.

    Args:
        stage: The stage; after its most rounds it is over in any case.
        settings: Tolerance of the similarity, and the voxel.
        rounds: What the rounds of the stage came to, this one the last: `RoundSubjects.told`,
            `change` (share of the atlas' spread) and `mean_displacement_mm`.
    """
    is_last = len(rounds) >= stage.rounds
    place = f"round {len(rounds)} of at most {stage.rounds}"
    if len(rounds) < 2:
        return Verdict(is_last, place)
    gain = judged_gain(rounds[-2], rounds[-1])
    if gain is None:
        return Verdict(is_last, f"{place}; nobody judged both this one and the one before")
    told = f"similarity gained {gain:.4f}"
    if gain >= settings.tolerance:
        return Verdict(is_last, f"{place}; {told}")
    if gain < 0:
        return Verdict(True, told)
    shift_limit_mm = SMALL_SHIFT_VOX * settings.spacing_mm
    limits = {"change": SMALL_CHANGE * settings.tolerance, "mean_displacement_mm": shift_limit_mm}
    found = {name: _course(rounds[-2][name], rounds[-1][name], limits[name]) for name in limits}
    told += (
        f", less than {settings.tolerance:g}; the change of the atlas {found['change']}, "
        f"the mean shift {found['mean_displacement_mm']}"
    )
    if _STILL_FALLS not in found.values():
        return Verdict(True, told)
    return Verdict(is_last, f"{place}; {told}")


def judged_gain(last: Mapping[str, Any], this: Mapping[str, Any]) -> float | None:
    """Mean gain in similarity of those who judged both rounds; `None` if nobody did.

    Who is left out of one of them would count as a gain or a loss of the others.
    """
    if "judges" not in last or "judges" not in this:  # written by an earlier version
        return float(this["judged_similarity"] - last["judged_similarity"])
    both = set(last["judges"]) & set(this["judges"])
    if not both:
        return None
    gains = [this["similarities"][name] - last["similarities"][name] for name in sorted(both)]
    return float(np.mean(gains))


def _course(last: float, this: float, limit: float) -> str:
    """Where a value that should come to rest is on its way."""
    if this < limit:
        return "is small"
    return _STILL_FALLS if this < FALLING * last else "falls no longer"
