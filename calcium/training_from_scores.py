"""Fine-tuning of the attention network on scans of which only the score is known.

Nobody says which lesion is coronary: a scan's lesions are softly counted by their attention, and
the sum is compared with the score. Scans that take no part say whether that helped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calcium.counting_rule import ATTENTION_FLOOR, CountingRule, lesion_attention, logit_of
from calcium.crop_augmentation import CropChange
from calcium.density import label_voxels
from calcium.heart_field import LATTICE_SIZE
from calcium.lattice_scan import LatticeScan
from calcium.lesions import LESION_CONNECTIVITY
from calcium.territories import TERRITORIES, VesselAtlas
from calcium.validation import additive_outcome, flat_points, lattice_attention

CHUNK_SLICES = 8
"""Slices per pass through the network: bounds the memory of the largest scan."""

VALIDATION_EVERY = 3
"""Of the scans in order of their score, every third takes no part and judges."""

LEAST_SCANS = 6
"""Fewer scans leave too few to learn from or to judge by."""

SHIFT_UNITS, SCALE_SD = 0.03, 0.02
"""Jitter of the coordinates in training, heart radii and relative: errors of alignment."""


@dataclass(frozen=True)
class ScoredScan:
    """A scan of which the score is known, but not where the calcium is.

    Args:
        scan: On the lattice; its `coronary` density is not looked at.
        agatston: Reference score.
        territories: Reference score by coronary territory, if it is known.
    """

    scan: LatticeScan
    agatston: float
    territories: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class FineTuningOptions:
    """How long and how fast.

    Args:
        epochs: Passes over the training scans at most.
        learning_rate: Of Adam, constant.
        clip_norm: Largest norm of the gradient of one scan.
        patience: Passes without a better validation after which it ends.
        seed: Of order and jitter.
    """

    epochs: int = 20
    learning_rate: float = 2e-4
    clip_norm: float = 1.0
    patience: int = 5
    seed: int = 0


@dataclass(frozen=True, slots=True)
class FineTuning:
    """What came of it.

    Args:
        start_error: Mean absolute error of `log1p` scores on the judging scans before.
        errors: The same after every pass.
        best: Pass whose weights are kept, from 1; 0 if the start was never beaten.
    """

    start_error: float
    errors: tuple[float, ...]
    best: int

    @property
    def kept_error(self) -> float:
        """Error of the weights that are kept."""
        return self.errors[self.best - 1] if self.best else self.start_error


def split_scans(scans: Sequence[ScoredScan]) -> tuple[list[ScoredScan], list[ScoredScan]]:
    """Scans to learn from, and those that judge: every third in order of their score.

    Raises:
        ValueError: If there are fewer than `LEAST_SCANS`.
    """
    if len(scans) < LEAST_SCANS:
        raise ValueError(f"{LEAST_SCANS} scans with a score are needed. Received: {len(scans)}")
    ordered = sorted(scans, key=lambda s: (s.agatston, s.scan.name))
    judges = ordered[VALIDATION_EVERY // 2 :: VALIDATION_EVERY]
    names = {scored.scan.name for scored in judges}
    return [s for s in ordered if s.scan.name not in names], judges


def fine_tune(
    network: Any,
    training: Sequence[ScoredScan],
    judges: Sequence[ScoredScan],
    rule: CountingRule,
    options: FineTuningOptions,
    *,
    vessels: VesselAtlas | None = None,
    report: Callable[[str], None] = print,
) -> FineTuning:
    """Train an attention network further, and keep what does best on scans that took no part.

    Args:
        network: A `keras.Model` from `attention_unet`; its weights are changed, or left as they
            are if no pass is better than the start.
        training: Scans to learn from.
        judges: Scans to judge by.
        rule: When a lesion counts; not changed.
        options: Length and rate.
        vessels: Needed where scores of territories are given.
        report: Called with lines of plain text.
    """
    import keras

    optimizer = keras.optimizers.Adam(options.learning_rate, clipnorm=options.clip_norm)
    optimizer.build(network.trainable_variables)
    passes = _Passes(network)
    goals = [_Goal(scored, rule, vessels) for scored in training]
    start = best_error = _error(passes, judges, rule)
    report(f"before: error {start:.3f} on {len(judges)} scans that take no part")
    best, kept = 0, network.get_weights()
    errors: list[float] = []
    rng = np.random.default_rng(options.seed)
    for number in range(1, options.epochs + 1):
        for index in rng.permutation(len(goals)):
            gradients = passes.gradients(goals[index], rng)
            if gradients is not None:
                optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))
        errors.append(_error(passes, judges, rule))
        report(f"pass {number} of {options.epochs}: error {errors[-1]:.3f}")
        if errors[-1] < best_error:
            best, best_error, kept = number, errors[-1], network.get_weights()
        if number - best >= options.patience:
            break
    network.set_weights(kept)
    return FineTuning(start, tuple(errors), best)


def soft_count(
    attention: NDArray[np.float64], needed: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How much lesions count, 0 to 1: one half at the attention they need; and its slope.

    Args:
        attention: Attention of lesions, see `lesion_attention`, shape `(n,)`.
        needed: What they must exceed to count, shape `(n,)`.

    Returns:
        Count, and its derivative by the logit of the attention, both of shape `(n,)`.

    Example:
        >>> soft_count(np.array([0.5, 0.8]), np.array([0.5, 0.8]))[0].tolist()
        [0.5, 0.5]
    """
    count = 1.0 / (1.0 + np.exp(logit_of(needed) - logit_of(attention)))
    return count, count * (1.0 - count)


class _Goal:
    """The lesions of a scan, and the scores that their sums shall have."""

    def __init__(self, scored: ScoredScan, rule: CountingRule, vessels: VesselAtlas | None) -> None:
        self.scan = scan = scored.scan
        self.label: NDArray[np.int64] = np.zeros(0, np.int64)
        if len(scan.points):
            self.label = label_voxels(*flat_points(scan), LESION_CONNECTIVITY).astype(np.int64)
        self.weight = np.bincount(self.label, scan.density).astype(float)
        self.needed = rule.needed_attention(self.weight)
        self.group = np.zeros(len(self.weight), np.int64)
        self.target = np.array([scored.agatston])
        if scored.territories is not None and vessels is not None and len(self.weight):
            voxels = np.bincount(self.label)
            middles = np.stack(
                [np.bincount(self.label, axis) / voxels for axis in scan.points.T.astype(float)], 1
            )
            names = vessels.territories(scan.unit_coordinates(middles))
            self.group = np.array([TERRITORIES.index(name) for name in names])
            self.target = np.array([scored.territories[name] for name in TERRITORIES])

    def slopes(self, attention: NDArray[np.float32]) -> NDArray[np.float64]:
        """Derivative of the loss by the attention at every point, shape `(m,)`.

        The loss is the Huber loss of `log1p` scores, averaged over groups.
        """
        share = self.scan.density / np.maximum(self.weight[self.label], 1e-12)
        whole = lesion_attention(self.label, attention, self.scan.density)
        count, slope = soft_count(whole, self.needed)
        groups = len(self.target)
        score = np.bincount(self.group, self.weight * count, groups)
        error = np.log1p(score) - np.log1p(self.target)
        by_score = np.clip(error, -1.0, 1.0) / (1.0 + score) / groups
        by_lesion = by_score[self.group] * self.weight * slope
        point = np.asarray(attention, float)
        inside = (point > ATTENTION_FLOOR) & (point < 1.0 - ATTENTION_FLOOR)
        by_attention = np.where(inside, 1.0 / np.maximum(point * (1.0 - point), 1e-9), 0.0)
        return np.asarray(by_lesion[self.label] * share * by_attention)


class _Passes:
    """A network and its compiled passes over the slices of a scan."""

    def __init__(self, network: Any) -> None:
        import tensorflow as tf

        self._network = network
        image = tf.TensorSpec((None, LATTICE_SIZE, LATTICE_SIZE, None), tf.float32)
        channels = tf.TensorSpec((None, LATTICE_SIZE, LATTICE_SIZE, 1), tf.float32)

        def forward(inputs: Any) -> Any:
            return network(inputs, training=False)

        def backward(inputs: Any, slopes: Any) -> Any:
            with tf.GradientTape() as tape:
                # whose gradient is that of the loss, with the slopes at the present attention
                value = tf.reduce_sum(network(inputs, training=True) * slopes)
            return tape.gradient(value, network.trainable_variables)

        self._forward = tf.function(forward, autograph=False, input_signature=[image])
        self._backward = tf.function(backward, autograph=False, input_signature=[image, channels])

    def predict(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Attention of slices, shape `(n, 256, 256, 1)`."""
        return np.asarray(self._forward(inputs))

    def gradients(self, goal: _Goal, rng: np.random.Generator) -> list[Any] | None:
        """Gradient of a scan's loss by the weights; `None` for a scan without candidates."""
        scan = goal.scan
        if not len(scan.points):
            return None
        jitter = CropChange(rng.normal(0.0, SHIFT_UNITS, 3), 1.0 + rng.normal(0.0, SCALE_SD, 3))
        slopes = goal.slopes(self._attention(scan, jitter))
        total: list[Any] | None = None
        for inputs, rows in _chunks(scan, jitter):
            maps = np.zeros((*inputs.shape[:3], 1), np.float32)
            for item, at in enumerate(rows):
                y, x = scan.points[at, 1:].T
                maps[item, y, x, 0] = slopes[at]
            found = self._backward(inputs, maps)
            total = found if total is None else [a + b for a, b in zip(total, found, strict=True)]
        return total

    def _attention(self, scan: LatticeScan, jitter: CropChange) -> NDArray[np.float32]:
        attention = np.zeros(len(scan.points), np.float32)
        for inputs, rows in _chunks(scan, jitter):
            output = self.predict(inputs)
            for item, at in enumerate(rows):
                y, x = scan.points[at, 1:].T
                attention[at] = output[item, y, x, 0]
        return attention


def _chunks(
    scan: LatticeScan, jitter: CropChange
) -> Iterator[tuple[NDArray[np.float32], list[slice]]]:
    """Network input of the slices with candidates, some at a time, and whose points they hold."""
    numbers = np.unique(scan.points[:, 0])
    for start in range(0, len(numbers), CHUNK_SLICES):
        chosen = numbers[start : start + CHUNK_SLICES]
        inputs = [scan.crop(int(n), (0, 0), LATTICE_SIZE, change=jitter)[0] for n in chosen]
        rows = [slice(*np.searchsorted(scan.points[:, 0], [n, n + 1])) for n in chosen]
        yield np.stack(inputs), rows


def _error(passes: _Passes, scans: Sequence[ScoredScan], rule: CountingRule) -> float:
    """Mean absolute error of `log1p` scores, decided lesion by lesion as in scoring."""
    errors = []
    for scored in scans:
        score = 0.0
        if len(scored.scan.points):
            attention = lattice_attention(passes.predict, scored.scan)
            score = additive_outcome(scored.scan, attention, "lesion", rule).score
        errors.append(abs(math.log1p(score) - math.log1p(scored.agatston)))
    return float(np.mean(errors))
