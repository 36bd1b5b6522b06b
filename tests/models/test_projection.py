import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tokenrec_jax.config import Config
from tokenrec_jax.models.projection import QueryHead, fold_in
from tokenrec_jax.types import PADDING


def head(**llm) -> QueryHead:
    config = Config()
    config.lightgcn.embedding_dim = 4
    config.loss.temperature = 0.5
    for name, value in llm.items():
        setattr(config.llm, name, value)
    return QueryHead(config, hidden_size=6, num_items=5, rngs=nnx.Rngs(0))


def test_fold_in_is_the_weighted_sum_of_every_prefix():
    vectors = jax.random.normal(jax.random.key(0), (5, 4))
    weight = jnp.array([1.0, 0.5, 0.25, 0.7, 0.1])
    history = jnp.array([[3, 0, 2, PADDING], [1, PADDING, PADDING, PADDING]])
    folded = fold_in(history, item_vectors=vectors, inverse_sqrt_degree=weight)
    z = np.asarray(vectors) * np.asarray(weight)[:, None]
    np.testing.assert_allclose(folded[0, 0], z[3], rtol=1e-5)
    np.testing.assert_allclose(folded[0, 2], (z[3] + z[0] + z[2]) / np.sqrt(3), rtol=1e-5)
    # Padding repeats the last prefix.
    np.testing.assert_allclose(folded[0, 3], folded[0, 2], rtol=1e-6)
    np.testing.assert_allclose(folded[1, 3], z[1], rtol=1e-5)


def test_the_query_without_fold_in_has_length_one_over_temperature():
    hidden = jax.random.normal(jax.random.key(0), (2, 3, 6))
    query = head().queries(hidden, jnp.zeros((2, 3, 4)))
    np.testing.assert_allclose(jnp.linalg.norm(query, axis=-1), 2.0, rtol=1e-5)


def test_fold_in_adds_its_unit_vector_times_the_scale():
    hidden = jax.random.normal(jax.random.key(0), (2, 3, 6))
    folded = jax.random.normal(jax.random.key(1), (2, 3, 4))
    with_fold, without = head(fold_in=True, fold_in_scale=7.0), head()
    difference = with_fold.queries(hidden, folded) - without.queries(hidden, folded)
    expected = 7.0 * folded / jnp.linalg.norm(folded, axis=-1, keepdims=True)
    np.testing.assert_allclose(difference, expected, atol=1e-4)


def test_item_space_is_unit_length_and_moves_with_the_residual():
    vectors = jax.random.normal(jax.random.key(0), (5, 4))
    moving = head(item_residual=True)
    np.testing.assert_allclose(moving.item_space(vectors), head().item_space(vectors), atol=1e-6)
    moving.item_residual[...] = jnp.ones((5, 4))
    moved = moving.item_space(vectors)
    assert not np.allclose(moved, head().item_space(vectors), atol=0.1)
    np.testing.assert_allclose(jnp.linalg.norm(moved, axis=-1), 1.0, rtol=1e-5)
