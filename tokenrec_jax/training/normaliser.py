"""The log-normaliser of a softmax over the whole catalogue, a chunk of items at a time. Read `log_normaliser`.

The logits of all positions against all items are by far the largest array of a dense training step. Here no more than
one chunk of them exists, forward or backward: the backward pass makes them again instead of reading them from memory.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

#: Items a chunk: wide enough for matrix units, narrow enough for caches.
CHUNK = 1024


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def log_normaliser(
    queries: Float[Array, "rows emb"], items: Float[Array, "items emb"], num_items: int
) -> Float[Array, " rows"]:
    """Returns log sum over i < num_items of exp(query . item_i), float32.

    Args:
      queries: one a row.
      items: item vectors; rows from `num_items` on are padding.
      num_items: items of the catalogue.

    Source: the running maximum and sum of online softmax (Milakov and Gimelshein, 2018).
    """
    return _forward(queries, items, num_items)[0]


def _forward(queries, items, num_items):
    def step(carry, chunk):
        largest, total = carry
        logits = _logits(queries, chunk, num_items)
        new = jnp.maximum(largest, logits.max(axis=1))
        total = total * jnp.exp(largest - new) + jnp.exp(logits - new[:, None]).sum(axis=1)
        return (new, total), None

    rows = queries.shape[0]
    # The first chunk has at least one item, so the running maximum is finite after it.
    start = (jnp.full((rows,), jnp.finfo(jnp.float32).min), jnp.zeros((rows,), jnp.float32))
    (largest, total), _ = jax.lax.scan(step, start, _chunks(items))
    result = largest + jnp.log(total)
    return result, (queries, items, result)


def _backward(num_items, residuals, gradient):
    queries, items, result = residuals

    def step(query_gradient, chunk):
        weights = jnp.exp(_logits(queries, chunk, num_items) - result[:, None]) * gradient[:, None]
        return query_gradient + weights @ chunk[0], weights.T @ queries

    query_gradient, item_gradient = jax.lax.scan(step, jnp.zeros_like(queries), _chunks(items))
    return query_gradient, item_gradient.reshape(-1, items.shape[1])[: items.shape[0]]


log_normaliser.defvjp(_forward, _backward)


def _chunks(items: Float[Array, "items emb"]) -> tuple[Float[Array, "chunk size emb"], Array]:
    """Returns the items in chunks, the last one padded, and the id of the first item of each."""
    size = min(CHUNK, items.shape[0])
    padded = jnp.pad(items, ((0, -items.shape[0] % size), (0, 0)))
    return padded.reshape(-1, size, items.shape[1]), jnp.arange(0, len(padded), size)


def _logits(queries, chunk, num_items):
    """Returns the logits of a chunk, -inf at padding."""
    items, first = chunk
    logits = jnp.einsum("qd,nd->qn", queries, items, preferred_element_type=jnp.float32)
    real = first + jnp.arange(items.shape[0]) < num_items
    return jnp.where(real[None], logits, -jnp.inf)
