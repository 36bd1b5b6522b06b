"""Cross-entropy over the whole catalogue, a chunk of items at a time. Read `cross_entropy`, then `log_normaliser`.

The logits of all positions against all items are by far the largest array of a dense training step. Here no more than
one chunk of them exists, forward or backward: the backward pass makes them again instead of reading them from memory.
Positions without a target, most of a batch of short histories, are brought together and left out, a block at a time.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from tokenrec_jax.partitioned import BATCH, ROWS, first_row, gather_batch, over_devices, own_batch, partitions
from tokenrec_jax.sharding import ROW_AXES
from tokenrec_jax.types import PADDING

#: Items a chunk: wide enough for matrix units, narrow enough for caches.
CHUNK = 1024
#: Rows a block at most: its logits, 64 MiB, stay in the vector memory of a TPU, those of a larger batch would not.
BLOCK = 16384
#: Rows a block at least, so that reading the items and launching a chunk's programs costs little beside its products.
#: Between the two, blocks are an eighth of the rows.
SMALLEST_BLOCK = 2048
#: Logits whose exponentials neither overflow, all added up, nor vanish in float32.
SMALL = 40.0


def cross_entropy(
    queries: Float[Array, "rows emb"],
    items: Float[Array, "items emb"],
    *,
    target: Int[Array, " rows"],
    num_items: int,
) -> Float[Array, " rows"]:
    """Returns -log of the softmax probability of each row's target among the items, float32; 0 where there is none.

    Where the items are cut over devices, queries travel to them and one number a row comes back.

    Args:
      queries: one a row, along the axes of a batch.
      items: item vectors, along `ROW_AXES`; rows from `num_items` on are padding.
      target: item ids, `PADDING` where a row has none.
      num_items: items of the catalogue.
    """
    mesh = partitions()
    if mesh is None:
        wanted = target != PADDING
        normaliser: Any = log_normaliser(queries, items, jnp.int32(num_items), wanted)
        logit = jnp.sum(queries * items[jnp.maximum(target, 0)], axis=-1)
        return jnp.where(wanted, normaliser - logit, 0.0)

    def local(queries: Array, part: Array, target: Array) -> Array:
        queries, target = gather_batch(queries), gather_batch(target)
        wanted, own = target != PADDING, target - first_row(part)
        normaliser: Any = log_normaliser(queries, part, num_items - first_row(part), wanted)
        largest = jax.lax.pmax(jax.lax.stop_gradient(normaliser), ROW_AXES)
        normaliser = largest + jnp.log(jax.lax.psum(jnp.exp(normaliser - largest), ROW_AXES))
        logit = jnp.sum(queries * part[jnp.clip(own, 0, part.shape[0] - 1)], axis=-1)
        logit = jax.lax.psum(jnp.where((own >= 0) & (own < part.shape[0]), logit, 0), ROW_AXES)
        return own_batch(jnp.where(wanted, normaliser - logit, 0.0))

    return over_devices(local, mesh, in_specs=(BATCH, ROWS, BATCH), out_specs=BATCH)(queries, items, target)


@jax.custom_vjp
def log_normaliser(
    queries: Float[Array, "rows emb"],
    items: Float[Array, "items emb"],
    num_items: Int[Array, ""],
    wanted: Bool[Array, " rows"],
) -> Float[Array, " rows"]:
    """Returns log sum over i < num_items of exp(query . item_i), float32.

    Args:
      queries: one a row.
      items: item vectors; rows from `num_items` on are padding.
      num_items: how many of them are items; below 1, none is, and the result is -inf.
      wanted: rows to work on; the others' results, and gradients, are 0.
    """
    return _forward(queries, items, num_items, wanted)[0]


def _forward(queries, items, num_items, wanted):
    # No logit is larger than the product of the lengths.
    bound = jnp.max(jnp.sum(jnp.square(queries), axis=1)) * jnp.max(jnp.sum(jnp.square(items), axis=1))
    chunks, blocks = _chunks(items), _Blocks(wanted)

    def block(rows):
        queries, used = rows
        which = jnp.where(used, jnp.where(bound < SMALL**2, 2, 1), 0)
        branches = (_of_nothing, _of_any_logits, _of_small_logits)
        return jax.lax.switch(which, branches, queries, chunks, num_items)

    result = blocks.merge(jax.lax.map(block, (blocks.cut(queries), blocks.used)))
    result = jnp.where(wanted, result, 0.0)
    return result, (queries, items, num_items, wanted, result)


def _of_nothing(queries, chunks, num_items):
    del chunks, num_items
    return jnp.zeros(queries.shape[0])


def _of_small_logits(queries, chunks, num_items):
    """Returns the normaliser without looking for the largest logit, which takes as long as all else."""

    def step(total, chunk):
        return total + jnp.exp(_logits(queries, chunk, num_items)).sum(axis=1), None

    return jnp.log(jax.lax.scan(step, jnp.zeros(queries.shape[0]), chunks)[0])


def _of_any_logits(queries, chunks, num_items):
    """Returns the normaliser.

    Source: the running maximum and sum of online softmax (Milakov and Gimelshein, 2018).
    """

    def step(carry, chunk):
        largest, total = carry
        logits = _logits(queries, chunk, num_items)
        new = jnp.maximum(largest, logits.max(axis=1))
        total = total * jnp.exp(largest - new) + jnp.exp(logits - new[:, None]).sum(axis=1)
        return (new, total), None

    rows = queries.shape[0]
    start = (jnp.full((rows,), jnp.finfo(jnp.float32).min), jnp.zeros((rows,)))
    (largest, total), _ = jax.lax.scan(step, start, chunks)
    return largest + jnp.log(total)


def _backward(residuals, gradient):
    queries, items, num_items, wanted, result = residuals
    # Without an item there is nothing to weigh, and -inf - -inf is not a number.
    result = jnp.where(jnp.isfinite(result), result, 0.0)
    gradient = jnp.where(wanted, gradient, 0.0)
    chunks, blocks = _chunks(items), _Blocks(wanted)

    def work(item_gradient, queries, result, gradient):
        weighted = queries * gradient[:, None]

        def step(query_gradient, chunk_and_gradient):
            chunk, item_gradient = chunk_and_gradient
            shares = jnp.exp(_logits(queries, chunk, num_items) - result[:, None])
            return query_gradient + shares @ chunk[0], item_gradient + shares.T @ weighted

        query_gradient, item_gradient = jax.lax.scan(step, jnp.zeros_like(queries), (chunks, item_gradient))
        return item_gradient, query_gradient * gradient[:, None]

    def skip(item_gradient, queries, result, gradient):
        del result, gradient
        return item_gradient, jnp.zeros_like(queries)

    def block(item_gradient, rows):
        used, *rows = rows
        return jax.lax.cond(used, work, skip, item_gradient, *rows)

    rows = (blocks.used, blocks.cut(queries), blocks.cut(result), blocks.cut(gradient))
    item_gradient, query_gradient = jax.lax.scan(block, jnp.zeros_like(chunks[0]), rows)
    return (
        blocks.merge(query_gradient),
        item_gradient.reshape(-1, items.shape[1])[: items.shape[0]],
        None,
        None,
    )


log_normaliser.defvjp(_forward, _backward)


class _Blocks:
    """Rows in blocks of one size, those that are wanted first, so that the last blocks may have none.

    Attributes:
      used: whether each block holds a row that is wanted.
    """

    def __init__(self, wanted: Bool[Array, " rows"]):
        """Lays the blocks out."""
        self._rows = len(wanted)
        size = min(BLOCK, max(SMALLEST_BLOCK, -(-self._rows // 8)))
        self._count = -(-self._rows // size)
        self._size = -(-self._rows // self._count)
        self._order = jnp.argsort(~wanted)
        self.used: Bool[Array, " block"] = jnp.arange(self._count) * self._size < jnp.sum(wanted)

    def cut(self, rows: Float[Array, " rows *rest"]) -> Float[Array, "block size *rest"]:
        """Returns the rows in blocks, the last one filled up with zeros, which have no gradient."""
        filling = self._count * self._size - self._rows
        padded = jnp.pad(rows[self._order], ((0, filling), *[(0, 0)] * (rows.ndim - 1)))
        return padded.reshape(self._count, self._size, *rows.shape[1:])

    def merge(self, blocks: Float[Array, "block size *rest"]) -> Float[Array, " rows *rest"]:
        """Undoes `cut`."""
        return blocks.reshape(-1, *blocks.shape[2:])[jnp.argsort(self._order)]


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
