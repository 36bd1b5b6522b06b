import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenrec_jax.retrieval.index import ItemIndex
from tokenrec_jax.types import PADDING, ConfigError

VECTORS = np.array([[1.0, 0.0], [0.0, 5.0], [3.0, 3.0], [0.0, 0.0]], np.float32)


@pytest.mark.parametrize(("metric", "expected"), [("dot", [2, 0, 1, 3]), ("cosine", [0, 2, 1, 3])])
def test_metric_decides_the_order(metric, expected):
    index = ItemIndex.build(VECTORS, metric=metric)
    result = index.search(jnp.array([[2.0, 0.1]]), k=5)
    np.testing.assert_array_equal(result.ids, [[*expected, PADDING]])


def test_cosine_scores_are_cosines_and_a_zero_vector_scores_zero():
    index = ItemIndex.build(VECTORS, metric="cosine")
    result = index.search(jnp.array([[7.0, 7.0], [0.0, 0.0]]), k=4)
    np.testing.assert_allclose(result.scores[0], [1.0, 0.5**0.5, 0.5**0.5, 0.0], rtol=1e-6)
    np.testing.assert_array_equal(result.scores[1], 0.0)
    np.testing.assert_array_equal(result.ids, [[2, 0, 1, 3], [0, 1, 2, 3]])


def test_rows_are_padded_and_never_returned():
    index = ItemIndex.build(-np.ones((129, 2), np.float32), metric="dot")
    assert index.vectors.shape == (256, 2)
    assert int(index.num_items) == 129
    # Padding rows score 0, all items -2.
    ids = index.search(jnp.ones((1, 2)), k=130).ids
    np.testing.assert_array_equal(ids, [[*range(129), PADDING]])


def test_tables_that_are_padded_already():
    index = ItemIndex.build(VECTORS, metric="dot", num_items=2)
    np.testing.assert_array_equal(index.search(jnp.ones((1, 2)), k=3).ids, [[1, 0, PADDING]])
    np.testing.assert_array_equal(index.vectors[2:], 0.0)


def test_exclude():
    index = ItemIndex.build(VECTORS, metric="dot")
    result = index.search(jnp.ones((2, 2)), k=2, exclude=jnp.array([[2, 1], [0, PADDING]]))
    np.testing.assert_array_equal(result.ids, [[0, 3], [2, 1]])


def test_score_agrees_with_search():
    rng = np.random.default_rng(1)
    index = ItemIndex.build(rng.normal(size=(30, 4)).astype(np.float32), metric="cosine")
    queries = jnp.asarray(rng.normal(size=(5, 4)).astype(np.float32))
    found = index.search(queries, k=3)
    np.testing.assert_allclose(
        np.take_along_axis(np.asarray(index.score(queries)), np.asarray(found.ids), axis=1),
        found.scores,
        rtol=1e-6,
    )


def test_an_index_is_a_pytree_and_needs_no_implicit_copy():
    with jax.transfer_guard("disallow"):
        index = ItemIndex.build(VECTORS, metric="cosine")
        queries = jax.device_put(np.ones((1, 2), np.float32))
        ids = jax.jit(lambda index, queries: index.search(queries, k=1).ids)(index, queries)
    assert jax.device_get(ids).tolist() == [[2]]


def test_an_index_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="vectors: there are none"):
        ItemIndex.build(np.zeros((0, 4), np.float32), metric="dot")


@pytest.mark.parametrize("num_items", [-1, 5])
def test_num_items_out_of_range(num_items):
    with pytest.raises(ConfigError, match=f"num_items: got {num_items}"):
        ItemIndex.build(VECTORS, metric="dot", num_items=num_items)


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
def test_scores_are_multiplied_by_weights_in_any_storage(storage):
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(300, 16)).astype(np.float32), rng.normal(size=(5, 16)).astype(np.float32)
    weights = jnp.asarray(rng.uniform(0.2, 1.0, 300), jnp.float32)
    plain = ItemIndex.build(vectors, metric="cosine", storage=storage)
    weighted = ItemIndex.build(vectors, metric="cosine", storage=storage, weights=weights)
    expected = np.asarray(plain.score(queries))[:, :300] * np.asarray(weights)
    np.testing.assert_allclose(np.asarray(weighted.score(queries))[:, :300], expected, rtol=1e-5, atol=1e-6)
    found = weighted.search(queries, k=7)
    np.testing.assert_array_equal(found.ids, np.argsort(-expected, axis=1)[:, :7])
    np.testing.assert_allclose(found.scores, -np.sort(-expected, axis=1)[:, :7], rtol=1e-5, atol=1e-6)
    assert weighted.storage == storage and weighted.recall(queries, k=7) == 1.0
    # The vectors stay what they are, and new ones weigh 1.
    np.testing.assert_array_equal(weighted.vectors, plain.vectors)
    after = weighted.update([3], vectors[3:4])
    np.testing.assert_allclose(after.score(queries)[:, 3], plain.score(queries)[:, 3], rtol=1e-5)
