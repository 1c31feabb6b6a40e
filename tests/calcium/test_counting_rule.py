import numpy as np
import pytest

from calcium.counting_rule import CountingRule, fit_counting_rule, lesion_attention
from calcium.feedback import decide

ONE = (1.0, 1.0, 1.0)


def test_needed_attention_falls_with_the_score_to_one_half():
    rule = CountingRule(2.0, 0.5)
    # logits 2, 2 - 0.5 ln 10 and, beyond e^4 points, 0
    expected = [1 / (1 + np.exp(-2.0)), 1 / (1 + np.exp(-2.0 + 0.5 * np.log(10.0))), 0.5]
    assert rule.needed_attention([1.0, 10.0, 1000.0]) == pytest.approx(expected)
    assert CountingRule().needed_attention([0.5, 500.0]).tolist() == [0.5, 0.5]


def test_a_rule_comes_back_from_its_fragment():
    rule = CountingRule(1.25, -0.5)
    assert CountingRule.from_dict(rule.to_dict()) == rule


def test_small_lesions_need_more_where_most_of_them_are_noise():
    rng = np.random.default_rng(0)
    size = np.exp(rng.uniform(0.0, 6.0, 4000))
    # the chance of a lesion of logit a and size d to be coronary is that of logit a - 3 + 0.5 ln d
    logit = rng.normal(0.0, 4.0, 4000)
    chance = 1.0 / (1.0 + np.exp(-(logit - 3.0 + 0.5 * np.log(size))))
    rule = fit_counting_rule(size, 1.0 / (1.0 + np.exp(-logit)), rng.random(4000) < chance)
    assert rule.logit_at_one == pytest.approx(3.0, abs=0.4)
    assert rule.logit_per_log_score == pytest.approx(0.5, abs=0.1)


def test_lesions_of_one_kind_or_attention_upside_down_give_the_plain_half():
    half = CountingRule()
    assert fit_counting_rule([1.0, 5.0], [0.9, 0.8], [True, True]) == half
    size, truth = np.full(200, 10.0), np.arange(200) % 2 == 0
    assert fit_counting_rule(size, np.where(truth, 0.1, 0.9), truth) == half


def test_decisions_follow_the_rule():
    # two lesions of 2 and 200 points with an attention of 0.6: a logit of 0.41
    density, where = np.array([2.0, 200.0]), np.array([0, 50])
    attention = np.full(2, 0.6)
    rule = CountingRule(1.0, 0.2)  # needs 1 - 0.2 ln 2 = 0.86 and 1 - 0.2 ln 200 < 0
    for given, expected in ((rule, [0.0, 200.0]), (None, [2.0, 200.0])):
        found = decide(attention, density, where, (1, 8, 8), "lesion", given, spacing_mm=ONE)
        assert found.tolist() == expected


def test_the_attention_of_a_lesion_is_that_of_its_mean_logit():
    label = np.array([0, 0, 1])
    logit = np.array([3.0, -1.0, -2.0])
    attention = 1.0 / (1.0 + np.exp(-logit))
    got = lesion_attention(label, attention, np.array([1.0, 3.0, 5.0]))
    # 3 x 1 - 1 x 3 = 0: as likely as not; the mean attention would be 0.44
    assert got == pytest.approx([0.5, 1.0 / (1.0 + np.exp(2.0))])
    # certainty is bounded, so that one point alone does not decide on a thousand
    assert lesion_attention(np.zeros(2, int), np.array([1.0, 0.2]), np.array([1.0, 99.0]))[0] < 0.3
