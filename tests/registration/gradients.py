"""Gradients of scalar functions, by whichever backend of Keras is at work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops


def gradient(function: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    """Gradient of a function of one tensor; a test on a backend without one is skipped.

    Args:
        function: From a float32 tensor to a scalar one.
        x: Where, any shape.
    """
    tensor = ops.convert_to_tensor(x, dtype="float32")
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensor)
            value = function(tensor)
        return tape.gradient(value, tensor).numpy()
    if keras.backend.backend() == "jax":
        import jax

        return np.asarray(jax.jit(jax.grad(function))(tensor))
    pytest.skip("gradients are asked of TensorFlow and jax alone")


def weight_gradients(
    network: keras.Model, inputs: list[np.ndarray], loss: Callable[[Any], Any]
) -> list[np.ndarray]:
    """Gradients of a scalar of a network's outputs by its trainable weights.

    Args:
        network: Built.
        inputs: What it is shown.
        loss: From its outputs to a scalar tensor.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss(network(inputs))
        return [g.numpy() for g in tape.gradient(value, network.trainable_weights)]
    if keras.backend.backend() == "jax":
        import jax

        fixed = [weight.value for weight in network.non_trainable_variables]

        def total(weights: list[Any]) -> Any:
            return loss(network.stateless_call(weights, fixed, inputs)[0])

        weights = [weight.value for weight in network.trainable_variables]
        return [np.asarray(g) for g in jax.jit(jax.grad(total))(weights)]
    pytest.skip("gradients are asked of TensorFlow and jax alone")
