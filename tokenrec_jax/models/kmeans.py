"""k-means of several independent books at once; where the code vectors of the tokenizers start.

Read `fit_kmeans`. Training moves the vectors on (`tokenizer.py`); the kind "kmeans" keeps them.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

# Rows whose distances to all centers are held at once; more rows than this are visited in turn.
CHUNK_ROWS = 8192


@functools.partial(jax.jit, static_argnames=("num_centers", "iterations"))
def fit_kmeans(
    rows: Float[Array, "book rows dim"], *, num_centers: int, iterations: int, key: PRNGKeyArray
) -> Float[Array, "book code dim"]:
    """Returns centers by Lloyd's iterations from distinct random rows, each book with its own draw.

    A center that no row chose moves onto one of the rows that are farthest from theirs. With fewer rows than centers
    the rows repeat among the centers, and the repetitions stay empty.

    Args:
      rows: vectors to be clustered, of each book.
      num_centers: centers a book.
      iterations: assignments and means, at most a few dozen are useful.
      key: decides the random rows.
    """
    keys = jax.random.split(key, rows.shape[0])
    return jax.vmap(functools.partial(_fit_book, num_centers=num_centers, iterations=iterations))(
        rows.astype(jnp.float32), keys
    )


def _fit_book(
    rows: Float[Array, "rows dim"], key: PRNGKeyArray, *, num_centers: int, iterations: int
) -> Float[Array, "code dim"]:
    num_rows = rows.shape[0]
    first = jax.random.permutation(key, num_rows)
    centers = rows[first[jnp.arange(num_centers) % num_rows]]
    num_farthest = min(num_centers, num_rows)

    def improve(_: int, centers: Float[Array, "code dim"]) -> Float[Array, "code dim"]:
        nearest, distance = _assign(rows, centers)
        sums = jax.ops.segment_sum(rows, nearest, num_centers)
        counts = jax.ops.segment_sum(jnp.ones(num_rows), nearest, num_centers)
        means = sums / jnp.maximum(counts, 1.0)[:, None]
        # The n-th empty center takes the n-th farthest row.
        empty = counts == 0
        order = jax.lax.top_k(distance, num_farthest)[1]
        replacement = rows[order[(jnp.cumsum(empty) - 1) % num_farthest]]
        return jnp.where(empty[:, None], replacement, means)

    return jax.lax.fori_loop(0, iterations, improve, centers)


def _assign(rows: Float[Array, "rows dim"], centers: Float[Array, "code dim"]) -> tuple[Array, Array]:
    """Returns the nearest center of each row and the squared distance to it."""
    norms = jnp.sum(centers**2, axis=-1)

    def one(row: Float[Array, " dim"]) -> tuple[Array, Array]:
        distance = norms - 2.0 * jnp.dot(centers, row, precision=jax.lax.Precision.HIGHEST)
        nearest = jnp.argmin(distance)
        return nearest, distance[nearest] + jnp.sum(row**2)

    return jax.lax.map(one, rows, batch_size=min(CHUNK_ROWS, rows.shape[0]))
