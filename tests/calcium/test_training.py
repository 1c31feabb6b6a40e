import csv
from dataclasses import replace

import numpy as np
import pytest

from calcium.anatomy_maps import AnatomyPoints
from calcium.labeled_scan import LabeledScan
from calcium.lattice_scan import lattice_scan, load_lattice_scan, save_lattice_scan
from calcium.networks.predictor import build_network
from calcium.training import (
    TrainingOptions,
    _State,
    attention_loss,
    regression_loss,
    train_network,
)
from calcium.training_data import CropSampler
from calcium.validation import additive_outcome, lattice_attention, summary
from registration.geometry import Ellipsoid, ImageGrid

GRID = ImageGrid((150, 140, 9), (0.9, 0.8, 3.0), (-20.0, 40.0, -90.0))
HEART = Ellipsoid((0.0, 0.0, 0.0), (60.0, 55.0, 40.0))


def labeled(seed=0):
    """Plaque in the left half counts, the same in the right half does not."""
    rng = np.random.default_rng(seed)
    hu = rng.normal(30, 10, GRID.shape).astype(np.int16)
    coronary = np.zeros(GRID.shape, bool)
    for _ in range(12):
        z, y, x = rng.integers(1, 8), rng.integers(30, 110), rng.integers(30, 60)
        hu[z, y : y + 4, x : x + 3] = rng.integers(150, 600)
        coronary[z, y : y + 4, x : x + 3] = True
        hu[z, y : y + 4, 150 - x : 153 - x] = rng.integers(150, 600)
    to_scan = np.eye(4)
    to_scan[:3, 3] = (47.0, 96.0, -78.0)
    return LabeledScan(f"case-{seed}", f"case-{seed}", "chest", hu, GRID, to_scan, coronary)


NO_LESIONS = (np.zeros((1, 4, 4), np.int32), np.zeros(1, np.float32))


def test_losses_by_hand():
    density = np.zeros((1, 4, 4), np.float32)
    density[0, 0, 0], density[0, 3, 3] = 7.0, 3.0
    attention = np.full((1, 4, 4, 1), 0.5, np.float32)
    # one square: predicted 5, true 7: 0.5 (ln 6/8)², one weighted square and the 1 added
    whole = np.array([[[7.0]]], np.float32)
    expected = 0.5 * np.log(6 / 8) ** 2 / 2
    assert float(attention_loss(attention, density, (whole,), NO_LESIONS)) == pytest.approx(
        expected, rel=1e-5
    )
    # four squares, two of them with density: half counts where all should, and where none
    # should: an entropy of ln 2 each, weighted by ln 8 and ln 4
    quarters = np.array([[[7.0, 0.0], [0.0, 0.0]]], np.float32)
    weight = np.log(8.0) + np.log(4.0)
    expected += np.log(2.0) * weight / (weight + 1.0)
    got = float(attention_loss(attention, density, (whole, quarters), NO_LESIONS))
    assert got == pytest.approx(expected, rel=1e-4)
    # exact scores leave nothing, also where only part of a square counts
    exact = np.zeros((1, 4, 4, 1), np.float32)
    exact[0, 0, 0] = 5.0 / 7.0
    part = (np.array([[[5.0]]], np.float32), quarters * 5.0 / 7.0)
    assert float(attention_loss(exact, density, part, NO_LESIONS)) == pytest.approx(0.0, abs=1e-5)
    # plain: ln(1 + 7) against 0.2; beyond 1 the loss is linear
    got = float(regression_loss(np.array([[0.2]], np.float32), density, (quarters,), NO_LESIONS))
    assert got == pytest.approx(np.log(8.0) - 0.2 - 0.5, rel=1e-5)


def test_the_loss_of_the_anatomy_is_that_of_known_structures():
    attention = np.zeros((1, 8, 8, 1), np.float32)
    density = np.zeros((1, 8, 8), np.float32)
    logits = np.zeros((1, 2, 2, 6), np.float32)
    maps = np.zeros((1, 2, 2, 6), np.float32)
    maps[0, 0, 0, 1] = 1.0
    logits[0, :, :, 4] = 50.0
    known = np.array([[0, 1, 1, 0, 0, 0]], np.float32)
    none = (np.zeros((1, 8, 8), np.int32), np.zeros(1, np.float32))

    def loss(drawn):
        return float(attention_loss([attention, drawn], density, (), none, (maps, known)))

    # two structures of four cells, each told with a chance of one half, and the 1 added
    assert loss(logits) == pytest.approx(6 * 8 * np.log(2.0) / 9, rel=1e-3)
    right = np.where(maps > 0, 30.0, -30.0).astype(np.float32)
    assert loss(right) == pytest.approx(0.0, abs=1e-3)
    assert loss(-right) > 10.0


def test_the_loss_of_a_lesion_is_that_of_its_mean_logit():
    density = np.zeros((1, 4, 4), np.float32)
    density[0, 0, :2], density[0, 3, 3] = (3.0, 1.0), 6.0
    labels = np.zeros((1, 4, 4), np.int32)
    labels[0, 0, :2], labels[0, 3, 3] = 1, 2
    logit = np.zeros((1, 4, 4, 1))
    logit[0, 0, :2, 0], logit[0, 3, 3, 0] = (2.0, -2.0), 0.5
    attention = (1.0 / (1.0 + np.exp(-logit))).astype(np.float32)
    # the first one: mean logit (3 x 2 - 2) / 4 = 1, counts; the second: 0.5, does not
    scores = np.array([0.0, 4.0, 0.0], np.float32)
    entropy = np.log1p(np.exp([-1.0, 0.5]))
    weight = np.log([5.0, 7.0])
    expected = (weight * entropy).sum() / (weight.sum() + 1.0)
    got = float(attention_loss(attention, density, (), (labels, scores)))
    assert got == pytest.approx(expected, rel=1e-3)


def test_a_training_that_diverges_goes_back_and_on_at_half_the_rate(tmp_path, caplog):
    import tensorflow as tf

    scans = [lattice_scan(labeled(), HEART)]
    rates = []

    factor = tf.Variable(1.0)

    def loss(*arguments):
        return factor * attention_loss(*arguments)

    class Watched(_State):
        def watch(self, value):
            super().watch(value)
            rates.append(float(self.optimizer.learning_rate.numpy()))
            factor.assign(1000.0 if len(rates) in (8, 9) else 1.0)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("calcium.training._State", Watched)
        train_network(
            build_network("additive", (4, 6)),
            CropSampler(scans, seed=2, batch_size=2),
            loss,
            tmp_path,
            TrainingOptions(
                steps=15, learning_rate=1e-3, warm_up=1, checkpoint_every=5, evaluate_every=15
            ),
        )
    # ten steps, back to the fifth, and the last ten
    assert len(rates) == 20
    np.testing.assert_allclose(rates[10:15], 0.5 * np.array(rates[5:10]), rtol=1e-6)
    assert "going on from step 5 at 0.5 of the rate" in caplog.text


def test_a_training_that_always_diverges_is_given_up(tmp_path):
    scans = [lattice_scan(labeled(), HEART)]

    class Diverging(_State):
        @property
        def has_diverged(self):
            return True

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("calcium.training._State", Diverging)
        with pytest.raises(ValueError, match=r"diverges before step 10 at any learning rate"):
            short_training(tmp_path, scans, steps=15, checkpoint_every=5)


def train(folder, steps, scans, stop_at=None):
    import keras

    keras.utils.set_random_seed(1)
    network = build_network("additive", (4, 6))
    options = TrainingOptions(
        steps=steps, learning_rate=1e-2, warm_up=3, checkpoint_every=5, evaluate_every=5
    )
    sampler = CropSampler(scans, seed=2, batch_size=2)

    def stop(_network, step):
        if step == stop_at:
            raise KeyboardInterrupt
        return {}

    train_network(network, sampler, attention_loss, folder, options, evaluate=stop)
    return network


def test_killed_training_resumes_to_identical_weights(tmp_path):
    scans = [lattice_scan(labeled(), HEART)]
    straight = train(tmp_path / "straight", 15, scans)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", 15, scans, stop_at=10)
    resumed = train(tmp_path / "killed", 15, scans)
    for first, second in zip(straight.get_weights(), resumed.get_weights(), strict=True):
        assert np.allclose(first, second, atol=1e-6)
    rows = list(csv.DictReader((tmp_path / "killed" / "curve.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [5, 10, 15]


@pytest.mark.parametrize("steps", [1, 6])
def test_training_killed_between_checkpoint_and_weights_gives_the_last_weights(
    tmp_path, monkeypatch, steps
):
    scans = [lattice_scan(labeled(), HEART)]
    straight = train(tmp_path / "straight", steps, scans)

    class Killed(_State):
        def save(self, path, step):
            super().save(path, step)
            if step == steps:
                raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("calcium.training._State", Killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "killed", steps, scans)
    resumed = train(tmp_path / "killed", steps, scans)
    for first, second in zip(straight.get_weights(), resumed.get_weights(), strict=True):
        assert np.allclose(first, second, atol=1e-6)


def short_training(folder, scans, *, widths=(4, 6), seed=2, batch_size=2, **options):
    return train_network(
        build_network("additive", widths),
        CropSampler(scans, seed=seed, batch_size=batch_size),
        attention_loss,
        folder,
        TrainingOptions(**{"steps": 1, **options}),
    )


def test_checkpoint_of_another_training_is_refused(tmp_path):
    scan = lattice_scan(labeled(), HEART)
    short_training(tmp_path, [scan])
    brighter = replace(scan, hu=scan.hu + np.int16(1))
    elsewhere = replace(scan, field=replace(scan.field, to_unit=scan.field.to_unit * 1.01))
    others = [
        ([scan], {"widths": (4, 8)}),
        ([scan], {"seed": 3}),
        ([scan], {"batch_size": 3}),
        ([scan], {"steps": 2}),
        ([scan], {"learning_rate": 1e-3}),
        ([scan, scan], {}),
        ([brighter], {}),
        ([elsewhere], {}),
        ([replace(scan, coronary=scan.density)], {}),
        ([replace(scan, name="another")], {}),
        ([replace(scan, anatomy=AnatomyPoints.of({"LAD": np.zeros((2, 3))}))], {}),
    ]
    for scans, settings in others:
        with pytest.raises(ValueError, match="belongs to another training") as refused:
            short_training(tmp_path, scans, **settings)
        assert str(tmp_path) in str(refused.value)


def test_a_checkpoint_goes_with_the_same_training_however_often_it_is_written(tmp_path):
    scan = lattice_scan(labeled(), HEART)
    save_lattice_scan(tmp_path / "scan.npz", scan)
    weights = short_training(tmp_path / "a", [scan])
    stamp = (tmp_path / "a" / "checkpoint.npz").stat().st_mtime_ns
    again = [load_lattice_scan(tmp_path / "scan.npz")]
    assert short_training(tmp_path / "a", again, checkpoint_every=7, evaluate_every=9) == weights
    assert (tmp_path / "a" / "checkpoint.npz").stat().st_mtime_ns == stamp


def test_checkpoint_that_does_not_say_what_it_belongs_to_is_refused(tmp_path):
    scans = [lattice_scan(labeled(), HEART)]
    short_training(tmp_path, scans)
    with np.load(tmp_path / "checkpoint.npz") as data:
        arrays = {name: data[name] for name in data.files if name != "key"}
    np.savez(tmp_path / "checkpoint.npz", **arrays)
    with pytest.raises(ValueError, match="belongs to another training"):
        short_training(tmp_path, scans)


@pytest.mark.slow
def test_scores_alone_teach_which_half_counts(tmp_path):
    scans = [lattice_scan(labeled(k), HEART) for k in range(6)]
    network = train(tmp_path, 150, scans)
    fresh = lattice_scan(labeled(99), HEART)
    attention = lattice_attention(lambda x: np.asarray(network(x)), fresh)
    outcome = additive_outcome(fresh, attention, "lesion")
    assert outcome.found == pytest.approx(outcome.truth, rel=0.1)
    assert outcome.false_points < 0.1 * outcome.truth


def test_summary_by_hand():
    class Fixed:
        def __init__(self, truth, score, found):
            self.truth, self.score, self.found = truth, score, found
            self.false_points = score - found

    got = summary([Fixed(0.0, 0.0, 0.0), Fixed(99.0, 49.0, 39.0)])
    assert got["log_error"] == pytest.approx(np.log(100 / 50) / 2)
    assert got["kappa"] == pytest.approx(1.0)
    assert got["found"] == pytest.approx(39 / 99)
    assert got["false"] == pytest.approx(10 / 99)
