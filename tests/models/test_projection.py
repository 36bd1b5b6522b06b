import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tokenrec_jax.config import Config
from tokenrec_jax.models.projection import QueryHead, close_up, fold_in, take_newest
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
    query = head().queries(hidden, None)
    np.testing.assert_allclose(jnp.linalg.norm(query, axis=-1), 2.0, rtol=1e-5)


def test_a_new_query_is_the_fold_in_and_what_is_learned_adds_to_it():
    hidden = jax.random.normal(jax.random.key(0), (2, 3, 6))
    folded = jax.random.normal(jax.random.key(1), (2, 3, 4))
    query = head(fold_in=True, fold_in_scale=7.0)
    expected = np.asarray(7.0 * folded / jnp.linalg.norm(folded, axis=-1, keepdims=True))
    np.testing.assert_allclose(query.queries(hidden, folded), expected, atol=1e-5)
    query.output.bias[...] = jnp.arange(4.0)
    np.testing.assert_allclose(query.queries(hidden, folded), expected + np.arange(4.0), atol=1e-5)


def test_a_cosine_query_is_the_unit_sum_over_the_temperature():
    hidden = jax.random.normal(jax.random.key(0), (2, 3, 6))
    folded = jax.random.normal(jax.random.key(1), (2, 3, 4))
    query = head(fold_in=True, fold_in_scale=7.0, projection="cosine")
    unit = np.asarray(folded / jnp.linalg.norm(folded, axis=-1, keepdims=True))
    np.testing.assert_allclose(query.queries(hidden, folded), unit / 0.5, atol=1e-5)
    query.output.bias[...] = jnp.arange(4.0)
    # Scale 7 times temperature 0.5.
    moved = 3.5 * unit + np.arange(4.0)
    expected = moved / np.linalg.norm(moved, axis=-1, keepdims=True) / 0.5
    np.testing.assert_allclose(query.queries(hidden, folded), expected, atol=1e-5)


def test_a_head_without_a_hidden_layer_is_linear():
    linear = head(fold_in=True, projection_dim=0)
    linear.output.kernel[...] = jax.random.normal(jax.random.key(0), (6, 4))
    one, two = jax.random.normal(jax.random.key(1), (2, 1, 1, 6))
    # Its projection alone: a fold-in of nothing adds nothing.
    both, apart = linear.queries(one + two, jnp.zeros((1, 1, 4))), linear.queries(one, None) + linear.queries(two, None)
    np.testing.assert_allclose(both, apart, atol=1e-5)
    bent = head(fold_in=True, projection_dim=8)
    bent.output.kernel[...] = jax.random.normal(jax.random.key(0), (8, 4))
    assert not np.allclose(bent.queries(one + two, None), bent.queries(one, None) + bent.queries(two, None), atol=0.1)


def test_dropout_of_the_fold_in_is_drawn_for_each_item_and_is_off_without_a_key():
    vectors = jnp.ones((5, 400))
    history = jnp.array([[3, 0, PADDING]])
    wet = head(fold_in=True, fold_in_dropout=0.25)
    dry = wet.fold_in(history, item_vectors=vectors, inverse_sqrt_degree=jnp.ones(5))
    np.testing.assert_allclose(dry[0, 0], 1.0, rtol=1e-5)
    dropped = wet.fold_in(history, item_vectors=vectors, inverse_sqrt_degree=jnp.ones(5), key=jax.random.key(0))
    first, second = dropped[0, 0], dropped[0, 1] * 2**0.5 - dropped[0, 0]
    np.testing.assert_allclose(np.unique(np.round(first, 4)), [0.0, 1.3333], atol=1e-3)
    assert 0.2 < float((jnp.abs(first) < 1e-3).mean()) < 0.3
    assert float((jnp.abs(first - second) > 1e-3).mean()) > 0.2


def test_a_small_start_reads_item_vectors_at_unit_variance():
    vectors = jax.random.normal(jax.random.key(0), (5, 4))
    plain, small = head(item_vectors_at_input=True), head(item_vectors_at_input=True, small_start=True)
    np.testing.assert_allclose(small.read(vectors), 2 * plain.read(vectors), rtol=1e-5)


def test_weights_by_age_count_from_the_newest_item_of_each_prefix():
    vectors = jax.random.normal(jax.random.key(0), (5, 4))
    history = jnp.array([[3, 0, 2, PADDING]])
    recent = head(fold_in=True, fold_in_recency=1.0)
    folded = recent.fold_in(history, item_vectors=vectors, inverse_sqrt_degree=jnp.ones(5))
    z = np.asarray(vectors)
    np.testing.assert_allclose(folded[0, 2], (z[3] / 3 + z[0] / 2 + z[2]) / np.sqrt(3), rtol=1e-5)
    np.testing.assert_allclose(folded[0, 1], (z[3] / 2 + z[0]) / np.sqrt(2), rtol=1e-5)


def test_hidden_items_leave_no_gap_in_the_fold_in():
    vectors = jax.random.normal(jax.random.key(0), (5, 4))
    history = jnp.array([[3, 0, 2, 4, PADDING], [1, 2, 3, 0, 4]])
    visible = jnp.array([[False, True, False, True, True], [True] * 5])
    shorter, newest = close_up(jnp.where(visible, history, PADDING))
    np.testing.assert_array_equal(shorter, [[0, 4, PADDING, PADDING, PADDING], [1, 2, 3, 0, 4]])
    recent = head(fold_in=True, fold_in_recency=2.0)
    folded = take_newest(recent.fold_in(shorter, item_vectors=vectors, inverse_sqrt_degree=jnp.ones(5)), newest)
    z = np.asarray(vectors)
    np.testing.assert_array_equal(folded[0, 0], 0.0)
    np.testing.assert_allclose(folded[0, 1], z[0], rtol=1e-6)
    np.testing.assert_allclose(folded[0, 2], z[0], rtol=1e-6)
    np.testing.assert_allclose(folded[0, 3], (z[0] / 4 + z[4]) / np.sqrt(2), rtol=1e-6)
    whole = recent.fold_in(history[1:], item_vectors=vectors, inverse_sqrt_degree=jnp.ones(5))
    np.testing.assert_allclose(folded[1:], whole, rtol=1e-6)


def test_item_space_is_unit_length_and_moves_with_the_residual():
    vectors = jax.random.normal(jax.random.key(0), (5, 4))
    moving = head(item_residual=True)
    np.testing.assert_allclose(moving.item_space(vectors), head().item_space(vectors), atol=1e-6)
    moving.item_residual[...] = jnp.ones((5, 4))
    moved = moving.item_space(vectors)
    assert not np.allclose(moved, head().item_space(vectors), atol=0.1)
    np.testing.assert_allclose(jnp.linalg.norm(moved, axis=-1), 1.0, rtol=1e-5)
    shorter = head(item_residual=True, item_vector_length=0.25)
    shorter.item_residual[...] = jnp.ones((5, 4)) / 4
    np.testing.assert_allclose(shorter.item_space(vectors), moved, atol=1e-6)
    beside = moving.item_space(vectors, jnp.eye(5, 4))
    np.testing.assert_allclose(jnp.linalg.norm(beside, axis=-1), 1.0, rtol=1e-5)
    assert not np.allclose(beside[:4], moved[:4], atol=0.1)
