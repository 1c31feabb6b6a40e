"""What decides the weights of a scoring training, as one digest that a checkpoint keeps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from calcium.lattice_scan import LatticeScan
from calcium.training_data import CropSampler

if TYPE_CHECKING:
    from calcium.training import TrainingOptions

HARMLESS_OPTIONS = ("checkpoint_every", "evaluate_every")
"""Options of a training that say when something is written, and change no weight."""


def training_key(
    network: Any, sampler: CropSampler, loss: Callable[..., Any], options: TrainingOptions
) -> str:
    """Digest of network, scans and settings; equal for trainings that give equal weights.

    The weights a network starts from are drawn from the sampler's seed, which stands for them:
    their last digits may differ between machines.

    Args:
        network: A `keras.Model`, looked at for the shapes of its weights.
        sampler: Source of batches.
        loss: What is minimized.
        options: Length and rates.

    Returns:
        SHA-256, hexadecimal.
    """
    settings = {
        "network": [list(weight.shape) for weight in network.get_weights()],
        "loss": loss.__name__,
        "options": {k: v for k, v in asdict(options).items() if k not in HARMLESS_OPTIONS},
        "seed": sampler.seed,
        "batch_size": sampler.batch_size,
        "crop_size": sampler.crop_size,
        "block_sizes": list(sampler.block_sizes),
        "shares": [sampler.coronary_share, sampler.anywhere_share],
        "augmentation": asdict(sampler.augmentation),
        "weights": None if sampler.weights is None else sampler.weights.tolist(),
        "anatomy": sampler.anatomy,
        "scans": [[scan.name, scan_digest(scan)] for scan in sampler.scans],
    }
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()


def scan_digest(scan: LatticeScan) -> str:
    """SHA-256 of all that a network sees or learns of a scan, hexadecimal; its name is no part."""
    field, grid = scan.field, scan.field.grid
    geometry = (grid.size, grid.spacing, grid.origin, grid.direction, field.to_unit)
    places = (field.start_vox, field.step_vox, field.slices)
    known = (scan.anatomy.points_mm, scan.anatomy.radii_mm, scan.anatomy.structure)
    arrays = (scan.hu, scan.points, scan.density, scan.coronary, scan.area, scan.component, *known)
    hasher = hashlib.sha256()
    for values in (*(np.asarray(v, float) for v in (*geometry, *places)), *arrays):
        hasher.update(f"{values.dtype} {values.shape} ".encode())
        hasher.update(np.ascontiguousarray(values).data)
    return hasher.hexdigest()
