"""Settings of baselines are found wherever on their ladder the best one is."""

import dataclasses

import pytest

from experiments import untrained
from experiments.configs import tiny
from experiments.evaluation import split_output
from experiments.untrained import EASE_WEIGHTS, RECENCIES, baselines, climb
from tokenrec_jax.baselines.ease import ease
from tokenrec_jax.baselines.item_knn import cosine_similarity, most_pairs
from tokenrec_jax.baselines.popularity import popularity
from tokenrec_jax.data.synthetic import synthetic_interactions
from tokenrec_jax.types import Split

LADDER = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)


@dataclasses.dataclass
class Made:
    at: float
    value: float


@pytest.mark.parametrize("start", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("peak", LADDER)
def test_climbing_finds_the_only_peak_and_passes_it_by_two(start, peak):
    made = []

    def make(at):
        made.append(at)
        return Made(at, -abs(at - peak))

    assert climb(LADDER, make, start=start).at == peak
    assert len(made) == len(set(made))
    assert all(min(start, peak) - 2 <= at <= max(start, peak) + 2 for at in made)


def test_climbing_crosses_one_worse_value_but_not_two():
    values = dict(zip(LADDER, (9.0, 0.0, 0.0, 4.0, 3.0, 5.0), strict=True))
    assert climb(LADDER, lambda at: Made(at, values[at]), start=4.0).at == 6.0


def test_equal_values_end_the_climb_at_the_first():
    assert climb(LADDER, lambda at: Made(at, 0.0), start=3.0).at == 3.0


def test_what_is_chosen_is_ranked_on_both_splits():
    data = synthetic_interactions(name="synthetic", num_users=60, num_items=40, seed=0)
    config = tiny.get_config()
    config.evaluation.graph = "known"
    lightgcn = dict.fromkeys(Split, popularity(data.without_last(2)))
    found = baselines(lightgcn, data, config=config)["ease"]
    assert found.settings["l2"] in EASE_WEIGHTS and found.settings["recency"] in RECENCIES
    for split, graph in ((Split.VALID, data.without_last(2)), (Split.TEST, data.without_last(1))):
        expected = split_output(ease(graph, **found.settings), data, split, config=config).metrics
        assert found.outputs[split].metrics == expected


def test_tables_of_pairs_that_are_too_large_are_left_out_and_it_is_said(monkeypatch, caplog):
    data = synthetic_interactions(name="synthetic", num_users=60, num_items=40, seed=0)
    lightgcn = dict.fromkeys(Split, popularity(data.without_last(2)))
    pairs = most_pairs(data.without_last(2))
    caplog.set_level("INFO", logger="absl")
    assert cosine_similarity(data.without_last(2)).nnz < pairs <= 40 * 40
    for limit, names in ((pairs, {"lightgcn", "popularity", "item_knn"}), (pairs - 1, {"lightgcn", "popularity"})):
        monkeypatch.setattr(untrained, "MOST_PAIRS_OF_KNN", limit)
        monkeypatch.setattr(untrained, "MOST_ITEMS_OF_EASE", 39)
        assert baselines(lightgcn, data, config=tiny.get_config()).keys() == names
    assert f"item-kNN is left out: up to {pairs} pairs of items, at most {pairs - 1} fit" in caplog.text
