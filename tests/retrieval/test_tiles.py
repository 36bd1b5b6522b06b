"""Searches that are cut into tiles give what one sort of all scores gives."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.retrieval.test_search import integer_vectors, reference
from tokenrec_jax.retrieval.selection import CPU, select_tile
from tokenrec_jax.retrieval.tiles import best_in_tiles
from tokenrec_jax.types import PADDING

#: So small that a few hundred items are many tiles, whose last one overlaps with its neighbour.
SMALL = dataclasses.replace(CPU, queries=8, scores=1024, items=128, together=16, parts=2, group=16)


def search(queries, items, *, num_items, exclude=None, allow=None, tiling=SMALL, **settings):
    found = jax.jit(functools.partial(best_in_tiles, tiling=tiling, **settings))(
        jnp.asarray(queries), jnp.asarray(items), None, jnp.int32(num_items), exclude, allow
    )
    return np.asarray(found.ids), np.asarray(found.scores)


@pytest.mark.parametrize("batch", [1, 5, 37])
@pytest.mark.parametrize("k", [3, 20])
def test_tiles_keep_the_order_of_ties_and_what_is_not_allowed(batch, k):
    rng = np.random.default_rng(batch)
    queries, items = integer_vectors(rng, batch, 3), integer_vectors(rng, 600, 3)
    num_items = 530
    items[num_items:] = 100.0  # Padding rows would win.
    exclude = rng.integers(0, num_items, (batch, 50)).astype(np.int32)
    exclude[:, 40:] = PADDING
    allow = rng.random((batch, 600)) < 0.5
    banned = [set(row) | set(np.flatnonzero(~may)) for row, may in zip(exclude.tolist(), allow, strict=True)]
    ids, scores = search(
        queries, items, num_items=num_items, k=k, exclude=jnp.asarray(exclude), allow=jnp.asarray(allow)
    )
    expected, best = reference(queries @ items.T, k=k, num_items=num_items, exclude=banned)
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(scores, best)


def test_more_items_wanted_than_a_tile_has():
    rng = np.random.default_rng(0)
    queries, items = integer_vectors(rng, 20, 3), integer_vectors(rng, 300, 3)
    ids, _ = search(queries, items, num_items=290, k=295)
    expected, _ = reference(queries @ items.T, k=295, num_items=290, exclude=[()] * 20)
    np.testing.assert_array_equal(ids, expected)


def test_equal_vectors_tie_wherever_they_lie():
    # Real numbers: the sums of a product must not depend on the row or the tile. 64 copies are more than k.
    rng = np.random.default_rng(0)
    items = rng.normal(size=(6000, 64)).astype(np.float32)
    queries = rng.normal(size=(70, 64)).astype(np.float32)
    copies = np.sort(rng.choice(6000, 64, replace=False))
    items[copies] = 3 * queries[0]
    for tiling in (SMALL, CPU):
        ids, scores = search(queries, items, num_items=6000, k=20, tiling=tiling)
        np.testing.assert_array_equal(ids[0], copies[:20])
        assert len(set(scores[0].tolist())) == 1


def test_tilings_agree_on_real_numbers():
    rng = np.random.default_rng(1)
    items, queries = rng.normal(size=(3000, 64)).astype(np.float32), rng.normal(size=(40, 64)).astype(np.float32)
    tiled, whole = (search(queries, items, num_items=2999, k=20, tiling=tiling) for tiling in (SMALL, CPU))
    np.testing.assert_array_equal(tiled[0], whole[0])
    np.testing.assert_allclose(tiled[1], whole[1], rtol=1e-5)
    np.testing.assert_array_equal(whole[0], np.argsort(-(queries @ items[:2999].T), axis=1, kind="stable")[:, :20])


def test_groups_hold_no_more_than_a_selection_of_all_would_give():
    # NaN and both infinities, zeros of both signs, all in the groups that matter.
    rng = np.random.default_rng(2)
    scores = rng.choice([-np.inf, np.inf, np.nan, 0.0, -0.0, 1.0, -1.0], (64, 2048)).astype(np.float32)
    allowed = jnp.asarray(rng.random((64, 2048)) < 0.02)
    grouped, plain = (
        select_tile(jnp.asarray(scores), allowed, k=20, tiling=dataclasses.replace(CPU, group=group))
        for group in (64, 4)
    )
    np.testing.assert_array_equal(grouped.ids, plain.ids)
    np.testing.assert_array_equal(grouped.scores, plain.scores)
    # A stable sort of what may be returned.
    may = np.asarray(allowed) & (scores > -np.inf)
    for ids, row, good in zip(np.asarray(grouped.ids), scores, may, strict=True):
        order = sorted(np.flatnonzero(good), key=lambda item: (-row[item], item))[:20]
        np.testing.assert_array_equal(ids[: len(order)], order)
        assert (ids[len(order) :] == PADDING).all()


def test_memory_does_not_grow_with_items():
    def temporary_bytes(num_items):
        arguments = (jax.ShapeDtypeStruct((1024, 64), jnp.float32), jax.ShapeDtypeStruct((num_items, 64), jnp.float32))
        search = jax.jit(functools.partial(best_in_tiles, k=20, tiling=CPU))
        count = jax.ShapeDtypeStruct((), jnp.int32)
        compiled = search.lower(*arguments, None, count, None, None).compile()
        analysis = compiled.memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    # Scores of 5 million items and 1,024 queries would be 20 GB.
    assert temporary_bytes(5_000_000) < 300e6
