"""New items get their share of the recommendations, and no more."""

import copy
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
    # Where a place may be had below zero no weight decides.
    assert fair_weight(new, own, least=np.full(50, -np.inf)) == 1.0
    lower = np.where(np.arange(50) < 25, least, -0.1)
    assert fair_weight(new, own, least=lower) == fair_weight(new[:25], own[:25], least=least[:25]) < 1


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
def make_pushed():
    """Items that training has pushed away from where the graph has them."""
    maker = Maker("ours")
    residual = maker.state.params["head"]["item_residual"]
    away = jax.random.normal(jax.random.key(0), residual.shape)
    params = {**maker.state.params, "head": {**maker.state.params["head"], "item_residual": away}}
    maker.state = dataclasses.replace(maker.state, params=params)
    return maker


def test_new_items_weigh_less_where_training_pushed_the_others_away(make_pushed):
    recommender = make_pushed()
    known, before = len(recommender.item_ids), np.asarray(recommender.index.vectors)
    still = copy.copy(recommender)
    many = [(user, "new") for user in recommender.user_ids[:10]]
    recommender.add_interactions([*many, ("ann", "new"), ("ann", "item-3")])
    recommender.add_items(["alone"], attributes=[recommender.interactions.item_attributes[0]])
    weights = recommender._newcomers._weights
    assert 0 < weights.touched < 1
    scale = np.asarray(recommender.index.scale)
    assert np.all(scale[:known] == 1)
    np.testing.assert_allclose(scale[known : known + 2], weights, rtol=1e-6)
    assert still.item_ids == recommender.item_ids[:known]
    np.testing.assert_array_equal(np.asarray(still.index.vectors), before)
    # A history is read with vectors of length 1, whatever its items weigh.
    vectors = np.asarray(recommender.index.vectors)
    np.testing.assert_allclose(np.linalg.norm(vectors[: known + 2], axis=1), 1.0, rtol=1e-6)
    # What is explained is what is recommended, and cosines are none of weights.
    found = {each.item: each for each in recommender.recommend([recommender.user_ids[20]], k=known + 2)[0]}
    told = recommender.explain(recommender.user_ids[20], "new")
    assert told.score == pytest.approx(found["new"].score, abs=1e-6)
    assert abs(told.score) <= weights.touched + 1e-6
    (near,) = (each for each in recommender.explain("ann", "item-3").nearest if each.item == "new")
    assert near.cosine == pytest.approx(vectors[3] @ vectors[known], abs=1e-5)


def test_the_weights_are_those_of_the_run_whatever_happens_first(make_pushed):
    found = []
    for changes in ("add", "remove, add", "users, add"):
        recommender = make_pushed()
        for change in changes.split(", "):
            if change == "remove":
                recommender.remove_items(recommender.item_ids[:20])
            else:
                item = {"add": "new", "users": "item-3"}[change]
                recommender.add_interactions([(f"{change}{number}", item) for number in range(30)])
        found.append(recommender._newcomers._weights)
    assert found[0].touched < 1 and found == [found[0]] * 3
