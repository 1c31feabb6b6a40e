import keras
import numpy as np
import pytest
from keras import ops

from registration.layers.demons_force import demons_force
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


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(3, 6, 5, 1), (2, 4, 3, 5, 1)])
def test_forces_are_those_between_the_normalized_images(shape, training):
    plain, layer = PairNormalization(), PairNormalization(forces=True)
    images = pair(shape)
    normalized = ops.convert_to_numpy(plain(*images, training=training))
    found = ops.convert_to_numpy(layer(*images, training=training))
    np.testing.assert_allclose(found[..., :2], normalized, atol=1e-6)
    expected = demons_force(normalized[..., 0], normalized[..., 1])
    assert found.shape[-1] == 2 + len(expected)
    for axis, force in enumerate(expected):
        np.testing.assert_allclose(found[..., 2 + axis], force, atol=1e-5)


@pytest.mark.parametrize("forces", [False, True])
def test_keeps_the_contract_of_layers(forces, tmp_path):
    check_layer(PairNormalization(forces), pair(), tmp_path)
