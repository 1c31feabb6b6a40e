"""The one interface behind which networks and conventional baselines register a pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import SimpleITK as sitk


@dataclass(frozen=True, slots=True)
class Registration:
    """How a fixed image's points are found in a moving image.

    Args:
        stages: The accumulated pull-back after every stage, coarse to fine: fixed points to
            moving points, mm. Affine maps and B-splines stay what they are, so the files
            are small and exact; no stage is a dense field unless a method knows no other.
        seconds: Wall time from the start until each stage was done; empty if not measured.
    """

    stages: tuple[sitk.Transform, ...]
    seconds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("stages must hold at least one transform. Received: none")
        if self.seconds and len(self.seconds) != len(self.stages):
            raise ValueError(
                "seconds needs one value per stage. "
                f"Received: {len(self.seconds)} for {len(self.stages)} stages"
            )

    @property
    def transform(self) -> sitk.Transform:
        """The pull-back of all stages together."""
        return self.stages[-1]


class Registrar(Protocol):
    """Anything that registers a moving image to a fixed one, 2-D or 3-D."""

    @property
    def name(self) -> str:
        """Name for tables."""

    def register(self, fixed: sitk.Image, moving: sitk.Image) -> Registration:
        """Register one pair.

        Args:
            fixed: Image whose grid and space the result lives in.
            moving: Image to be brought there.
        """
