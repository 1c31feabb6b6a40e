"""One check that every layer passes, in the manner of Keras' own layer tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import ops


def check_layer(
    layer: keras.layers.Layer,
    inputs: Sequence[np.ndarray],
    folder: Path,
    *,
    atol: float = 1e-5,
    of_features: bool = False,
    any_size: bool = True,
) -> np.ndarray:
    """Assert the layer contract and return the eager output.

    Eager and traced outputs agree, also with unknown sizes and after saving and loading; the
    configuration makes an equal layer; the output stays float32 under mixed precision; declared
    shape and type are the real ones; gradients are finite.

    Args:
        layer: Under test.
        inputs: Whole numbers stay what they are, others become float32.
        folder: Where it is saved.
        atol: Of outputs, in their unit.
        of_features: Whether the layer is of features, which mixed precision halves.
        any_size: Whether one trace serves every size.
    """
    arrays = [a if np.issubdtype(a.dtype, np.integer) else a.astype(np.float32) for a in inputs]
    output = layer(*arrays)
    expected = ops.convert_to_numpy(output)
    assert np.isfinite(expected).all()

    clone = type(layer).from_config(layer.get_config())
    assert clone.get_config() == layer.get_config()
    _check_output(_with_weights(clone, layer, arrays)(*arrays), expected, atol)

    declared = layer.compute_output_shape(*[a.shape for a in arrays])
    assert tuple(declared) == expected.shape

    _check_saved(layer, arrays, expected, folder / "layer.keras", atol)
    _check_mixed_precision(layer, arrays, expected, atol, of_features=of_features)
    if keras.backend.backend() == "tensorflow":
        if any_size:
            _check_one_trace(layer, arrays, expected, atol)
        _check_gradients(layer, arrays)
    return expected


def _check_saved(layer, arrays, expected, path, atol):
    symbols = [keras.Input(a.shape[1:], dtype=a.dtype.name) for a in arrays]
    model = keras.Model(symbols, layer(*symbols))
    assert model.output_shape[0] is None
    assert keras.backend.standardize_dtype(model.outputs[0].dtype) == expected.dtype.name
    _check_output(model.predict(arrays, verbose=0), expected, atol)
    model.save(path)
    loaded = keras.models.load_model(path)
    _check_output(loaded.predict(arrays, verbose=0), expected, atol)


def _check_mixed_precision(layer, arrays, expected, atol, *, of_features):
    config = layer.get_config()
    config.pop("dtype", None)  # the policy of the clone is the global one
    keras.config.set_dtype_policy("mixed_float16")
    try:
        mixed = type(layer).from_config(config)
        output = _with_weights(mixed, layer, arrays)(*arrays)
    finally:
        keras.config.set_dtype_policy("float32")
    kind = "float16" if of_features else expected.dtype.name
    assert keras.backend.standardize_dtype(output.dtype) == kind
    _check_output(output, expected, 2e-2 if of_features else atol)


def _check_one_trace(layer, arrays, expected, atol):
    import tensorflow as tf

    # of matrices only the number is open
    open_axes = [1 if a.ndim == 3 else a.ndim - 1 for a in arrays]
    signature = [
        tf.TensorSpec((None,) * count + a.shape[count:], a.dtype)
        for a, count in zip(arrays, open_axes, strict=True)
    ]
    traced = tf.function(lambda *x: layer(*x), autograph=False, input_signature=signature)
    _check_output(traced(*arrays), expected, atol)
    symbols = [keras.Input(tuple(one.shape)[1:], dtype=one.dtype.name) for one in signature]
    symbolic = tuple(layer(*symbols).shape)
    assert len(symbolic) == expected.ndim
    assert all(n in (None, m) for n, m in zip(symbolic, expected.shape, strict=True))


def _check_gradients(layer, arrays):
    import tensorflow as tf

    tensors = [tf.convert_to_tensor(a) for a in arrays]
    watched = [tensor for tensor in tensors if tensor.dtype.is_floating]
    with tf.GradientTape() as tape:
        tape.watch(watched)
        total = tf.reduce_sum(tf.cast(layer(*tensors), tf.float32) ** 2)
    for gradient in tape.gradient(total, watched):
        assert gradient is None or np.isfinite(gradient.numpy()).all()


def _with_weights(layer, other, arrays):
    """The layer, built, with the weights of the other."""
    layer(*arrays)
    layer.set_weights(other.get_weights())
    return layer


def _check_output(output, expected, atol):
    np.testing.assert_allclose(ops.convert_to_numpy(output), expected, atol=atol)
