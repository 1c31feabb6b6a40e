from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

from registration.layers.pooled_convolution import PooledConvolution2D
from tests.registration.gradients import gradient


def both_ways(shape, channels=2):
    """The layer, and Keras' own two layers with the same weights."""
    images = np.random.default_rng(0).normal(size=(2, *shape, channels)).astype(np.float32)
    layer = PooledConvolution2D(5, activation="elu", bias_initializer="random_normal")
    layer(images)
    convolution = keras.layers.Conv2D(5, 3, padding="same", activation="elu")
    convolution(images)
    convolution.set_weights(layer.get_weights())
    pooling = keras.layers.AveragePooling2D(2, padding="same")
    return images, layer, lambda x: pooling(convolution(x))


@pytest.mark.parametrize("shape", [(8, 12), (7, 12), (8, 11), (9, 5), (2, 2)])
def test_equals_convolution_and_pooling_of_keras(shape):
    images, layer, expected = both_ways(shape)
    np.testing.assert_allclose(layer(images), expected(images), atol=1e-5)
    assert layer.compute_output_shape((2, *shape, 2)) == tuple(expected(images).shape)


def test_one_trace_serves_even_and_odd_sizes():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("sizes are unknown in the graphs of TensorFlow alone")
    import tensorflow as tf

    images, layer, expected = both_ways((10, 9), channels=3)
    traced = tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, 3))])
    for part in (images, images[:, :8, :6]):
        np.testing.assert_allclose(traced(part), expected(part), atol=1e-5)


def test_gradients_of_the_weights_are_those_of_keras():
    images, layer, _ = both_ways((8, 6))
    weights = np.random.default_rng(1).normal(size=(2, 4, 3, 5)).astype(np.float32)
    bias = ops.convert_to_numpy(layer.bias)

    def by_layer(kernel):
        with keras.StatelessScope(state_mapping=[(layer.kernel, kernel)]):
            return ops.sum(weights * layer(images))

    def plain(kernel):
        outputs = ops.elu(ops.conv(images, kernel, padding="same") + bias)
        return ops.sum(weights * ops.average_pool(outputs, 2, 2, padding="same"))

    kernel = ops.convert_to_numpy(layer.kernel)
    found, expected = gradient(by_layer, kernel), gradient(plain, kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_output_starts_at_the_activation_of_the_bias():
    layer = PooledConvolution2D(2, bias_initializer=keras.initializers.Constant(1.5))
    # a linear layer of zeros gives its bias
    np.testing.assert_allclose(layer(np.zeros((1, 4, 4, 1))), np.full((1, 2, 2, 2), 1.5))


def test_config_makes_an_equal_layer():
    layer = PooledConvolution2D(4, activation="elu", name="stem")
    clone = PooledConvolution2D.from_config(layer.get_config())
    assert clone.get_config() == layer.get_config()
    assert clone.activation is keras.activations.elu
