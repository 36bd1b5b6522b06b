import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenrec_jax.retrieval.search import select, top_k
from tokenrec_jax.types import PADDING


def reference(scores, *, k, num_items, exclude):
    """Plain NumPy: a stable sort of the allowed items, so that ties go to the lower id."""
    ids = np.full((len(scores), k), PADDING)
    best = np.full((len(scores), k), -np.inf, np.float32)
    for row, score in enumerate(scores):
        allowed = [item for item in range(num_items) if item not in exclude[row]]
        order = sorted(allowed, key=lambda item: (-score[item], item))[:k]
        ids[row, : len(order)] = order
        best[row, : len(order)] = score[order]
    return ids, best


def integer_vectors(rng, *shape):
    """Small integers: exact dot products with many ties."""
    return rng.integers(-2, 3, shape).astype(np.float32)


@pytest.mark.parametrize("k", [1, 7, 40])
def test_top_k_equals_a_stable_sort_with_ties_exclusions_and_padding(k):
    rng = np.random.default_rng(0)
    queries, items = integer_vectors(rng, 9, 3), integer_vectors(rng, 40, 3)
    num_items = 33
    items[num_items:] = 100.0  # Padding rows would win.
    exclude = np.stack([rng.choice(num_items, 12, replace=False) for _ in queries]).astype(np.int32)
    exclude[:, 8:] = PADDING
    exclude[0] = PADDING
    result = top_k(jnp.asarray(queries), jnp.asarray(items), k=k, num_items=num_items, exclude=jnp.asarray(exclude))
    ids, best = reference(queries @ items.T, k=k, num_items=num_items, exclude=exclude)
    np.testing.assert_array_equal(result.ids, ids)
    np.testing.assert_array_equal(result.scores, best)
    assert result.ids.dtype == jnp.int32


def test_top_k_without_exclusion():
    queries = jnp.array([[1.0], [-1.0]])
    items = jnp.array([[1.0], [3.0], [2.0], [9.0]])
    result = top_k(queries, items, k=2, num_items=3)
    np.testing.assert_array_equal(result.ids, [[1, 2], [0, 2]])
    np.testing.assert_array_equal(result.scores, [[3.0, 2.0], [-1.0, -2.0]])


def test_top_k_larger_than_the_table_is_padded():
    result = top_k(jnp.ones((1, 1)), jnp.array([[1.0], [2.0]]), k=4, num_items=2, exclude=jnp.array([[0]]))
    np.testing.assert_array_equal(result.ids, [[1, PADDING, PADDING, PADDING]])
    np.testing.assert_array_equal(result.scores, [[2.0, -np.inf, -np.inf, -np.inf]])


def test_exclusions_outside_the_table_do_nothing():
    exclude = jnp.array([[-1, -3, 3, 100]])
    result = top_k(jnp.ones((1, 1)), jnp.array([[1.0], [3.0], [2.0]]), k=3, num_items=3, exclude=exclude)
    np.testing.assert_array_equal(result.ids, [[1, 2, 0]])


def test_select_never_returns_nan_and_treats_both_zeros_alike():
    scores = jnp.array([[-0.0, jnp.nan, 0.0, jnp.inf, -jnp.inf]])
    result = select(scores, jnp.ones((1, 5), bool), k=5)
    np.testing.assert_array_equal(result.ids, [[3, 0, 2, PADDING, PADDING]])


def test_top_k_of_bfloat16_accumulates_in_float32():
    # 256 + 1 is not a bfloat16: item 0 would tie with item 1 if the sum were rounded, and lose nothing.
    items = jnp.array([[256.0, 0.0], [256.0, 1.0]], jnp.bfloat16)
    result = top_k(jnp.ones((1, 2), jnp.bfloat16), items, k=1, num_items=2)
    assert result.scores.dtype == jnp.float32
    np.testing.assert_array_equal(result.ids, [[1]])
    np.testing.assert_array_equal(result.scores, [[257.0]])


def test_a_growing_catalogue_does_not_recompile():
    before = top_k._cache_size()
    for num_items in (3, 4, 5):
        result = top_k(jnp.ones((3, 11)), jnp.ones((6, 11)), k=6, num_items=jnp.int32(num_items))
        assert int(jnp.sum(result.ids[0] != PADDING)) == num_items
    assert top_k._cache_size() == before + 1


def test_top_k_works_inside_jit():
    search = jax.jit(lambda queries, items, n: top_k(queries, items, k=1, num_items=n).ids)
    np.testing.assert_array_equal(search(jnp.ones((1, 1)), jnp.array([[1.0], [2.0], [3.0]]), 2), [[1]])
