"""What decides the weights of a scoring network, besides the scans."""

from __future__ import annotations

from dataclasses import dataclass, field

LEARNING_RATES = {"additive": 2e-3, "plain": 1e-3}
"""Peak of the schedule by network; of the plain one see `slice_regression`."""


@dataclass(frozen=True, slots=True)
class ScoringRecipe:
    """Everything that decides the weights, besides the scans.

    Args:
        network: `"additive"` or `"plain"`.
        widths: Kernels per level.
        members: Networks, trained one after the other from seeds of their own, whose mean logit
            counts.
        simulated: Semi-synthetic scans per background; 0 to learn from phantoms alone.
        phantoms: Phantoms, half of each kind and of each population.
        phantom_share: Share of the crops that show phantoms, if there are any; `None` draws all
            scans alike.
        validation_phantoms: Further phantoms, to which the counting rule is fitted.
        steps: Training steps.
        batch_size: Crops per step.
        learning_rate: Peak of the schedule.
        seed: Seed of data and weights.
        anatomy: Whether additive networks learn to draw the annotated anatomy, too.
        hold_out: Names of backgrounds kept for validation.
        workers: Processes that make scans; no influence on the result.
    """

    network: str = "additive"
    widths: tuple[int, ...] = (12, 24, 40, 56)
    members: int = 1
    simulated: int = 60
    phantoms: int = 120
    phantom_share: float | None = None
    validation_phantoms: int = 40
    steps: int = 5000
    batch_size: int = 16
    learning_rate: float = 2e-3
    seed: int = 20261123
    anatomy: bool = True
    hold_out: tuple[str, ...] = field(default=())
    workers: int = 2

    @property
    def draws_anatomy(self) -> bool:
        """Whether networks draw the anatomy in their training."""
        return self.anatomy and self.network == "additive"

    @property
    def command(self) -> str:
        """The command that trains by this recipe, with the folders left to the reader."""
        settings = {
            "network": self.network,
            "members": self.members,
            "widths": ",".join(str(width) for width in self.widths),
            **({"simulated": self.simulated} if self.simulated else {}),
            "phantoms": self.phantoms,
            "validation-phantoms": self.validation_phantoms,
            "steps": self.steps,
            "seed": self.seed,
        }
        if self.phantom_share is not None:
            settings["phantom-share"] = self.phantom_share
        if self.learning_rate != LEARNING_RATES[self.network]:
            settings["learning-rate"] = self.learning_rate
        scans = "SCANS --annotations FOLDER" if self.simulated else "--phantoms-only"
        parts = [f"calcium-score train scoring {scans} --out MODEL"]
        parts += [f"--{name} {value}" for name, value in settings.items()]
        parts += [] if self.draws_anatomy or self.network == "plain" else ["--no-anatomy"]
        parts += [f"--hold-out {name}" for name in self.hold_out]
        return " ".join(parts)
