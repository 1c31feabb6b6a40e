import keras
import numpy as np
import pytest

from registration.layers.pair_normalization import PairNormalization
from tests.registration.check_layer import check_layer


def pair(shape=(3, 6, 5, 1)):
    rng = np.random.default_rng(0)
    return [rng.normal(m, s, shape).astype(np.float32) for m, s in ((3.0, 0.5), (-1.0, 2.0))]


@pytest.mark.parametrize("shape", [(3, 6, 5, 1), (2, 4, 3, 5, 1)])
def test_equals_batch_normalization_of_the_stacked_pair(shape):
    layer, usual = PairNormalization(), keras.layers.BatchNormalization()
    images = pair(shape)
    stacked = np.concatenate(images, axis=-1)
    for training in (True, False):
        for _ in range(5):  # moving statistics must come out alike, too
            found = layer(*images, training=training)
            expected = usual(stacked, training=training)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    rng = np.random.default_rng(1)
    weights = [rng.uniform(0.5, 2.0, 2) for _ in range(4)]
    layer.set_weights(weights)
    usual.set_weights(weights)
    np.testing.assert_allclose(layer(*images), usual(stacked), rtol=1e-5, atol=1e-5)


def test_frozen_layer_learns_nothing_from_a_batch():
    layer = PairNormalization()
    layer(*pair())
    layer.trainable = False
    before = [w.copy() for w in layer.get_weights()]
    layer(*pair(), training=True)
    assert all(np.array_equal(a, b) for a, b in zip(before, layer.get_weights(), strict=True))


def test_keeps_the_contract_of_layers(tmp_path):
    check_layer(PairNormalization(), pair(), tmp_path)
