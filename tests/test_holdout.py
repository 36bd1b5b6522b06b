"""What is held out is in no part of the training, and comes back through additions alone."""

import numpy as np
import pytest

from experiments.configs import tiny
from experiments.suites import holdout
from experiments.suites.holdout_ranks import rank_last, report
from experiments.suites.holdout_split import hold_out
from tokenrec_jax.baselines.popularity import popularity
from tokenrec_jax.data.synthetic import synthetic_interactions
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import ConfigError


@pytest.fixture(scope="module")
def part():
    data = synthetic_interactions(name="synthetic", num_users=60, num_items=40, seed=0)
    return hold_out(data, fraction=0.1, seed=0)


def pairs(data) -> set[tuple[str, str]]:
    return {(data.user_ids[user], data.item_ids[item]) for user in range(data.num_users) for item in data.history(user)}


def test_the_training_knows_nothing_of_what_is_held_out(part):
    whole, training = part.whole, part.training
    assert (len(part.users), len(part.items)) == (6, 4)
    users = {whole.user_ids[row] for row in part.users}
    items = {whole.item_ids[row] for row in part.items}
    assert not users & set(training.user_ids) and not items & set(training.item_ids)
    expected = {(user, item) for user, item in pairs(whole) if user not in users and item not in items}
    assert pairs(training) == {(user, item) for user, item in expected if user in set(training.user_ids)}
    first = whole.history(whole.user_ids.index(training.user_ids[0]))
    kept = [name for item in first if (name := whole.item_ids[item]) not in items]
    assert [training.item_ids[item] for item in training.history(0)] == kept
    assert training.item_titles == tuple(whole.item_titles[whole.item_ids.index(name)] for name in training.item_ids)
    with pytest.raises(ConfigError, match="--fraction=1: allowed is above 0 and below 1"):
        hold_out(whole, fraction=1.0, seed=0)


def test_by_activity_the_least_active_users_are_held_out(part):
    whole = part.whole
    cold = hold_out(whole, fraction=0.1, seed=0, by="activity")
    lengths = np.diff(whole.indptr)
    gone = [row for row, name in enumerate(whole.user_ids) if name not in set(cold.training.user_ids)]
    assert len(gone) >= 6
    assert lengths[cold.users].max() <= np.sort(lengths)[5] < lengths[part.users].max()
    np.testing.assert_array_equal(cold.items, hold_out(whole, fraction=0.1, seed=0, by="activity").items)
    with pytest.raises(ConfigError, match="--by=age: allowed are random, activity"):
        hold_out(whole, fraction=0.1, seed=0, by="age")


def test_items_are_divided_into_additions_and_targets(part):
    added, targets = holdout._divide(part, seed=0)
    whole = part.whole
    names = {whole.item_ids[item] for item in part.items}
    targeted = {(whole.user_ids[t.user], whole.item_ids[whole.history(t.user)[t.place]]) for t in targets}
    given = {(user, item) for user, item, _ in added}
    assert not targeted & given
    assert targeted | given == {(u, i) for u, i in pairs(whole) if i in names and u in set(part.training.user_ids)}
    assert {item for _, item in given} == names
    assert all(t.is_last == (t.place == len(whole.history(t.user)) - 1) for t in targets)
    assert 0.15 < len(targets) / (len(targets) + len(added)) < 0.4


def test_peers_are_the_nearest():
    peers = holdout._peers(np.array([3, 50]), np.repeat(np.arange(10), 8), seed=0)
    assert peers.shape == (2, holdout.PEERS)
    assert set(peers[0] // 8) <= {2, 3, 4} and np.sum(peers[0] // 8 == 3) == 8
    assert set(peers[1] // 8) <= {7, 8, 9} and len(set(peers[1])) == holdout.PEERS


@pytest.mark.slow
def test_measure_reports_users_and_items_and_does_not_train_again(tmp_path, monkeypatch):
    config = tiny.get_config()
    config.data.cache_dir = str(tmp_path / "cache")
    config.data.history_buckets = ()
    config.data.synthetic_users, config.data.synthetic_items = 60, 40
    config.train.steps = 4
    workdir = Workdir.start(str(tmp_path / "run"), config)
    found = holdout.measure(config, workdir, fraction=0.1)
    users, items = found["users"], found["items"]
    assert users["held_out"]["count"] == users["seen"]["count"] == 6
    assert users["seen_all"]["count"] == workdir.interactions().num_users < 60
    assert items["held_out"]["count"] == items["seen"]["count"] <= items["held_out_anywhere"]["count"]
    assert items["items"] == 4
    for group, cutoff in ((users["held_out"], 10), (items["seen"], 50)):
        low, high = group[f"hr@{cutoff}_interval"]
        assert 0 <= low <= group[f"hr@{cutoff}"] <= high <= 1 and group[f"ndcg@{cutoff}"] <= group[f"hr@{cutoff}"]

    def again(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(holdout, "run", again)
    monkeypatch.setattr(holdout, "measure_items", lambda *_, **__: items)
    assert holdout.measure(config, workdir, fraction=0.1) == found
    with pytest.raises(ConfigError, match=r"others held out than --fraction=0.2 --by=random; give the flags"):
        holdout.measure(config, workdir, fraction=0.2)


def test_where_nothing_was_held_out_nothing_is_reported():
    data = synthetic_interactions(name="synthetic", num_users=20, num_items=24, seed=0)
    ranks = rank_last(popularity(data), data, [], owners=[], config=tiny.get_config(), cutoff=50)
    assert report(ranks, cutoff=50, seed=0) == {"count": 0}
