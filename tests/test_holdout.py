"""What is held out is in no part of the training, and comes back through additions alone."""

import dataclasses
import html
import types
from typing import Any

import numpy as np
import pytest

from experiments.configs import tiny
from experiments.printing import left_out_notice, print_result
from experiments.reporting.run_page import run_page
from experiments.suites import holdout
from experiments.suites.holdout_ranks import rank_last, report
from experiments.suites.holdout_split import hold_out
from experiments.suites.holdout_untouched import measure_untouched
from experiments.training import run
from tokenrec_jax.baselines.popularity import popularity
from tokenrec_jax.data.synthetic import synthetic_interactions
from tokenrec_jax.evaluation.statistics import interval
from tokenrec_jax.growth.catalogue import Catalogue
from tokenrec_jax.growth.rows import read_items, read_rows
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


class Popular:
    """A recommender that ranks by popularity and has read texts."""

    built = types.SimpleNamespace(features=None, text="a map")

    def __init__(self, data):
        self.catalogue = Catalogue.of_run(data, graph=data.without_last(2))

    interactions = property(lambda self: self.catalogue.interactions)
    user_ids = property(lambda self: self.interactions.user_ids)
    item_ids = property(lambda self: self.interactions.item_ids)

    def add_interactions(self, table):
        self.catalogue = self.catalogue.with_rows(read_rows(table))

    def add_items(self, items, **columns):
        self.said = columns
        self.catalogue = self.catalogue.with_items(read_items(items, **columns))

    def score_function(self):
        return popularity(self.interactions)


def popular(data) -> Any:
    return Popular(data)


def test_seen_targets_are_ranked_after_all_that_their_users_had_before(part, monkeypatch):
    ranked = []

    def spy(score, now, histories, **arguments):
        ranked.append([[now.item_ids[item] for item in history] for history in histories])
        return rank_last(score, now, histories, **arguments)

    monkeypatch.setattr(holdout, "rank_last", spy)
    found = holdout.measure_items(popular(part.training), part, config=tiny.get_config())
    before, held_out, seen = ranked
    assert before == [[part.training.item_ids[item] for item in part.training.history(row)] for row in range(54)]
    assert [history[-1] for history in before] == [history[-1] for history in seen]
    whole, training = part.whole, part.training
    out = {whole.item_ids[item] for item in part.items}
    expected = []
    for row, user in enumerate(training.user_ids):
        history = [whole.item_ids[item] for item in whole.history(whole.user_ids.index(user))]
        last = training.item_ids[training.history(row)[-1]]
        expected.append([name for name in history[: history.index(last) + 1] if name in {*training.item_ids, *out}])
    assert seen == expected
    assert any(out & set(history) for history in seen) and not any(history[-1] in out for history in seen)
    # As many items as targets are of: what their intervals rest on.
    assert found["held_out_anywhere"]["items"] == len({history[-1] for history in held_out}) == 4 == found["items"]
    assert found["held_out_anywhere"]["count"] == len(held_out) > 4
    hits = [found[f"seen_all_{when}_addition"]["hr@10"] for when in ("before", "after")]
    assert hits[0] >= hits[1] > 0 and found["seen_all_after_addition"]["count"] == 54
    assert found["seen_all"]["items"] == len({history[-1] for history in seen}) < found["seen_all"]["count"]


def test_untouched_items_are_groups_of_their_own_and_come_with_their_texts(part):
    texts = tuple(f"about {item}" for item in part.whole.item_ids)
    for whole in (part.whole, dataclasses.replace(part.whole, item_texts=texts)):
        recommender = popular(part.training)
        given = dataclasses.replace(part, whole=whole)
        found = measure_untouched(recommender, given, config=tiny.get_config()) or {}
        assert found["content_anywhere"]["items"] == found["items"] == 4 < found["content_anywhere"]["count"]
        expected = None if whole.item_texts is None else [texts[item] for item in part.items]
        assert recommender.said["texts"] == expected


def test_ranks_of_one_item_are_drawn_together():
    hit, missed = [1] * 100, [99] * 100
    ranks, items = np.array(hit * 5 + missed * 5), np.repeat(np.arange(10), 100)
    found = report(ranks, items, unit="items", cutoff=10, seed=3)
    assert (found["count"], found["items"], found["hr@10"]) == (1000, 10, 0.5)
    ten = interval(np.repeat([1.0, 0.0], 5), seed=3)
    assert found["hr@10_interval"] == [ten.low, ten.high]
    users = report(ranks[::100], np.arange(10), unit="users", cutoff=10, seed=3)
    assert users["users"] == users["count"] == 10 and users["hr@10_interval"] == found["hr@10_interval"]
    # Of items with many targets and with few, the mean is over targets, in what is drawn as in what is reported.
    ranks, items = np.array([1] * 30 + [99] * 10), np.array([0] * 30 + list(range(1, 11)))
    low, high = report(ranks, items, unit="items", cutoff=10, seed=0)["hr@10_interval"]
    assert low == 0 and 0.9 < high < 1
    # A peer that stands beside two targets counts twice, and is drawn once.
    twice = report(np.array([[1, 99], [1, 99]]), np.array([[0, 1], [0, 1]]), unit="items", cutoff=10, seed=0)
    assert (twice["count"], twice["items"], twice["hr@10_interval"]) == (2, 2, [0, 1])
    assert report(np.array([1, 99]), np.array([4, 4]), unit="items", cutoff=10, seed=0)["hr@10_interval"] is None


LEFT_OUT = {"fraction": 0.1, "by": "random"}


def test_a_run_without_some_users_and_items_says_so(tmp_path, capsys):
    result = {"dataset": "d", "seed": 0, "left_out": LEFT_OUT, "baselines": {}, "seconds": {}}
    Workdir(tmp_path).save_result(result)
    print_result(Workdir(tmp_path))
    notice = left_out_notice(LEFT_OUT)
    assert "without a share of 0.1 of the users (--by=random) and of the items" in notice
    assert notice in capsys.readouterr().out and notice in html.unescape(run_page(tmp_path))
    assert left_out_notice(None) == ""


def test_no_other_training_goes_on_with_what_is_left_of_the_data(tmp_path, monkeypatch):
    config = tiny.get_config()
    config.data.cache_dir = str(tmp_path / "cache")
    workdir = Workdir.start(str(tmp_path / "run"), config)

    def begin(config, workdir, *, interactions, left_out):
        assert left_out == LEFT_OUT
        workdir.begin(config, interactions)
        raise KeyboardInterrupt

    monkeypatch.setattr(holdout, "run", begin)
    with pytest.raises(KeyboardInterrupt):
        holdout.measure(config, workdir, fraction=0.1)
    with pytest.raises(ConfigError, match=r"what experiments\.holdout left of synthetic; go on with that command"):
        run(config, workdir)


@pytest.mark.slow
def test_measure_reports_users_and_items_and_does_not_train_again(tmp_path, monkeypatch):
    config = tiny.get_config()
    config.data.cache_dir = str(tmp_path / "cache")
    config.data.history_buckets = ()
    config.data.synthetic_users, config.data.synthetic_items = 60, 40
    config.train.steps = 4
    workdir = Workdir.start(str(tmp_path / "run"), config)
    found = holdout.measure(config, workdir, fraction=0.1)
    assert workdir.result()["left_out"] == LEFT_OUT
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
    assert report(ranks, ranks, unit="items", cutoff=50, seed=0) == {"count": 0}
