import numpy as np
import pytest

from calcium.counting_rule import CountingRule
from calcium.crop_augmentation import CropChange
from calcium.lattice_scan import lattice_scan
from calcium.networks.predictor import build_network
from calcium.territories import VesselAtlas
from calcium.training_from_scores import (
    FineTuningOptions,
    ScoredScan,
    _Goal,
    _Passes,
    fine_tune,
    soft_count,
    split_scans,
)
from tests.calcium.test_training import HEART, labeled

RULE = CountingRule(1.0, 0.2)


def scored(seed):
    scan = lattice_scan(labeled(seed), HEART)
    return ScoredScan(scan, scan.agatston)


def network(seed=3):
    import keras

    keras.utils.set_random_seed(seed)
    return build_network("additive", (4, 6))


def at_logit(logit):
    return 1.0 / (1.0 + np.exp(-logit))


def test_a_lesion_counts_half_at_the_attention_it_needs_and_the_slope_is_the_derivative():
    needed = np.array([0.5, 0.8, 0.6, 0.7])
    attention = np.array([0.5, 0.8, 0.1, 0.95])
    logit = np.log(attention / (1.0 - attention))
    count, slope = soft_count(attention, needed)
    assert count[:2] == pytest.approx([0.5, 0.5])
    assert count[2] < 0.1
    assert count[3] > 0.85
    step = 1e-6
    ahead, behind = (soft_count(at_logit(logit + s), needed)[0] for s in (step, -step))
    assert slope == pytest.approx((ahead - behind) / (2 * step), rel=1e-5)


def total_loss(goal, attention):
    """Huber loss of log1p of the whole score, written out again."""
    weight = np.bincount(goal.label, goal.scan.density)
    logit = np.log(attention / (1.0 - attention))
    mean = at_logit(np.bincount(goal.label, logit * goal.scan.density) / weight)
    score = float((weight * soft_count(mean, RULE.needed_attention(weight))[0]).sum())
    error = abs(np.log1p(score) - np.log1p(goal.target[0]))
    return 0.5 * error**2 if error < 1 else error - 0.5


@pytest.mark.parametrize("factor", [0.7, 30.0])
def test_slopes_are_the_derivative_of_the_loss(factor):
    scan = scored(0).scan
    goal = _Goal(ScoredScan(scan, factor * scan.agatston), RULE, None)
    attention = np.random.default_rng(1).uniform(0.2, 0.8, len(scan.points))
    slopes = goal.slopes(attention)
    for point in (0, len(attention) // 2, len(attention) - 1):
        moved = attention.copy()
        moved[point] += 1e-5
        ahead = total_loss(goal, moved)
        moved[point] -= 2e-5
        expected = (ahead - total_loss(goal, moved)) / 2e-5
        assert slopes[point] == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_gradients_of_a_scan_in_parts_are_those_of_its_loss():
    trained = network()
    passes = _Passes(trained)
    goal = _Goal(ScoredScan(scored(0).scan, 40.0), RULE, None)
    nothing = CropChange(np.zeros(3), np.ones(3))

    class NoJitter:
        def normal(self, _mean, _sd, count):
            return np.zeros(count)

    gradients = passes.gradients(goal, NoJitter())
    last = trained.trainable_variables[-1]
    assert last.shape == (1,)
    value, step = np.array(last), 1e-2
    losses = []
    for sign in (1, -1):
        last.assign(value + sign * step)
        losses.append(total_loss(goal, passes._attention(goal.scan, nothing).astype(float)))
    expected = (losses[0] - losses[1]) / (2 * step)
    assert float(np.asarray(gradients[-1])[0]) == pytest.approx(expected, rel=1e-2)
    assert abs(expected) > 1e-4


def test_scores_of_territories_are_learnt_apart():
    scan = scored(0).scan
    # the plaques of the two halves, in heart units
    courses = {
        "LAD": np.array([[0.4, -1.0, 0.0], [0.4, 1.0, 0.0]]),
        "RCA": np.array([[-0.4, -1.0, 0.0], [-0.4, 1.0, 0.0]]),
    }
    parts = {"LM/LAD": 1e6, "LCX": 0.0, "RCA": 0.0}
    goal = _Goal(ScoredScan(scan, 1e6, parts), RULE, VesselAtlas((courses,)))
    slopes = goal.slopes(np.full(len(scan.points), 0.5))
    left = scan.unit_coordinates(scan.points.astype(float))[:, 0] > 0
    assert left.any()
    assert (~left).any()
    # more is wanted on the left, nothing on the right
    assert (slopes[left] < 0).all()
    assert (slopes[~left] > 0).all()


def test_every_third_scan_by_score_judges():
    scans = [scored(k) for k in range(7)]
    training, judges = split_scans(scans)
    ordered = sorted(s.agatston for s in scans)
    assert [s.agatston for s in judges] == ordered[1::3]
    assert sorted(s.agatston for s in training + judges) == ordered
    with pytest.raises(ValueError, match=r"6 scans with a score are needed\. Received: 5"):
        split_scans(scans[:5])


def test_the_start_is_kept_if_nothing_is_better():
    import keras

    trained = network()
    lines = []
    options = FineTuningOptions(epochs=3, learning_rate=50.0, patience=2)
    training, judges = split_scans([scored(k) for k in range(6)])
    # what is asked for cannot be had: judges want nothing, and the start gives next to nothing
    head = [layer for layer in trained.layers if isinstance(layer, keras.layers.Conv2D)][-1]
    head.bias.assign([-40.0])
    before = trained.get_weights()
    judges = [ScoredScan(j.scan, 0.0) for j in judges]
    found = fine_tune(trained, training, judges, RULE, options, report=lines.append)
    assert found.best == 0
    assert found.kept_error == found.start_error == 0.0
    assert len(found.errors) == 2
    assert all(np.array_equal(a, b) for a, b in zip(before, trained.get_weights(), strict=True))
    assert lines[0].startswith("before: error 0.000 on 2 scans")


@pytest.mark.slow
def test_scores_alone_improve_what_takes_no_part():
    trained = network()
    training, judges = split_scans([scored(k) for k in range(9)])
    options = FineTuningOptions(epochs=8, learning_rate=2e-2, patience=8)
    rule = CountingRule()
    found = fine_tune(trained, training, judges, rule, options, report=lambda _: None)
    assert found.best > 0
    # half of the density of every scan counts, left of the middle: all or nothing is off by ln 2
    assert found.kept_error < 0.35
