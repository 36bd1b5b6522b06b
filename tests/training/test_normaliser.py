import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenrec_jax.training import normaliser

QUERIES = 3 * jax.random.normal(jax.random.key(0), (6, 4))
ITEMS = jax.random.normal(jax.random.key(1), (32, 4))
ALL, SOME = jnp.ones(6, bool), jnp.array([False, True, False, False, True, False])


@pytest.mark.parametrize("chunk", [4, 12, 1024])
@pytest.mark.parametrize(("block", "wanted"), [(1, SOME), (4, ALL), (4, SOME), (4096, ALL)])
@pytest.mark.parametrize("num_items", [1, 27, 32])
@pytest.mark.parametrize("small", [0.0, 40.0])
def test_value_and_gradients_are_those_of_the_whole_matrix(monkeypatch, chunk, block, num_items, small, wanted):
    monkeypatch.setattr(normaliser, "SMALL", small)
    monkeypatch.setattr(normaliser, "CHUNK", chunk)
    monkeypatch.setattr(normaliser, "BLOCK", block)
    weights = jnp.arange(1.0, 7.0)

    def ours(queries, items):
        return jnp.sum(normaliser.log_normaliser(queries, items, jnp.int32(num_items), wanted) * weights)

    def plain(queries, items):
        return jnp.sum(jax.nn.logsumexp(queries @ items[:num_items].T, axis=-1) * weights, where=wanted)

    found = jax.value_and_grad(ours, argnums=(0, 1))(QUERIES, ITEMS)
    expected = jax.value_and_grad(plain, argnums=(0, 1))(QUERIES, ITEMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, expected)


def test_blocks_without_a_wanted_row_are_left_out(monkeypatch):
    """What is not a number there would spread to every item if anything were done with it."""
    monkeypatch.setattr(normaliser, "BLOCK", 2)
    poisoned = jnp.where(SOME[:, None], QUERIES, jnp.nan)

    def loss(queries, items):
        return jnp.sum(normaliser.log_normaliser(queries, items, jnp.int32(32), SOME))

    found = jax.value_and_grad(loss, argnums=(0, 1))(poisoned, ITEMS)
    expected = jax.value_and_grad(loss, argnums=(0, 1))(QUERIES, ITEMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)


@pytest.mark.parametrize("scale", [1.0, 6.0, 7.0, 1e4])
def test_logits_of_any_size_neither_overflow_nor_vanish(scale):
    """Lengths of 6 and 7 lie on both sides of the bound."""
    queries, items = QUERIES / jnp.linalg.norm(QUERIES, axis=1, keepdims=True), ITEMS
    items = items / jnp.linalg.norm(items, axis=1, keepdims=True)
    for logits_from in (scale * queries, -scale * queries):
        value = normaliser.log_normaliser(logits_from, scale * items, jnp.int32(32), ALL)
        expected = jax.nn.logsumexp(logits_from @ (scale * items).T, axis=1)
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)


def test_the_logits_of_the_whole_catalogue_never_exist():
    """The compiled gradient holds no array of rows x items."""
    queries, items = jnp.ones((96, 4)), jnp.ones((4096, 4))

    def loss(queries, items):
        return normaliser.log_normaliser(queries, items, jnp.int32(4000), jnp.ones(96, bool)).sum()

    text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(queries, items).compile().as_text()
    assert "f32[96,1024]" in text
    assert "f32[96,4096]" not in text
