"""Training of the alignment network: resumable, reproducible, best by validation."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from registration.alignment_batches import AlignmentBatches, AlignmentExample, AugmentationRanges
from registration.alignment_volume import AlignmentVolume
from registration.geometry import Ellipsoid, ImageGrid
from registration.layers.affine_resampler import AffineResampler
from registration.losses.masked_ncc import MaskedNCC
from registration.losses.region_point_error import RegionPointError
from registration.network_input import CHANNELS, CubeSampler, to_channels
from registration.networks.affine_network import AffineNetwork

CHECKPOINT_NAME = "checkpoint.npz"
CURVES_NAME = "curves.csv"
_CURVE_COLUMNS = ("step", "loss", "ncc_loss", "train_error_mm", "validation_error_mm")


@dataclass(frozen=True, slots=True)
class AlignmentTrainingPlan:
    """Everything that decides the outcome of a training, apart from the data.

    Args:
        steps: Gradient steps.
        batch: Samples per step.
        learning_rate: Of Adam, at its height; warm-up and cosine decay follow from `steps`.
        ncc_weight: Weight of `1 - masked NCC` against a point error of 10 mm.
        seed: Of weights and samples.
        check_every: Steps between validations, checkpoints and rows of the curves.
        validation_samples: Fixed samples of the left-out scans.
        cube_size: Voxels along each edge of the input.
        cube_spacing_mm: Voxel size of the input, mm.
        filters: See `AffineNetwork`.
        dense_units: See `AffineNetwork`.
    """

    steps: int = 2400
    batch: int = 8
    learning_rate: float = 1.5e-3
    ncc_weight: float = 0.5
    seed: int = 0
    check_every: int = 100
    validation_samples: int = 48
    cube_size: int = 32
    cube_spacing_mm: float = 10.0
    filters: tuple[int, ...] = (16, 32, 32, 32)
    dense_units: tuple[int, ...] = (64, 64)

    def cube(self, region: Ellipsoid) -> ImageGrid:
        """Lattice of the network's input in atlas space."""
        return ImageGrid.centered(
            [self.cube_size] * 3, [self.cube_spacing_mm] * 3, region.center_mm
        )

    def network(self, region: Ellipsoid) -> AffineNetwork:
        """The network, at the identity, with weights drawn by the seed."""
        keras.utils.set_random_seed(self.seed)
        network = AffineNetwork(self.filters, self.dense_units, center_mm=region.center_mm)
        network.build((None, *[self.cube_size] * 3, CHANNELS))
        return network


class AlignmentTrainer:
    """Trains an alignment network against one atlas.

    The loss is `1 - masked NCC` between atlas and moved scan in the region, plus the error
    of the known residual affine on the points of the region.

    Args:
        atlas: The fixed image.
        region: The heart in atlas space.
        training: Aligned scans to learn from.
        validation: Aligned scans that choose the weights; may be empty, then the last count.
        folder: Where checkpoint and curves are kept.
        plan: Settings.
        ranges: Augmentation.
        report: Called with a line of plain text after every check.
    """

    def __init__(
        self,
        atlas: AlignmentVolume,
        region: Ellipsoid,
        training: Sequence[AlignmentExample],
        validation: Sequence[AlignmentExample],
        folder: Path,
        *,
        plan: AlignmentTrainingPlan | None = None,
        ranges: AugmentationRanges | None = None,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.plan = plan or AlignmentTrainingPlan()
        self.ranges = ranges or AugmentationRanges()
        self.folder = folder
        self.network = self.plan.network(region)
        self._report = report
        cube = self.plan.cube(region)
        self._batches = AlignmentBatches(training, cube, region, self.ranges)
        self._fixed = _fixed_channels(atlas, region, cube)
        self._points = region.sample_points(20.0)
        self._model = self._compiled(cube)
        self._validation = None
        if validation:
            held_out = AlignmentBatches(validation, cube, region, self.ranges)
            rng = np.random.default_rng([self.plan.seed, 1])
            self._validation = held_out.draw(rng, self.plan.validation_samples)
        self._step = 0
        self._best_error_mm = float("inf")
        self._best_weights = self.network.get_weights()
        self._rows: list[dict[str, float]] = []

    def train(self, *, stop_after: int | None = None) -> AffineNetwork:
        """Train, or go on from the checkpoint in the folder.

        Args:
            stop_after: Step at which to stop as if interrupted; `None` trains to the end.

        Returns:
            The network with the best weights so far.

        Raises:
            ValueError: If the checkpoint belongs to another plan.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._restore()
        last = min(self.plan.steps, stop_after or self.plan.steps)
        sums = np.zeros(3)
        since = 0
        while self._step < last:
            rng = np.random.default_rng([self.plan.seed, 0, self._step])
            cubes, residuals = self._batches.draw(rng, self.plan.batch)
            fixed = np.repeat(self._fixed[None], len(cubes), axis=0)
            results = self._model.train_on_batch(
                cubes, {"matrix": residuals, "moved": fixed}, return_dict=True
            )
            sums += [results["loss"], results["moved_loss"], 10.0 * results["matrix_loss"]]
            self._step, since = self._step + 1, since + 1
            if self._step % self.plan.check_every == 0 or self._step == self.plan.steps:
                self._check(sums / since)
                sums, since = np.zeros(3), 0
        self.network.set_weights(self._best_weights)
        return self.network

    @property
    def best_error_mm(self) -> float:
        """Least mean error on the left-out scans, mm; infinite before the first check."""
        return self._best_error_mm

    @property
    def last_training_error_mm(self) -> float:
        """Mean error on augmented training scans since the check before last, mm."""
        return self._rows[-1]["train_error_mm"] if self._rows else float("nan")

    def _compiled(self, cube: ImageGrid) -> keras.Model:
        cubes = keras.Input((*cube.shape, CHANNELS))
        matrix = self.network(cubes)
        grid = cube.index_to_physical_matrix.astype("float32")
        moved = AffineResampler(name="moved_image")(
            keras.layers.Lambda(_first_and_last, name="image_and_field")(cubes), matrix, grid, grid
        )
        model = keras.Model(cubes, {"matrix": matrix, "moved": moved})
        schedule = keras.optimizers.schedules.CosineDecay(
            self.plan.learning_rate * 0.1,
            max(1, self.plan.steps - self.plan.steps // 20),
            alpha=0.02,
            warmup_target=self.plan.learning_rate,
            warmup_steps=max(1, self.plan.steps // 20),
        )
        model.compile(
            optimizer=keras.optimizers.Adam(schedule, clipnorm=1.0),
            loss={"matrix": RegionPointError(self._points.tolist()), "moved": MaskedNCC()},
            loss_weights={"matrix": 1.0, "moved": self.plan.ncc_weight},
        )
        model.optimizer.build(model.trainable_variables)
        return model

    def _check(self, means: NDArray[np.float64]) -> None:
        error = float("nan")
        if self._validation is None:
            self._best_weights = self.network.get_weights()
        else:
            cubes, residuals = self._validation
            predicted = keras.ops.convert_to_numpy(self.network(cubes, training=False))
            error = _point_error_mm(predicted, residuals, self._points)
            if error < self._best_error_mm:
                self._best_error_mm = error
                self._best_weights = self.network.get_weights()
        values = (self._step, *means, error)
        self._rows.append(dict(zip(_CURVE_COLUMNS, map(float, values), strict=True)))
        self._save()
        self._report(
            f"step {self._step} of {self.plan.steps}: error {means[2]:.1f} mm, "
            f"1 - NCC {means[1]:.3f}, left-out scans {error:.1f} mm"
        )

    def _save(self) -> None:
        """Write checkpoint, then curves, each by atomic rename."""
        arrays = {f"weight_{i}": w for i, w in enumerate(self.network.get_weights())}
        arrays.update({f"best_{i}": w for i, w in enumerate(self._best_weights)})
        arrays.update(
            {
                f"optimizer_{i}": keras.ops.convert_to_numpy(v)
                for i, v in enumerate(self._model.optimizer.variables)
            }
        )
        state = {
            "plan": self._plan_key(),
            "step": self._step,
            "best_error_mm": self._best_error_mm,
            "rows": self._rows,
        }
        partial = self.folder / "checkpoint.partial.npz"
        np.savez(partial, state=np.array(json.dumps(state)), **arrays)
        os.replace(partial, self.folder / CHECKPOINT_NAME)
        partial = self.folder / "curves.partial.csv"
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, _CURVE_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows)
        os.replace(partial, self.folder / CURVES_NAME)

    def _restore(self) -> None:
        path = self.folder / CHECKPOINT_NAME
        if not path.exists():
            return
        with np.load(path) as arrays:
            state = json.loads(str(arrays["state"]))
            if state["plan"] != self._plan_key():
                raise ValueError(
                    f"{path.name} must belong to the same plan and augmentation; train into "
                    f"an empty folder instead. Received: {state['plan']}"
                )
            count = len(self.network.get_weights())
            self.network.set_weights([arrays[f"weight_{i}"] for i in range(count)])
            self._best_weights = [arrays[f"best_{i}"] for i in range(count)]
            for i, variable in enumerate(self._model.optimizer.variables):
                variable.assign(arrays[f"optimizer_{i}"])
        self._step = int(state["step"])
        self._best_error_mm = float(state["best_error_mm"])
        self._rows = list(state["rows"])

    def _plan_key(self) -> dict[str, Any]:
        key: dict[str, Any] = json.loads(
            json.dumps({"plan": asdict(self.plan), "ranges": asdict(self.ranges)})
        )
        key["scans"] = [example.name for example in self._batches.examples]
        return key


def _fixed_channels(
    atlas: AlignmentVolume, region: Ellipsoid, cube: ImageGrid
) -> NDArray[np.float32]:
    """Atlas attenuation and weight of the region on the network's lattice, `(z, y, x, 2)`."""
    points = cube.voxel_points()
    hu, covered = CubeSampler(atlas)(points.reshape(-1, 3))
    wide = to_channels(hu, covered)[:, 0].reshape(cube.shape)
    weight = region.contains(points) * covered.reshape(cube.shape)
    return np.stack([wide, weight], axis=-1).astype(np.float32)


def _first_and_last(cubes: Any) -> Any:
    """Attenuation and field of view of the network's channels."""
    return keras.ops.stack([cubes[..., 0], cubes[..., -1]], axis=-1)


def _point_error_mm(
    predicted: NDArray[np.float32], known: NDArray[np.float32], points: NDArray[np.float64]
) -> float:
    """Mean distance over points and samples, mm."""
    difference = np.asarray(predicted, dtype=float) - known
    apart = np.einsum("bij,nj->bni", difference[:, :3, :3], points) + difference[:, None, :3, 3]
    return float(np.linalg.norm(apart, axis=-1).mean())
