"""Training of registration networks without labels: stage by stage, resumable at any moment."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from registration.augmentation import Augmentation
from registration.cohort import Cohort
from registration.image_files import read_image_file
from registration.networks.multi_stage import MultiStageRegistration
from registration.networks.registration_network import RegistrationConfig, build_registration
from registration.objective import Objective
from registration.training_pairs import Batch, ImageCache, PairSampler, ReadImage, file_state
from registration.training_step import StageObjective, StageStep

CHECKPOINT_NAME = "checkpoint.npz"
CURVE_NAME = "curve.csv"
_CURVE_COLUMNS = ("stage", "step", "loss", "validation_loss", "validation_similarity")

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """Everything that decides the weights, besides images and layout.

    Args:
        steps: Batches per stage at most: one number for all, or one per stage.
        batch_size: Pairs per batch.
        learning_rate: Peak of the schedule of Adam.
        warm_up: Steps of linear warm-up; a cosine to 1 % of the peak follows.
        clip_norm: Largest norm of the gradient of one batch.
        ema: Decay of the running mean of the weights, which is what is kept.
        objective: Similarity and smoothness.
        symmetric: See `StageObjective`.
        inverse_weight: See `StageObjective`.
        second_looks: See `StageObjective`.
        patch_shape: Patches that deformable stages are trained on; affine ones see whole images.
        augmentation: Random changes of the pairs.
        evaluate_every: Steps between validations, checkpoints and rows of the curve.
        patience: Validations without a better loss after which a stage ends; 0 for never.
        validation_pairs: Most pairs of the validation subjects that are looked at.
        seed: Of weights, pairs and augmentation.
    """

    steps: int | tuple[int, ...] = 5000
    batch_size: int = 8
    learning_rate: float = 1e-3
    warm_up: int = 50
    clip_norm: float = 1.0
    ema: float = 0.99
    objective: Objective = field(default_factory=Objective)
    symmetric: bool = False
    inverse_weight: float = 0.0
    second_looks: float = 0.0
    patch_shape: tuple[int, ...] | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    evaluate_every: int = 250
    patience: int = 0
    validation_pairs: int = 32
    seed: int = 0

    def stage_steps(self, stages: int) -> tuple[int, ...]:
        """Steps of every stage.

        Raises:
            ValueError: If there are not as many numbers as stages.
        """
        steps = (self.steps,) * stages if isinstance(self.steps, int) else tuple(self.steps)
        if len(steps) != stages or min(steps) < 0:
            raise ValueError(f"steps needs {stages} numbers, none negative. Received: {steps}")
        return steps

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step."""
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / self.warm_up
        share = (step - self.warm_up) / max(1, steps - self.warm_up)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * share))))


class RegistrationTrainer:
    """Trains the stages of a registration one after the other, earlier ones frozen.

    A batch depends on seed, stage and step alone, and a checkpoint holds weights, optimizer,
    running mean and curve: a training that was killed and started again gives the weights
    of one that was not.

    Args:
        config: Layout of the networks.
        training: Images to learn from.
        validation: Images of other subjects, by which the best step of every stage is chosen
            and a stage ends early; `None` keeps the last running mean.
        folder: Receives cache, checkpoint and `curve.csv`; a rerun goes on there.
        options: Settings.
        report: Called with lines of plain text.
        read: Reads the images; see `ImageCache`.
    """

    def __init__(
        self,
        config: RegistrationConfig,
        training: Cohort,
        validation: Cohort | None,
        folder: Path,
        *,
        options: TrainingOptions | None = None,
        report: Report = print,
        read: ReadImage = read_image_file,
    ) -> None:
        self.config = config
        self.folder = folder
        self.options = options or TrainingOptions()
        self._report = report
        self._steps = self.options.stage_steps(len(config.stages))
        cache = ImageCache(folder / "cache", config, read=read)
        self._sampler = PairSampler(
            training,
            cache,
            batch_size=self.options.batch_size,
            seed=self.options.seed,
            augmentation=self.options.augmentation,
        )
        self._judges = None
        if validation is not None:
            self._judges = PairSampler(validation, cache, batch_size=1, seed=self.options.seed)
        keras.utils.set_random_seed(self.options.seed)
        self.network = build_registration(config)
        self._state = _State(self.network, self._key(training, validation))

    def train(self) -> MultiStageRegistration:
        """Train to the end, from the last checkpoint if there is one.

        Raises:
            ValueError: If the checkpoint belongs to other settings or images, or images cannot be
                used.
            OSError: If the folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._state.restore(self.folder / CHECKPOINT_NAME)
        if self._state.stage < len(self.config.stages):
            self._report("reading all images, those that are in the cache aside")
            for sampler in (self._sampler, self._judges):
                if sampler is not None:
                    sampler.fill_cache()
        while self._state.stage < len(self.config.stages):
            self._train_stage(self._state.stage)
            self._state.finish_stage()
            self._save()
        return self.network

    @property
    def rows(self) -> list[dict[str, float]]:
        """The curve so far."""
        return self._state.rows

    def _train_stage(self, number: int) -> None:
        state, steps = self._state, self._steps[number]
        step = self._stage_step(number, state.prepare(number, self.options))
        losses: list[float] = []
        pace = _Pace(state.step)
        for batch in self._prefetched(number, state.step, steps):
            if state.is_stale(self.options.patience):
                break
            state.optimizer.learning_rate.assign(self.options.rate(state.step, steps))
            seed = (self.options.seed % 2**31, number * 1_000_003 + state.step)
            losses.append(step.update(batch, seed))
            state.average(min(self.options.ema, (1 + state.step) / (10 + state.step)))
            state.step += 1
            if state.step % self.options.evaluate_every == 0 or state.step == steps:
                self._evaluate(step, float(np.mean(losses)), pace)
                losses = []
                self._save()

    def _stage_step(self, number: int, optimizer: keras.optimizers.Optimizer) -> StageStep:
        deformable = "downsamplings" in self.config.stages[number].to_dict()
        goal = StageObjective(
            self.options.objective,
            symmetric=self.options.symmetric,
            inverse_weight=self.options.inverse_weight,
            patch_shape=self.options.patch_shape if deformable else None,
            second_looks=self.options.second_looks,
        )
        self.network.freeze_all_but(number)
        return StageStep(
            self.network, self.config, number, goal, self.options.augmentation, optimizer
        )

    def _evaluate(self, step: StageStep, loss: float, pace: _Pace) -> None:
        """Judge the running mean on the validation pairs, and write a row of the curve."""
        state = self._state
        found = [float("nan")] * 2
        if self._judges is not None:
            with state.mean_weights():
                values = [step.judge(self._judges.single(n)) for n in self._judge_numbers()]
            found = np.mean(values, axis=0).tolist()
            state.consider(found[0])
        values_of_row = (step.stage, state.step, loss, *found)
        state.rows.append(dict(zip(_CURVE_COLUMNS, map(float, values_of_row), strict=True)))
        self._report(
            f"stage {step.stage + 1} of {len(self.config.stages)}, step {state.step} of "
            f"{self._steps[step.stage]}: loss {loss:.4f}, validation {found[0]:.4f} "
            f"(similarity {found[1]:.4f}), "
            f"{pace.told(state.step, self._steps[step.stage])}"
        )

    def _judge_numbers(self) -> list[int]:
        """Pairs that are looked at: always the same ones, from all over the cohort."""
        assert self._judges is not None
        count = len(self._judges.cohort.pairs)
        rng = np.random.default_rng([self.options.seed, count])
        wanted = min(count, self.options.validation_pairs)
        return sorted(rng.choice(count, size=wanted, replace=False).tolist())

    def _prefetched(self, stage: int, first: int, last: int) -> Iterator[Batch]:
        """Batches of steps `first` to `last - 1`; the next is drawn while one is used."""
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self._sampler.batch, stage, first)
            for step in range(first, last):
                batch = coming.result()
                if step + 1 < last:
                    coming = pool.submit(self._sampler.batch, stage, step + 1)
                yield batch

    def _save(self) -> None:
        """Write checkpoint, then curve, each by atomic rename."""
        self._state.save(self.folder / CHECKPOINT_NAME)
        partial = self.folder / "curve.partial.csv"
        with partial.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, _CURVE_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._state.rows)
        os.replace(partial, self.folder / CURVE_NAME)

    def _key(self, training: Cohort, validation: Cohort | None) -> str:
        """Digest of whatever decides the weights."""
        # images that were made for the training lie beside it, and may be moved together with it
        base = self.folder.resolve().parent
        cohorts = [
            [
                [file_state(i.path, base), i.mask and file_state(i.mask, base), i.group]
                for i in cohort.images
            ]
            + [list(cohort.pairs)]
            for cohort in (training, validation)
            if cohort is not None
        ]
        content = json.dumps([self.config.to_dict(), asdict(self.options), cohorts])
        return hashlib.sha256(content.encode()).hexdigest()


class _Pace:
    """How fast a stage is trained, validation included, since it was last asked for."""

    def __init__(self, step: int) -> None:
        self._step, self._time = step, time.monotonic()

    def told(self, step: int, last: int) -> str:
        """Steps per second, and what is left of a stage at that pace, h:mm:ss."""
        now = time.monotonic()
        rate = (step - self._step) / max(now - self._time, 1e-9)
        self._step, self._time = step, now
        left = timedelta(seconds=round((last - step) / rate))
        return f"{rate:.3g} steps/s, {left} left of the stage"


class _State:
    """All that a training has to remember, as one file."""

    def __init__(self, network: MultiStageRegistration, key: str) -> None:
        self.network = network
        self.key = key
        self.stage = 0
        self.step = 0
        self.rows: list[dict[str, float]] = []
        self.best = float("inf")
        self.stale = 0
        self.mean: list[NDArray[np.float32]] = []
        self.best_weights: list[NDArray[np.float32]] = []
        self._restored: list[NDArray[np.generic]] = []

    @property
    def _current(self) -> keras.Model:
        return self.network.stages[self.stage]

    def prepare(self, stage: int, options: TrainingOptions) -> keras.optimizers.Optimizer:
        """Optimizer of a stage, as the checkpoint left it."""
        self.network.freeze_all_but(stage)
        self.optimizer = keras.optimizers.Adam(options.learning_rate, clipnorm=options.clip_norm)
        self.optimizer.build(self._current.trainable_variables)
        for variable, value in zip(self.optimizer.variables, self._restored, strict=False):
            variable.assign(value)
        self._restored = []
        if not self.mean:
            self.mean = [w.copy() for w in self._current.get_weights()]
        return self.optimizer

    def average(self, decay: float) -> None:
        for kept, weight in zip(self.mean, self._current.get_weights(), strict=True):
            kept += (1.0 - decay) * (weight - kept)

    def mean_weights(self) -> _Swapped:
        return _Swapped(self._current, self.mean)

    def consider(self, loss: float) -> None:
        """Keep the running mean if its loss is the best."""
        self.stale += 1
        if loss < self.best:
            self.best, self.stale = loss, 0
            self.best_weights = [w.copy() for w in self.mean]

    def is_stale(self, patience: int) -> bool:
        return 0 < patience <= self.stale

    def finish_stage(self) -> None:
        """Give the stage the weights that are kept, and go on to the next."""
        kept = self.best_weights or self.mean
        if kept:
            self._current.set_weights(kept)
        self.stage, self.step, self.stale = self.stage + 1, 0, 0
        self.best, self.mean, self.best_weights = float("inf"), [], []
        self.optimizer = None

    def save(self, path: Path) -> None:
        groups = {
            "w": [w for stage in self.network.stages for w in stage.get_weights()],
            "m": self.mean,
            "b": self.best_weights,
            "o": [np.asarray(v) for v in (self.optimizer.variables if self.optimizer else [])],
        }
        arrays = {f"{k}{i:04d}": a for k, items in groups.items() for i, a in enumerate(items)}
        names = ("key", "stage", "step", "rows", "best", "stale")
        described = json.dumps({name: getattr(self, name) for name in names})
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, state=np.array(described), **arrays)
        os.replace(partial, path)

    def restore(self, path: Path) -> None:
        if not path.exists():
            return
        with np.load(path, allow_pickle=False) as data:
            described = json.loads(str(data["state"]))
            if described["key"] != self.key:
                raise ValueError(
                    "the checkpoint must belong to the same networks, images and options, and no "
                    "image may have been changed since; train into another folder instead. "
                    f"Received: {path}"
                )
            names = sorted(set(data.files) - {"state"})
            groups = {k: [data[n] for n in names if n[0] == k] for k in "wmbo"}
        for name, value in described.items():
            setattr(self, name, value)
        weights = iter(groups["w"])
        for stage in self.network.stages:
            stage.set_weights([next(weights) for _ in stage.get_weights()])
        self.mean, self.best_weights = groups["m"], groups["b"]
        self._restored = groups["o"]


class _Swapped:
    """Other weights for as long as a `with` block lasts."""

    def __init__(self, model: keras.Model, weights: list[NDArray[np.float32]]) -> None:
        self._model = model
        self._weights = weights

    def __enter__(self) -> None:
        self._own = self._model.get_weights()
        self._model.set_weights(self._weights)

    def __exit__(self, *error: object) -> None:
        self._model.set_weights(self._own)
