import numpy as np
import pytest

from calcium.anatomy_maps import STRUCTURES
from calcium.networks.attention_unet import attention_alone, join_members
from calcium.networks.predictor import Predictor, build_network
from calcium.networks.slice_inputs import INPUT_CHANNELS, slice_inputs
from calcium.networks.slice_regression import slice_scores


def test_bilinear_doubling_matches_keras_where_the_size_is_known():
    import keras

    from calcium.networks.bilinear_doubling import BilinearDoubling

    x = np.random.default_rng(0).normal(size=(2, 5, 7, 3)).astype(np.float32)
    expected = keras.layers.UpSampling2D(2, interpolation="bilinear")(x)
    assert np.allclose(BilinearDoubling()(x), expected, atol=1e-6)


def test_attention_lies_between_zero_and_one_for_any_size():
    predictor = Predictor("additive", (4, 6, 8))
    rng = np.random.default_rng(1)
    for height, width in ((32, 64), (48, 16)):
        inputs = rng.normal(size=(3, height, width, INPUT_CHANNELS)).astype(np.float32)
        attention = predictor.predict(inputs, batch_size=2)
        assert attention.shape == (3, height, width, 1)
        assert attention.min() >= 0.0
        assert attention.max() <= 1.0


def test_plain_network_gives_one_unbounded_number_per_slice():
    predictor = Predictor("plain", (4, 6, 8))
    inputs = np.random.default_rng(2).normal(size=(5, 64, 64, INPUT_CHANNELS))
    assert predictor.predict(inputs.astype(np.float32), batch_size=2).shape == (5, 1)


def test_slices_with_less_than_the_smallest_lesion_score_zero():
    output = np.log1p(np.array([[0.0], [0.9], [1.1], [250.0]]))
    output[0] = -2.0
    assert slice_scores(output) == pytest.approx([0.0, 0.0, 1.1, 250.0])


def test_every_lattice_point_of_the_attention_can_be_reached():
    # a head with dead sub-pixels would leave some output without any gradient
    import tensorflow as tf

    network = build_network("additive", (4, 6))
    inputs = tf.Variable(np.random.default_rng(3).normal(size=(1, 16, 16, INPUT_CHANNELS)))
    with tf.GradientTape(persistent=True) as tape:
        attention = network(tf.cast(inputs, tf.float32))[0, 8:10, 8:10, 0]
        values = [attention[i, j] for i in range(2) for j in range(2)]
    assert all(np.abs(tape.gradient(v, inputs).numpy()).max() > 0 for v in values)


def test_input_channels_are_windows_candidates_and_coordinates():
    context = np.full((1, 5, 2, 2), 40.0)
    context[0, 0] = 150.0
    context[0, 1] = 95.0
    context[0, 2] = 600.0
    context[0, 4] = -1000.0
    area = np.full((1, 2, 2), 0.4)
    place = np.zeros((1, 2, 2, 3)) + np.array([0.1, -0.2, 0.3])
    got = slice_inputs(context, area, place)[0, 0, 0]
    # (150 - 40) / 220; (95 - 40) / 220; clipped above and below; 600 / 1200; the rest as given
    assert got == pytest.approx([0.5, 0.25, 1.0, 0.0, -1.0, 0.5, 0.4, 0.1, -0.2, 0.3])


def test_several_members_answer_by_their_mean_logit(tmp_path):
    parts = [build_network("additive", (4, 6)) for _ in range(3)]
    joined = join_members(parts, (4, 6))
    path = tmp_path / "joined.weights.h5"
    joined.save_weights(path)
    settings = {"network": "additive", "widths": [4, 6], "members": 3}
    inputs = np.random.default_rng(5).normal(size=(2, 16, 24, INPUT_CHANNELS)).astype(np.float32)
    answers = [np.asarray(part(inputs), float) for part in parts]
    logits = np.mean([np.log(a / (1.0 - a)) for a in answers], axis=0)
    found = Predictor.from_settings(settings, path).predict(inputs, batch_size=2)
    np.testing.assert_allclose(found, 1.0 / (1.0 + np.exp(-logits)), atol=1e-5)
    assert np.ptp([a.mean() for a in answers]) > 1e-3
    assert join_members(parts[:1], (4, 6)) is parts[0]


def test_what_a_network_draws_of_the_anatomy_comes_beside_its_attention():
    for widths in ((4, 6), (4, 6, 8)):
        network = build_network("additive", widths, anatomy=True)
        inputs = np.random.default_rng(6).normal(size=(2, 32, 48, INPUT_CHANNELS))
        attention, drawn = network(inputs.astype(np.float32))
        assert attention.shape == (2, 32, 48, 1)
        assert drawn.shape == (2, 8, 12, len(STRUCTURES))
        # the part that ships is a network without
        alone = build_network("additive", widths)
        alone.set_weights(attention_alone(network).get_weights())
        np.testing.assert_allclose(alone(inputs.astype(np.float32)), attention, atol=1e-6)
    assert attention_alone(alone) is alone
    with pytest.raises(ValueError, match="anatomy is drawn by one member"):
        build_network("additive", (4, 6), 2, anatomy=True)
    with pytest.raises(ValueError, match="the plain network draws no anatomy"):
        build_network("plain", (4, 6, 8), anatomy=True)


def test_members_are_asked_for_where_there_can_be_any(tmp_path):
    with pytest.raises(ValueError, match="members must be 1 or more"):
        build_network("additive", (4, 6), 0)
    with pytest.raises(ValueError, match="the plain network has one member"):
        build_network("plain", (4, 6, 8), 2)
    path = tmp_path / "one.weights.h5"
    build_network("additive", (4, 6)).save_weights(path)
    with pytest.raises(ValueError, match="the weights must fit"):
        Predictor("additive", (4, 6), path, members=2)


def test_two_levels_are_the_least():
    with pytest.raises(ValueError, match="widths must name at least two levels"):
        build_network("additive", (8,))
    with pytest.raises(ValueError, match="network must be one of additive, plain"):
        build_network("other", (8, 8))


@pytest.mark.parametrize("other", [("additive", (4, 6)), ("plain", (4, 6, 8))])
def test_weights_of_another_network_are_refused(other, tmp_path):
    path = tmp_path / "other.weights.h5"
    build_network(*other).save_weights(path)
    with pytest.raises(ValueError, match=r"must fit the network .*other\.weights\.h5"):
        Predictor("additive", (4, 6, 8), path)
