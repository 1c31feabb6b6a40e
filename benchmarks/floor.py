"""How near the networks' forward passes come to what the machine can do at all.

    python benchmarks/floor.py --out DIR [--threads 1] [--repeats 7] [--onednn on]

The floor of a layer is the time its floating-point operations take at the machine's rate of matrix
products, or its bytes (inputs, outputs and weights, each once) at the bandwidth of a copy,
whichever is longer. Both rates are measured in the same process. The floor of a network is the sum
over its layers. `floor_layers.csv` has every layer: where a pass is far from its floor, that
is where the time goes. `--onednn` turns TensorFlow's oneDNN kernels on or off; without it
TensorFlow decides by the processor.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.benchmark_options import options_parser, parse_options

MATRIX = 1536
"""Rows of the matrices whose product tells the rate."""

COPY_BYTES = 2**27
"""Size of the array whose copy tells the bandwidth."""

METHODS = ("dirnet", "affine", "deformable")

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Machine:
    """What the machine can do with the threads that were asked for.

    Args:
        flops: Floating-point operations per second of a matrix product, float32.
        bandwidth: Bytes read and written per second by a copy.
    """

    flops: float
    bandwidth: float

    def floor_s(self, operations: float, traffic: float) -> float:
        """Least seconds for operations and bytes."""
        return max(operations / self.flops, traffic / self.bandwidth)


@dataclass(frozen=True)
class Part:
    """One layer with what it is given.

    Args:
        name: Name of the layer.
        call: Runs it.
        inputs: Tensors that `call` takes.
        operations: Floating-point operations.
        weights: Bytes of its weights.
    """

    name: str
    call: Callable[..., Any]
    inputs: tuple[Any, ...]
    operations: float
    weights: float = 0.0


def main() -> None:
    """Run the benchmark from the command line."""
    parser = options_parser(__doc__, METHODS)
    parser.add_argument("--repeats", type=int, default=7, help="runs, of which the median counts")
    parser.add_argument("--onednn", choices=("on", "off"), help="kernels of TensorFlow")
    options = parse_options(parser)
    if options.onednn:
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = str(int(options.onednn == "on"))
    from benchmarks.results_table import write_csv, write_results

    machine = measured_machine()
    rows: list[dict[str, Any]] = []
    layers: list[dict[str, Any]] = []
    for method in options.methods:
        title, network, inputs, parts = CASES[method]()
        found = [part_row(title, part, machine, options.repeats) for part in parts]
        layers += found
        rows.append(case_row(title, network, inputs, found, machine, options.repeats))
    notes = [
        f"{options.threads} thread(s), oneDNN {options.onednn or 'by processor'}; matrix products "
        f"{machine.flops / 1e9:.1f} GFLOP/s, copies "
        f"{machine.bandwidth / 1e9:.1f} GB/s; medians of {options.repeats} runs.",
        *slowest_notes(layers),
    ]
    text = write_results("floor", rows, options.out, notes=notes)
    write_csv(options.out / "floor_layers.csv", layers)
    print(text)


def measured_machine() -> Machine:
    """Best rates of several attempts, in this process and with its threads."""
    a = np.random.default_rng(0).random((MATRIX, MATRIX), np.float32)
    product = seconds(lambda: a @ a, 9, best=True)
    source = np.ones(COPY_BYTES // FLOAT_BYTES, np.float32)
    target = np.empty_like(source)
    copy = seconds(lambda: np.copyto(target, source), 9, best=True)
    return Machine(2.0 * MATRIX**3 / product, 2.0 * COPY_BYTES / copy)


def dirnet_case() -> tuple[str, Any, list[Any], list[Part]]:
    """DIRNet on one pair of slices of 256 x 256."""
    from cine2d_recipes import BASELINE

    from registration.networks.deformable_network import deformable_network

    network = deformable_network(BASELINE)
    return _deformable("DIRNet, 256 x 256", network, (256, 256))


def deformable_case() -> tuple[str, Any, list[Any], list[Part]]:
    """The stage with control points every eight voxels on a pair of volumes of 160³."""
    from hippocampus_recipe import DEFORMABLE_STAGES

    from registration.networks.deformable_network import deformable_network

    return _deformable("DIR-2, 160³", deformable_network(DEFORMABLE_STAGES[1]), (160,) * 3)


def affine_case() -> tuple[str, Any, list[Any], list[Part]]:
    """The affine stage on a pair of volumes of 160³."""
    import tensorflow as tf
    from hippocampus_recipe import CONFIG

    from registration.networks.affine_stage import affine_stage

    stage = affine_stage(CONFIG.stages[0], spacing=(1.0, 1.0, 1.0))
    inputs = _pair((160,) * 3)
    network = stage.get_layer("air")
    features: Any = tf.concat(inputs, axis=-1)
    pair, parts = features, []
    for number, layer in enumerate([*network.encoder_layers, *network.regressor_layers]):
        parts.append(_layer_part(layer, (features,), name=f"{number + 1} {_kind(layer)}"))
        features = layer(features)
    parts.append(_layer_part(network.transform, (features, pair)))
    field_layer = stage.get_layer("affine_field")
    matrix = network.transform(features, pair)
    parts.append(_layer_part(field_layer, (matrix, inputs[0])))
    parts.append(_warp_part(inputs[1], field_layer(matrix, inputs[0])))
    return "AIR, 160³", stage, inputs, parts


CASES: dict[str, Callable[[], tuple[str, Any, list[Any], list[Part]]]] = {
    "dirnet": dirnet_case,
    "affine": affine_case,
    "deformable": deformable_case,
}


def _deformable(
    title: str, network: Any, shape: Sequence[int]
) -> tuple[str, Any, list[Any], list[Part]]:
    """Every layer of a functional model on what really reaches it."""
    import keras

    inputs = _pair(shape)
    parts = []
    for layer in network.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        wanted = layer.input if isinstance(layer.input, list | tuple) else [layer.input]
        # an identity more, as a model of one output does not return a list
        given = keras.Model(network.inputs, [*wanted, network.inputs[0]])(inputs)[:-1]
        parts.append(_layer_part(layer, tuple(given)))
    field = network(inputs)["displacement_field"]
    return title, network, inputs, [*parts, _warp_part(inputs[1], field)]


def _pair(shape: Sequence[int]) -> list[Any]:
    import tensorflow as tf

    return [tf.random.stateless_uniform((1, *shape, 1), (3, n)) for n in range(2)]


def _kind(layer: Any) -> str:
    return type(layer).__name__


def _layer_part(layer: Any, inputs: tuple[Any, ...], name: str | None = None) -> Part:
    weights = float(sum(np.prod(w.shape) for w in layer.weights)) * FLOAT_BYTES
    operations = layer_operations(layer, inputs, layer(*inputs))
    return Part(name or layer.name, layer, inputs, operations, weights)


def _warp_part(moving: Any, field: Any) -> Part:
    """The last step of every registration: the moving image looked up through the field."""
    from registration.warping import warp

    corners = 2 ** int(field.shape[-1])
    samples = float(np.prod(moving.shape))
    # an interpolation is a product and two sums, one fewer of them than there are corners
    return Part("warp", warp, (moving, field), samples * 3.0 * (corners - 1))


def layer_operations(layer: Any, inputs: Sequence[Any], output: Any) -> float:
    """Floating-point operations of a layer; one per value where it only passes over them."""
    kernel = getattr(layer, "kernel", None)
    voxels = float(np.prod(output.shape[:-1]))
    if kernel is not None:
        # the pooling inside comes after a convolution of four times as many pixels
        pooled = 4.0 if _kind(layer) == "PooledConvolution2D" else 1.0
        return 2.0 * float(np.prod(kernel.shape)) * voxels * pooled
    if _kind(layer) == "BSplineField":
        return _separable_operations(inputs[0].shape, output.shape)
    return float(sum(np.prod(tensor.shape) for tensor in inputs))


def _separable_operations(lattice: Sequence[int], dense: Sequence[int]) -> float:
    """Of one matrix product per axis, the first axis first."""
    total, shape = 0.0, [int(n) for n in lattice]
    for axis in range(1, len(shape) - 1):
        before = shape[axis]
        shape[axis] = int(dense[axis])
        total += 2.0 * before * float(np.prod(shape))
    return total


def part_row(case: str, part: Part, machine: Machine, repeats: int) -> dict[str, Any]:
    """Time and floor of one layer."""
    import tensorflow as tf

    compiled = tf.function(part.call, autograph=False)
    output = compiled(*part.inputs)
    outputs = tf.nest.flatten(output)
    traffic = part.weights + FLOAT_BYTES * float(
        sum(np.prod(t.shape) for t in (*part.inputs, *outputs))
    )
    taken = seconds(lambda: compiled(*part.inputs), repeats)
    floor = machine.floor_s(part.operations, traffic)
    return {
        "case": case,
        "layer": part.name,
        "GFLOP": part.operations / 1e9,
        "MB": traffic / 1e6,
        "ms": 1e3 * taken,
        "floor ms": 1e3 * floor,
        "GFLOP/s": part.operations / taken / 1e9,
        "GB/s": traffic / taken / 1e9,
        "floor of time": floor / taken,
    }


def case_row(
    case: str, network: Any, inputs: list[Any], parts: list[dict[str, Any]], machine: Machine,
    repeats: int,
) -> dict[str, Any]:  # fmt: skip
    """A whole pass, warp included, beside the sum of its layers' floors."""
    import tensorflow as tf

    from registration.warping import warp

    @tf.function(autograph=False)
    def forward(fixed: Any, moving: Any) -> Any:
        return warp(moving, network([fixed, moving])["displacement_field"])

    taken = seconds(lambda: forward(*inputs), repeats)
    operations = sum(float(row["GFLOP"]) for row in parts)
    traffic = sum(float(row["MB"]) for row in parts) / 1e3
    floor = sum(float(row["floor ms"]) for row in parts)
    return {
        "network": case,
        "GFLOP": operations,
        "GB": traffic,
        "GFLOP/s": operations / taken,
        "of matrix products": operations * 1e9 / taken / machine.flops,
        "GB/s": traffic / taken,
        "of copies": traffic * 1e9 / taken / machine.bandwidth,
        "floor of time": floor / (1e3 * taken),
    }


def slowest_notes(layers: Sequence[dict[str, Any]]) -> list[str]:
    """What stands between every network and its floor: the layers that lose most of the time."""
    notes = []
    for case in dict.fromkeys(row["case"] for row in layers):
        own = [row for row in layers if row["case"] == case]
        total = sum(row["ms"] for row in own)
        lost = sorted(own, key=lambda row: row["floor ms"] - row["ms"])[:3]
        told = ", ".join(
            f"{row['layer']} ({row['ms'] / total:.0%} of the time, {row['floor of time']:.0%} of "
            "its floor's speed)"
            for row in lost
        )
        notes.append(f"{case}: most is lost in {told}.")
    return notes


def seconds(call: Callable[[], Any], repeats: int, *, best: bool = False) -> float:
    """Median (or least) time of a call after two that do not count."""
    times = []
    for number in range(repeats + 2):
        start = time.perf_counter()
        call()
        if number > 1:
            times.append(time.perf_counter() - start)
    return float(min(times) if best else np.median(times))


if __name__ == "__main__":
    main()
