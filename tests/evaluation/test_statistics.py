import numpy as np
import pytest

from tokenrec_jax.evaluation import ranking
from tokenrec_jax.evaluation.statistics import interval, paired_difference, per_user
from tokenrec_jax.types import ConfigError, DataError


def test_values_of_users_average_to_the_reported_metrics():
    ranks = np.array([1, 3, 10, 11, 400], np.int32)
    np.testing.assert_allclose(per_user(ranks, "ndcg@10"), [1, 0.5, 1 / np.log2(11), 0, 0])
    assert per_user(ranks, "hr@3").tolist() == [1, 1, 0, 0, 0]
    reported = ranking.metrics(ranks, [3, 10])
    assert {name: float(per_user(ranks, name).mean()) for name in reported} == reported


@pytest.mark.parametrize("metric", ["hr", "hr@", "hr@0", "hr@x", "coverage@10"])
def test_unknown_metrics(metric):
    with pytest.raises(ConfigError, match="allowed are hr, ndcg, mrr, recall with a cutoff"):
        per_user(np.array([1]), metric)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for sample in range(300):
        bounds = interval((rng.random(200) < 0.3).astype(float), seed=sample, level=0.8, draws=400)
        covered += bounds.low <= 0.3 <= bounds.high
    # Five standard errors of a share of 0.8 are 0.115.
    assert 0.69 < covered / 300 < 0.91


def test_the_interval_is_that_of_drawing_users_one_by_one():
    values = np.random.default_rng(1).exponential(size=150)
    drawn = np.random.default_rng(2).integers(0, 150, (20_000, 150))
    expected = np.quantile(values[drawn].mean(axis=1), [0.05, 0.95])
    found = interval(values, seed=0, level=0.9, draws=20_000)
    np.testing.assert_allclose([found.low, found.high], expected, atol=0.005)


def test_draws_are_decided_by_the_seed_whatever_the_block(monkeypatch):
    values = np.random.default_rng(1).random(50)
    once, again = interval(values, seed=3), interval(values, seed=3)
    assert once == again != interval(values, seed=4)
    monkeypatch.setattr("tokenrec_jax.evaluation.statistics._BLOCK", 170)
    blocked = interval(values, seed=3)
    assert (blocked.low, blocked.high) == pytest.approx((once.low, once.high), rel=1e-12)


def test_a_constant_has_no_spread_and_no_difference_is_no_news():
    ones = np.ones(7)
    assert interval(ones, seed=0) == interval(ones, seed=1)
    same = paired_difference(ones, ones, seed=0)
    assert (same.mean, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_the_p_value_is_that_of_all_sign_flips():
    # Of the 16 flips of these four, two have a sum of 10 or more in absolute value, four one of 8 or more.
    zeros = np.zeros(4)
    for a, share in (([1.0, 2.0, 3.0, 4.0], 2 / 16), ([-1.0, 2.0, 3.0, 4.0], 4 / 16)):
        assert paired_difference(np.array(a), zeros, seed=0, draws=20_000).p_value == pytest.approx(share, abs=0.01)


def test_pairing_finds_what_unpaired_intervals_hide():
    rng = np.random.default_rng(0)
    ranks = rng.integers(1, 40, 3000)
    a, b = per_user(ranks, "ndcg@10"), per_user(ranks + (rng.random(3000) < 0.1), "ndcg@10")
    difference = paired_difference(a, b, seed=0)
    assert difference.mean == pytest.approx(a.mean() - b.mean())
    assert 0 < difference.low < difference.mean < difference.high
    assert difference.p_value == 1 / 2001
    assert interval(a, seed=0).low < b.mean()
    reverse = paired_difference(b, a, seed=0)
    assert reverse.mean == -difference.mean and reverse.p_value == difference.p_value


def test_what_is_refused():
    values = np.ones(3)
    for wrong in (np.ones(0), np.array([1.0, np.nan])):
        with pytest.raises(DataError, match="values"):
            interval(wrong, seed=0)
    with pytest.raises(DataError, match="3 and 2 values"):
        paired_difference(values, values[:2], seed=0)
    with pytest.raises(ConfigError, match="level: got 95"):
        interval(values, seed=0, level=95.0)
    with pytest.raises(ConfigError, match="draws: got 0"):
        interval(values, seed=0, draws=0)
    with pytest.raises(DataError, match="ranks: got 0"):
        per_user(np.array([0, 1]), "hr@10")
