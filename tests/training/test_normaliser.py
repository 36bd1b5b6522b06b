import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenrec_jax.training import normaliser

QUERIES = 3 * jax.random.normal(jax.random.key(0), (6, 4))
ITEMS = jax.random.normal(jax.random.key(1), (32, 4))


@pytest.mark.parametrize("chunk", [4, 8, 12, 1024])
@pytest.mark.parametrize("num_items", [1, 27, 32])
def test_value_and_gradients_are_those_of_the_whole_matrix(monkeypatch, chunk, num_items):
    monkeypatch.setattr(normaliser, "CHUNK", chunk)
    weights = jnp.arange(1.0, 7.0)

    def ours(queries, items):
        return jnp.sum(normaliser.log_normaliser(queries, items, jnp.int32(num_items)) * weights)

    def plain(queries, items):
        return jnp.sum(jax.nn.logsumexp(queries @ items[:num_items].T, axis=-1) * weights)

    found = jax.value_and_grad(ours, argnums=(0, 1))(QUERIES, ITEMS)
    expected = jax.value_and_grad(plain, argnums=(0, 1))(QUERIES, ITEMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, expected)


def test_large_logits_do_not_overflow():
    value = normaliser.log_normaliser(1e4 * QUERIES, ITEMS, jnp.int32(32))
    assert np.isfinite(value).all()


def test_the_logits_of_the_whole_catalogue_never_exist():
    """The compiled gradient holds no array of rows x items."""
    queries, items = jnp.ones((96, 4)), jnp.ones((4096, 4))

    def loss(queries, items):
        return normaliser.log_normaliser(queries, items, jnp.int32(4000)).sum()

    text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(queries, items).compile().as_text()
    assert "f32[96,1024]" in text
    assert "f32[96,4096]" not in text
