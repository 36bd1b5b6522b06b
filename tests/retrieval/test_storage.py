"""Storages narrower than float32, masks, and searches that need not be exact."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from tokenrec_jax.retrieval.index import ItemIndex
from tokenrec_jax.types import PADDING, ConfigError

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(700, 32)).astype(np.float32)
QUERIES = jnp.asarray(RNG.normal(size=(40, 32)).astype(np.float32))


@pytest.mark.parametrize("metric", ["dot", "cosine"])
def test_int8_returns_exact_scores_of_the_exact_best(metric):
    exact = ItemIndex.build(VECTORS, metric=metric).search(QUERIES, k=10)
    index = ItemIndex.build(VECTORS, metric=metric, storage="int8")
    found = index.search(QUERIES, k=10)
    assert index.vectors.dtype == jnp.int8
    assert index.storage == "int8"
    np.testing.assert_array_equal(found.ids, exact.ids)
    np.testing.assert_allclose(found.scores, exact.scores, rtol=1e-5)
    assert index.recall(QUERIES, k=10) == 1.0
    np.testing.assert_allclose(index.score(QUERIES)[0, found.ids[0]], found.scores[0], rtol=1e-5)


def test_int8_ties_go_to_the_lower_id_and_zero_vectors_are_searched():
    vectors = np.concatenate([np.zeros((5, 4)), np.ones((300, 4)), np.zeros((5, 4))]).astype(np.float32)
    found = ItemIndex.build(vectors, metric="cosine", storage="int8").search(jnp.ones((2, 4)), k=7)
    np.testing.assert_array_equal(found.ids, [range(5, 12)] * 2)


def test_bfloat16_ranks_by_rounded_items_and_unrounded_queries():
    index = ItemIndex.build(VECTORS, metric="dot", storage="bfloat16")
    found = index.search(QUERIES, k=10)
    rounded = np.asarray(jnp.asarray(VECTORS, jnp.bfloat16).astype(jnp.float32))
    scores = np.asarray(QUERIES, np.float64) @ rounded.T.astype(np.float64)
    np.testing.assert_array_equal(found.ids, np.argsort(-scores, axis=1)[:, :10])
    np.testing.assert_allclose(found.scores, -np.sort(-scores, axis=1)[:, :10], rtol=1e-5)
    assert index.vectors.nbytes == 768 * 32 * 2


def test_recall_of_an_approximate_search_is_what_it_says():
    index = ItemIndex.build(VECTORS, metric="dot", storage="int8")
    assert 0.8 < index.recall(QUERIES, k=10, recall_target=0.9) <= 1.0
    flat = ItemIndex.build(VECTORS, metric="dot")
    assert flat.recall(QUERIES, k=700) == 1.0


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
def test_masks_for_all_and_for_each(storage):
    index = ItemIndex.build(VECTORS, metric="dot", storage=storage)
    everything = np.asarray(index.search(QUERIES, k=700).ids)
    for_all = RNG.random(700) < 0.3
    for_each = RNG.random((40, 700)) < 0.3
    exclude = everything[:, :5].copy()
    exclude[0] = PADDING
    both = for_each & for_all
    for allow in (for_all, both):
        found = np.asarray(index.search(QUERIES, k=10, allow=jnp.asarray(allow), exclude=jnp.asarray(exclude)).ids)
        for ids, order, may, gone in zip(found, everything, np.broadcast_to(allow, (40, 700)), exclude, strict=True):
            np.testing.assert_array_equal(ids, [item for item in order if may[item] and item not in gone][:10])
    nothing = index.search(QUERIES, k=3, allow=jnp.zeros(700, bool))
    np.testing.assert_array_equal(nothing.ids, PADDING)


@pytest.mark.parametrize(("argument", "value"), [("storage", "int4"), ("metric", "l2"), ("capacity", -1)])
def test_what_cannot_be_built(argument, value):
    build: Any = ItemIndex.build
    with pytest.raises(ConfigError, match=f"{argument}: got "):
        build(VECTORS, **({"metric": "dot"} | {argument: value}))
