"""New items get their share of the recommendations, and no more."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.test_recommender import Maker
from tokenrec_jax.growth.catalogue import Catalogue
from tokenrec_jax.growth.rows import read_items, read_rows
from tokenrec_jax.newcomers import Weights, _evenly, fair_weight, item_weights


def test_the_weight_gives_as_many_places_as_own_scores_have():
    rng = np.random.default_rng(0)
    own, new = rng.normal(size=(50, 20)), rng.normal(0.5, size=(50, 20))
    least = rng.uniform(0.5, 1.5, size=50)
    new[rng.random(new.shape) < 0.1] = -np.inf
    weight = fair_weight(new, own, least=least)
    places = (own > least[:, None]).sum()
    assert 0 < weight < 1 and (new > least[:, None]).sum() > places > 0
    assert (new * weight > least[:, None]).sum() == places
    # Never more than what they are.
    assert fair_weight(own, new, least=least) == 1.0
    assert fair_weight(new, own, least=np.full(50, 99.0)) == 1.0
    # Where fewer items than places are left, all of them have one.
    assert fair_weight(new, own, least=np.full(50, -np.inf)) == 1.0


def test_some_are_spread_over_all():
    assert _evenly(10, 3).tolist() == [0, 3, 6] and _evenly(5, 5).tolist() == [0, 1, 2, 3, 4]
    assert _evenly(0, 0).tolist() == []


def test_each_row_has_the_weight_of_what_is_known_of_it():
    data = Maker("paper").data
    catalogue = Catalogue.of_run(data, graph=data).with_rows(read_rows([("ann", "touched")]))
    catalogue = catalogue.with_items(read_items(["alone"], titles=None, attributes=None, texts=None))
    found = item_weights(catalogue, Weights(0.5, 0.75), rows=48)
    assert found[38:44].tolist() == [1, 1, 0.5, 0.75, 1, 1]


@pytest.fixture(scope="module")
def recommender():
    """Items that training has pushed away from where the graph has them."""
    maker = Maker("ours")
    residual = maker.state.params["head"]["item_residual"]
    away = jax.random.normal(jax.random.key(0), residual.shape)
    params = {**maker.state.params, "head": {**maker.state.params["head"], "item_residual": away}}
    maker.state = dataclasses.replace(maker.state, params=params)
    return maker()


def test_new_items_weigh_less_where_training_pushed_the_others_away(recommender):
    before = np.asarray(recommender.index.vectors)
    snapshot = recommender.snapshot()
    many = [(user, "new") for user in recommender.user_ids[:10]]
    recommender.add_interactions([*many, ("ann", "new"), ("ann", "item-3")])
    recommender.add_items(["alone"], attributes=[recommender.interactions.item_attributes[0]])
    known = len(snapshot.item_ids)
    weights = recommender._newcomers._weights
    assert 0 < weights.touched < 1
    lengths = np.linalg.norm(np.asarray(recommender.index.vectors), axis=1)
    np.testing.assert_allclose(lengths[:known], 1.0, rtol=1e-6)
    np.testing.assert_allclose(lengths[known : known + 2], weights, rtol=1e-6)
    assert snapshot.item_ids == recommender.item_ids[:known]
    np.testing.assert_array_equal(np.asarray(snapshot.index.vectors), before)
    # What is explained is what is recommended, and cosines are none of weights.
    found = {each.item: each for each in recommender.recommend([recommender.user_ids[20]], k=known + 2)[0]}
    told = recommender.explain(recommender.user_ids[20], "new")
    assert told.score == pytest.approx(found["new"].score, abs=1e-6)
    assert abs(told.score) <= weights.touched + 1e-6
    (near,) = (each for each in recommender.explain("ann", "item-3").nearest if each.item == "new")
    vectors = np.asarray(recommender.index.vectors)
    assert near.cosine == pytest.approx(vectors[3] @ vectors[known] / weights.touched, abs=1e-5)


def test_the_weights_are_those_of_the_run_whatever_is_added_first(recommender):
    maker = Maker("paper")
    first, second = maker(), maker()
    first.add_interactions([(f"u{number}", f"item-{number % 9}") for number in range(30)])
    for each in (first, second):
        each.add_interactions([("ann", "new")])
    assert first._newcomers._weights == second._newcomers._weights
