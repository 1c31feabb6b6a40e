"""Training of the scoring networks from the scores of crops; resumable at any moment."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calcium.anatomy_maps import STRUCTURES
from calcium.training_data import Batch, CropSampler
from calcium.training_key import training_key

LOGGER = logging.getLogger(__name__)

SCORE_FLOOR = 1.0
"""Added to scores before the logarithm, so that zero is an ordinary value."""


SHARE_FLOOR = 1e-5
"""Shares are kept this far from 0 and 1, where the logarithm has no end."""

LEAST_RATE_FACTOR = 2.0**-6
"""A training that diverges at this share of its learning rate is given up."""

DIVERGED = 4.0
"""Rise of the running loss over its least at which a training goes back to its last checkpoint."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How long and how fast.

    Args:
        steps: Batches in all.
        learning_rate: Peak of the schedule.
        warm_up: Steps of linear warm-up; a cosine to 1 % of the peak follows.
        clip_norm: Largest norm of the gradient of one batch.
        ema: Decay of the running mean of the weights, which is what is kept.
        checkpoint_every: Steps between checkpoints.
        evaluate_every: Steps between calls of the evaluation.
    """

    steps: int = 3000
    learning_rate: float = 2e-3
    warm_up: int = 100
    clip_norm: float = 1.0
    ema: float = 0.995
    checkpoint_every: int = 250
    evaluate_every: int = 2000

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / self.warm_up
        share = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * share))))


def attention_loss(
    output: Any, density: Any, scores: tuple[Any, ...], lesions: Any, anatomy: Any = None
) -> Any:
    """Error of the scores of squares and lesions: of the whole crop by size, of parts by share.

    The first, large squares are compared on a logarithmic scale. For the others, the share of
    a square's density that counts is compared by cross-entropy: a lesion that is wholly
    missed has an attention near 0, where the score's own gradient has vanished. A lesion is
    decided on as a whole, by the mean logit of its attention, and so it is compared, too: a
    network that is sure of one part of it need not be of the others. What a network draws of the
    anatomy is compared with where it lies.

    Args:
        output: Attention, shape `(n, h, w, 1)`, or this and the logits of maps of the anatomy.
        density: Agatston density, shape `(n, h, w)`.
        scores: True scores of the squares of each size, large first, shapes
            `(n, h / b, w / b)`.
        lesions: Lesion of every point, counted from 1, shape `(n, h, w)`, and their true scores,
            shape `(lesions + 1,)`.
        anatomy: True maps, shape `(n, h / 4, w / 4, structures)`, and which of them are known,
            shape `(n, structures)`; for a network that draws them.

    Returns:
        Scalar tensor: the sum over square sizes and lesions, zero for exact scores. Squares
        without any density score zero whatever the attention, so they carry no weight.
    """
    from keras import ops

    attention, drawn = output if isinstance(output, list | tuple) else (output, None)
    weighted = attention[..., 0] * density
    height, width = density.shape[1], density.shape[2]
    total = 0.0
    for number, score in enumerate(scores):
        rows, cols = score.shape[1], score.shape[2]
        shape = (-1, rows, height // rows, cols, width // cols)
        predicted = ops.sum(ops.reshape(weighted, shape), axis=(2, 4))
        possible = ops.sum(ops.reshape(density, shape), axis=(2, 4))
        if number == 0:
            weight = ops.cast(possible > 0, "float32")
            error = _huber(ops.log(SCORE_FLOOR + predicted) - ops.log(SCORE_FLOOR + score))
        else:
            weight = ops.log(1.0 + possible)
            certain = ops.maximum(possible, 1e-6)
            error = _cross_entropy(predicted / certain, ops.clip(score / certain, 0.0, 1.0))
        total = total + ops.sum(weight * error) / (ops.sum(weight) + 1.0)
    total = total + _lesion_loss(attention[..., 0], density, *lesions)
    return total if drawn is None else total + _anatomy_loss(drawn, *anatomy)


def _lesion_loss(attention: Any, density: Any, labels: Any, scores: Any) -> Any:
    """Cross-entropy of the shares of lesions, predicted by their mean logits."""
    from keras import ops

    share = ops.clip(attention, SHARE_FLOOR, 1.0 - SHARE_FLOOR)
    logit = ops.log(share) - ops.log(1.0 - share)
    flat = ops.reshape(labels, (-1,))
    weights = ops.where(flat > 0, ops.reshape(density, (-1,)), 0.0)
    count = ops.shape(scores)[0]
    possible = ops.segment_sum(weights, flat, num_segments=count)
    mean = ops.segment_sum(weights * ops.reshape(logit, (-1,)), flat, num_segments=count)
    certain = ops.maximum(possible, 1e-6)
    weight = ops.log(1.0 + possible)
    true = ops.clip(scores / certain, 0.0, 1.0)
    error = _cross_entropy(ops.sigmoid(mean / certain), true)
    return ops.sum(weight * error) / (ops.sum(weight) + 1.0)


def _anatomy_loss(logits: Any, maps: Any, known: Any) -> Any:
    """Cross-entropy of maps beyond that of the truth with itself, summed over the structures."""
    from keras import ops

    error = ops.softplus(logits) - maps * logits
    true = ops.clip(maps, SHARE_FLOOR, 1.0 - SHARE_FLOOR)
    error = error + true * ops.log(true) + (1.0 - true) * ops.log(1.0 - true)
    weight = known[:, None, None, :] * ops.ones_like(maps)
    return len(STRUCTURES) * ops.sum(weight * error) / (ops.sum(weight) + 1.0)


def regression_loss(predicted: Any, density: Any, scores: tuple[Any, ...], *others: Any) -> Any:
    """Huber loss on `log1p` of the score of each slice.

    Args:
        predicted: Network output, shape `(n, 1)`.
        density: Not used; the published network has no density.
        scores: True scores of the squares; the sum of the first is the slice's score.
        *others: Lesions and anatomy, not used either.

    Returns:
        Scalar tensor.
    """
    from keras import ops

    score = ops.sum(scores[0], axis=(1, 2))
    return ops.mean(_huber(predicted[:, 0] - ops.log(SCORE_FLOOR + score)))


def train_network(
    network: Any,
    sampler: CropSampler,
    loss: Callable[..., Any],
    folder: Path,
    options: TrainingOptions,
    *,
    evaluate: Callable[[Any, int], dict[str, float]] | None = None,
) -> Path:
    """Train until `options.steps`, from the last checkpoint in `folder` if there is one.

    The batch of a step depends on the seed and the step alone, so a training that was
    killed and resumed gives the same weights as one that was not.

    Args:
        network: A `keras.Model`; its weights are changed.
        sampler: Source of batches.
        loss: `attention_loss` or `regression_loss`.
        folder: Receives `checkpoint.npz`, `curve.csv` and the weights.
        options: Length and rates.
        evaluate: Called with the network (mean weights set) and the step; what it returns
            is written to `curve.csv`.

    Returns:
        Path of the running mean of the weights at the last step; the network has it, too.

    Raises:
        ValueError: If the checkpoint belongs to another network, other scans or settings, or
            the loss rises without end however small the steps.
    """
    import keras
    import tensorflow as tf

    folder.mkdir(parents=True, exist_ok=True)
    optimizer = keras.optimizers.Adam(options.learning_rate, clipnorm=options.clip_norm)
    optimizer.build(network.trainable_variables)
    mean = [w.copy() for w in network.get_weights()]
    state = _State(network, optimizer, mean, training_key(network, sampler, loss, options))
    checkpoint = folder / "checkpoint.npz"
    step = state.restore(checkpoint)
    update = _update_function(tf, network, optimizer, loss)
    path = folder / "network.weights.h5"
    while step < options.steps:
        stop = min(step - step % options.checkpoint_every + options.checkpoint_every, options.steps)
        for batch in _prefetched(sampler, step, stop):
            optimizer.learning_rate.assign(state.rate_factor * options.rate(step))
            state.watch(float(update(*_tensors(tf, batch))))
            state.average(min(options.ema, (1 + step) / (10 + step)))
            step += 1
            if step % options.evaluate_every == 0 or step == options.steps:
                found = _evaluate(network, state.mean, evaluate, step)
                _append_row(folder / "curve.csv", {"step": step, "loss": state.running, **found})
        if state.has_diverged and checkpoint.exists():
            step = _gone_back(state, checkpoint, step)
            continue
        state.save(checkpoint, step)
        _save_weights(network, state.mean, path)
    # a training killed right after its last checkpoint has none yet, or those of earlier steps
    _save_weights(network, state.mean, path)
    network.load_weights(path)
    return path


def _prefetched(sampler: CropSampler, first: int, last: int) -> Iterator[Batch]:
    """Batches of steps `first` to `last - 1`; the next is drawn while one is used."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(sampler.batch, first) if first < last else None
        for step in range(first, last):
            if coming is None:
                return
            batch = coming.result()
            coming = pool.submit(sampler.batch, step + 1) if step + 1 < last else None
            yield batch


def _gone_back(state: _State, checkpoint: Path, step: int) -> int:
    """Put a diverged training where it was at its last checkpoint, to go on at half the rate."""
    factor = 0.5 * state.rate_factor
    if factor < LEAST_RATE_FACTOR:
        raise ValueError(
            f"the training in {checkpoint.parent} diverges before step {step} at any learning rate"
        )
    before = state.restore(checkpoint)
    state.rate_factor = factor
    LOGGER.warning(
        "the loss rose many times over before step %d: going on from step %d at %g of the rate",
        step,
        before,
        factor,
    )
    # the factor must outlive a kill, or a resumed training would go another way
    state.save(checkpoint, before)
    return before


class _State:
    """Weights, optimizer, running mean and loss, as one file."""

    def __init__(
        self, network: Any, optimizer: Any, mean: list[NDArray[np.float32]], key: str
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.mean = mean
        self.key = key
        self.running = 0.0
        self.least = float("inf")
        self.rate_factor = 1.0

    def watch(self, loss: float) -> None:
        """Keep a running mean of the loss of fifty steps; a loss that is no number stays one."""
        self.running = loss if self.running == 0.0 else 0.98 * self.running + 0.02 * loss

    @property
    def has_diverged(self) -> bool:
        """Whether the loss has risen far above what it was at the best checkpoint."""
        return not self.running <= DIVERGED * self.least

    def average(self, decay: float) -> None:
        for kept, weight in zip(self.mean, self.network.get_weights(), strict=True):
            kept += (1.0 - decay) * (weight - kept)

    def save(self, path: Path, step: int) -> None:
        arrays = {f"w{i:03d}": w for i, w in enumerate(self.network.get_weights())}
        arrays |= {f"m{i:03d}": w for i, w in enumerate(self.mean)}
        arrays |= {f"o{i:03d}": np.asarray(v) for i, v in enumerate(self.optimizer.variables)}
        self.least = min(self.least, self.running)
        facts = np.array([self.running, self.least, self.rate_factor])
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, step=step, key=np.array(self.key), facts=facts, **arrays)
        os.replace(partial, path)

    def restore(self, path: Path) -> int:
        if not path.exists():
            return 0
        with np.load(path, allow_pickle=False) as data:
            # checkpoints of earlier versions have no key, and nobody knows what they belong to
            if not {"key", "facts"} <= set(data.files) or str(data["key"]) != self.key:
                raise ValueError(
                    f"{path} belongs to another training: network, scans and settings must be "
                    "those it was begun with. Give this training a folder of its own (--work), "
                    f"or delete {path.parent}"
                )
            self.running, self.least, self.rate_factor = data["facts"].tolist()
            arrays = sorted(set(data.files) - {"key", "step", "facts"})
            read = {key: [data[k] for k in arrays if k[0] == key] for key in "wmo"}
            step = int(data["step"])
        self.network.set_weights(read["w"])
        self.mean = read["m"]
        for variable, value in zip(self.optimizer.variables, read["o"], strict=True):
            variable.assign(value)
        return step


def _update_function(tf: Any, network: Any, optimizer: Any, loss: Any) -> Any:
    """One compiled optimizer step."""

    @tf.function(reduce_retracing=True)
    def update(
        inputs: Any,
        density: Any,
        labels: Any,
        lesion_scores: Any,
        maps: Any,
        known: Any,
        *scores: Any,
    ) -> Any:
        with tf.GradientTape() as tape:
            output = network(inputs, training=True)
            value = loss(output, density, scores, (labels, lesion_scores), (maps, known))
        gradients = tape.gradient(value, network.trainable_variables)
        optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))
        return value

    return update


def _tensors(tf: Any, batch: Batch) -> tuple[Any, ...]:
    maps = (batch.anatomy, batch.anatomy_known)
    parts = (batch.inputs, batch.density, batch.lesions, batch.lesion_scores, *maps, *batch.scores)
    return tuple(tf.constant(a) for a in parts)


def _evaluate(
    network: Any,
    mean: list[NDArray[np.float32]],
    evaluate: Callable[[Any, int], dict[str, float]] | None,
    step: int,
) -> dict[str, float]:
    """Call the evaluation with the mean weights, then put the trained ones back."""
    if evaluate is None:
        return {}
    current = network.get_weights()
    network.set_weights(mean)
    try:
        return evaluate(network, step)
    finally:
        network.set_weights(current)


def _save_weights(network: Any, mean: list[NDArray[np.float32]], path: Path) -> None:
    """Write the running mean as Keras weights, by atomic rename."""
    current = network.get_weights()
    network.set_weights(mean)
    partial = path.with_name("partial.weights.h5")
    network.save_weights(partial)
    os.replace(partial, path)
    network.set_weights(current)


def _append_row(path: Path, row: dict[str, float]) -> None:
    """Add a line to a CSV, with a header if it is new."""
    is_new = not path.exists()
    with path.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(row))
        if is_new:
            writer.writeheader()
        writer.writerow({k: round(v, 5) for k, v in row.items()})


def _cross_entropy(predicted: Any, true: Any) -> Any:
    """Cross-entropy of shares beyond that of the truth with itself, at least 0."""
    from keras import ops

    def entropy(share: Any) -> Any:
        p = ops.clip(share, SHARE_FLOOR, 1.0 - SHARE_FLOOR)
        return -(true * ops.log(p) + (1.0 - true) * ops.log(1.0 - p))

    return entropy(predicted) - entropy(true)


def _huber(error: Any, threshold: float = 1.0) -> Any:
    from keras import ops

    size = ops.abs(error)
    return ops.where(size < threshold, 0.5 * size * size, threshold * (size - 0.5 * threshold))
