import keras
import numpy as np
import pytest

from registration.networks.affine_network import AffineNetwork
from tests.registration.check_layer import check_layer

SMALL = {"filters": (4, 6), "dense_units": (8,), "center_mm": (3.0, -4.0, 5.0)}


def images(batch=2, shape=(6, 8, 4), channels=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(batch, *shape, channels)).astype("float32")


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("head", ["flatten", "average", "moments"])
def test_starts_at_the_identity(head, normalized):
    network = AffineNetwork(head=head, normalized=normalized, **SMALL)
    np.testing.assert_allclose(network(images()), np.tile(np.eye(4), (2, 1, 1)), atol=1e-6)


def test_twin_starts_at_the_identity_with_images_of_two_sizes():
    network = AffineNetwork(twin=True, head="average", **SMALL)
    matrix = network((images(), images(shape=(10, 6, 8), seed=1)))
    np.testing.assert_allclose(matrix, np.tile(np.eye(4), (2, 1, 1)), atol=1e-6)


def test_twin_shares_its_encoder():
    single = AffineNetwork(head="average", **SMALL)
    single(images())
    twin = AffineNetwork(twin=True, head="average", **SMALL)
    twin((images(), images()))
    kernels = [[layer.count_params() for layer in net.encoder_layers] for net in (single, twin)]
    assert kernels[0] == kernels[1]
    assert (
        twin.regressor_layers[0].kernel.shape[0] == 2 * single.regressor_layers[0].kernel.shape[0]
    )


def test_normalized_twin_forgets_brightness_once_it_has_seen_a_batch():
    network = AffineNetwork(twin=True, head="moments", normalized=True, **SMALL)
    pair = images(), images(seed=1)
    network(pair)
    rng = np.random.default_rng(3)
    for weight in network.trainable_weights:
        weight.assign(rng.normal(0.0, 0.5, weight.shape))
    bright = tuple(100.0 + 20.0 * image for image in pair)
    np.testing.assert_allclose(
        network(bright, training=True), network(pair, training=True), atol=1e-3
    )
    before = np.asarray(network(pair))
    for _ in range(60):
        network(bright, training=True)
    assert np.abs(np.asarray(network(pair)) - before).max() > 1e-3


def test_a_shrinking_network_sees_means_of_voxels_and_answers_in_those_of_the_image():
    """Against the same weights, given the means, whose voxels are twice as wide."""
    layout = {"filters": (4, 6), "dense_units": (8,), "head": "votes"}
    whole = AffineNetwork(shrink=2, bounds={"spacing": (1.0, 2.0, 3.0), "cell_vox": 4}, **layout)
    coarse = AffineNetwork(bounds={"spacing": (2.0, 4.0, 6.0), "cell_vox": 2}, **layout)
    image = images(shape=(8, 12, 16))
    means = image.reshape(2, 4, 2, 6, 2, 8, 2, 2).mean(axis=(2, 4, 6))
    whole(image), coarse(means)
    rng = np.random.default_rng(1)
    weights = [rng.normal(0.0, 0.2, w.shape) for w in whole.get_weights()]
    whole.set_weights(weights)
    coarse.set_weights(weights)
    assert np.abs(whole(image) - np.eye(4)).max() > 0.05
    np.testing.assert_allclose(whole(image), coarse(means), rtol=1e-4, atol=1e-4)


def test_two_dimensional_network_gives_matrices_of_three():
    network = AffineNetwork((4,), (8,), center_mm=(0.0, 0.0))
    assert network(images(shape=(6, 8))).shape == (2, 3, 3)


def test_weights_survive_a_file(tmp_path):
    network = AffineNetwork(**SMALL)
    network(images())
    rng = np.random.default_rng(2)
    network.set_weights([rng.normal(size=w.shape) * 0.1 for w in network.get_weights()])
    network.save_weights(tmp_path / "air.weights.h5")
    other = AffineNetwork.from_config(network.get_config())
    other.build((None, 6, 8, 4, 2))
    other.load_weights(tmp_path / "air.weights.h5")
    np.testing.assert_allclose(other(images()), network(images()), atol=1e-6)
    assert np.abs(np.asarray(network(images())) - np.eye(4)).max() > 1e-3


def test_keeps_the_contract_of_layers(tmp_path):
    check_layer(AffineNetwork(**SMALL), [images()], tmp_path, any_size=False)


def test_matrices_stay_float32_under_half_precision():
    network = AffineNetwork(**SMALL, dtype="mixed_float16")
    matrix = network(images())
    assert keras.backend.standardize_dtype(network.encoder_layers[0].compute_dtype) == "float16"
    assert keras.backend.standardize_dtype(matrix.dtype) == "float32"


def test_refuses_an_unknown_head():
    with pytest.raises(ValueError, match=r"head must be .*Received: max"):
        AffineNetwork(head="max")
