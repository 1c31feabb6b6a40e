"""The same patient scanned again: what another acquisition changes, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.phantoms.acquisition import KERNELS, Sampling
from pipelines.phantoms.deposit import Cloud
from pipelines.phantoms.subject import Subject, rounded_grid
from registration.geometry import ImageGrid

NOISE_BY_THICKNESS = 0.35
"""Exponent of the slice thickness in the noise, as in `sample_subject`: half of 0.7."""


@dataclass(frozen=True, slots=True)
class Rescan:
    """Differences of a second scan from the first; `None` and the defaults are none.

    Args:
        noise_seed: Seed of the noise; fresh noise is part of every second scan.
        start_offset_mm: Shift of all slice positions.
        slice_spacing_mm: Distance between slice positions, the thickness in proportion.
        kernel: Name of a reconstruction kernel, see `acquisition.KERNELS`.
        noise_factor: Standard deviation of the noise relative to the first scan's; half the
            dose is 1.41.
        field_of_view_mm: Width of the image about the same middle.
        rotation_deg: Turn of the patient about the long axis, through the image's middle.
        translation_mm: Shift of the patient, LPS.
        kvp: Tube voltage, kV; the contrast of calcium changes with it.
    """

    noise_seed: int = 1
    start_offset_mm: float = 0.0
    slice_spacing_mm: float | None = None
    kernel: str | None = None
    noise_factor: float = 1.0
    field_of_view_mm: float | None = None
    rotation_deg: float = 0.0
    translation_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    kvp: int | None = None

    def apply(self, subject: Subject) -> Subject:
        """The subject of the second scan."""
        turn, offset = self._motion(subject)
        pose = replace(
            subject.pose,
            matrix=turn @ subject.pose.matrix,
            offset=turn @ subject.pose.offset + offset,
        )
        sampling = self._sampling(subject.sampling)
        before = subject.sampling
        noise = subject.noise_hu * self.noise_factor
        noise *= sampling.kernel.noise_factor / before.kernel.noise_factor
        noise *= (before.slice_thickness_mm / sampling.slice_thickness_mm) ** NOISE_BY_THICKNESS
        return replace(
            subject,
            pose=pose,
            sampling=sampling,
            noise_hu=float(noise),
            motion_mm=turn @ subject.motion_mm,
            kvp=self.kvp or subject.kvp,
        )

    def moved(self, cloud: Cloud, contrast: float, subject: Subject) -> Cloud:
        """Calcium or metal of the first scan in the second.

        Args:
            cloud: Its points in the first scan.
            contrast: Factor on its contrast.
            subject: Subject of the first scan.
        """
        turn, offset = self._motion(subject)
        return Cloud(cloud.points @ turn.T + offset, cloud.contrast * contrast)

    def _motion(self, subject: Subject) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Rotation and offset from first to second scanner points."""
        angle = np.deg2rad(self.rotation_deg)
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        middle = np.asarray(subject.sampling.grid.center)
        return turn, middle - turn @ middle + np.asarray(self.translation_mm)

    def _sampling(self, before: Sampling) -> Sampling:
        grid = before.grid
        spacing = self.slice_spacing_mm or grid.spacing[2]
        count = int(np.ceil(grid.size[2] * grid.spacing[2] / spacing))
        rows = grid.size[0]
        pixel = self.field_of_view_mm / rows if self.field_of_view_mm else grid.spacing[0]
        center = np.asarray(grid.center) + np.array([0.0, 0.0, self.start_offset_mm])
        return Sampling(
            rounded_grid(
                ImageGrid.centered((*grid.size[:2], count), (pixel, pixel, spacing), center)
            ),
            KERNELS[self.kernel] if self.kernel else before.kernel,
            before.slice_thickness_mm * spacing / grid.spacing[2],
        )
