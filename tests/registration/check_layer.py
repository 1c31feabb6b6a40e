"""One check that every layer passes, in the manner of Keras' own layer tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import ops


def check_layer(
    layer: keras.layers.Layer, inputs: Sequence[np.ndarray], folder: Path, *, atol: float = 1e-5
) -> np.ndarray:
    """Assert the layer contract and return the eager output.

    Eager and traced outputs agree, also with an unknown batch size and after saving and
    loading; the configuration makes an equal layer; the output stays float32 under mixed
    precision; the declared output shape is the real one; gradients are finite.
    """
    arrays = [np.asarray(a, np.float32) for a in inputs]
    expected = ops.convert_to_numpy(layer(*arrays))
    assert np.isfinite(expected).all()

    clone = type(layer).from_config(layer.get_config())
    assert clone.get_config() == layer.get_config()
    np.testing.assert_allclose(ops.convert_to_numpy(clone(*arrays)), expected, atol=atol)

    declared = layer.compute_output_shape(*[a.shape for a in arrays])
    assert tuple(declared) == expected.shape

    symbols = [keras.Input(a.shape[1:]) for a in arrays]
    model = keras.Model(symbols, layer(*symbols))
    assert model.output_shape[0] is None
    np.testing.assert_allclose(model.predict(arrays, verbose=0), expected, atol=atol)
    path = folder / "layer.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    np.testing.assert_allclose(loaded.predict(arrays, verbose=0), expected, atol=atol)

    keras.config.set_dtype_policy("mixed_float16")
    try:
        mixed = type(layer).from_config(layer.get_config())
        output = mixed(*arrays)
    finally:
        keras.config.set_dtype_policy("float32")
    assert keras.backend.standardize_dtype(output.dtype) == "float32"
    np.testing.assert_allclose(ops.convert_to_numpy(output), expected, atol=atol)

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tensors = [tf.convert_to_tensor(a) for a in arrays]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            total = tf.reduce_sum(layer(*tensors) ** 2)
        for gradient in tape.gradient(total, tensors):
            assert gradient is None or np.isfinite(gradient.numpy()).all()
    return expected
