"""A model that needs no training: every bright voxel counts, by a rule anybody can redo."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from pipelines.batch import ModelIdentity
from pipelines.guards import GuardFinding
from registration.geometry import Ellipsoid, ImageGrid, affine_transform
from tests.pipelines.dicom_factory import PATIENT

BRIGHT_HU = 1400
PER_VOXEL = 0.37
ATLAS_GRID = ImageGrid((30, 28, 26), (8.0, 8.0, 8.0), (-116.0, -108.0, -100.0))
IDENTITY = ModelIdentity("fake", "2.0", "a" * 64)


def bright_score(hu: NDArray[np.int16]) -> float:
    return PER_VOXEL * int(np.count_nonzero(hu >= BRIGHT_HU))


@dataclass(frozen=True)
class FakeAlignment:
    atlas_to_scan: sitk.AffineTransform
    similarity: float = 0.8
    coverage: float = 0.95
    scales: tuple[float, float, float] = (1.1, 1.0, 0.9)
    doubt_mm: float = float("inf")


class FakeAligner:
    def align(self, image: sitk.Image) -> FakeAlignment:
        matrix = np.eye(4)
        matrix[:3, 3] = ImageGrid.from_image(image).center
        return FakeAlignment(affine_transform(matrix))


class FakeScorer:
    def score(
        self, image: sitk.Image, atlas_to_scan: sitk.Transform, *, kind: str | None = None
    ) -> SimpleNamespace:
        hu = sitk.GetArrayFromImage(image)
        feedback = np.where(hu >= BRIGHT_HU, np.float32(PER_VOXEL), np.float32(0))
        z = tuple(int(k) for k in np.unique(np.nonzero(feedback)[0]))
        lesion = SimpleNamespace(
            center_mm=(1.0, 2.0, 3.0),
            agatston=float(feedback.sum(dtype=float)),
            volume_mm3=5.0,
            peak_hu=float(hu.max()),
            slice_indices=z,
            territory=None,
        )
        return SimpleNamespace(
            agatston=float(feedback.sum(dtype=float)),
            agatston_low=None,
            agatston_high=None,
            volume_mm3=5.0,
            lesions=(lesion,) if z else (),
            category_probabilities=None,
            preset="agatston-1990",
            feedback=feedback.astype(np.float32),
        )


class BrokenScorer(FakeScorer):
    def score(
        self, image: sitk.Image, atlas_to_scan: sitk.Transform, *, kind: str | None = None
    ) -> SimpleNamespace:
        raise RuntimeError(f"cannot score {PATIENT!r}")


@dataclass
class FakeModel:
    name: str = IDENTITY.name
    version: str = IDENTITY.version
    model_hash: str = IDENTITY.model_hash
    atlas: sitk.Image = field(
        default_factory=lambda: ATLAS_GRID.to_image(np.zeros(ATLAS_GRID.shape, np.float32))
    )
    heart: Ellipsoid = field(default_factory=lambda: Ellipsoid((0.0, 0.0, 0.0), (60.0, 50.0, 55.0)))
    aligner: FakeAligner = field(default_factory=FakeAligner)
    scorer: FakeScorer = field(default_factory=FakeScorer)
    findings: tuple[GuardFinding, ...] = ()
