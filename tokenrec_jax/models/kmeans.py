"""k-means of several independent books at once; where the code vectors of the tokenizers start.

Read `fit_kmeans`. Training moves the vectors on (`tokenizer.py`); the kind "kmeans" keeps them.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

# Rows whose distances to all centers are held at once; more rows than this are visited in turn.
CHUNK_ROWS = 8192


@functools.partial(jax.jit, static_argnames=("num_centers", "iterations"))
def fit_kmeans(
    rows: Float[Array, "book rows dim"], *, num_centers: int, iterations: int, key: PRNGKeyArray
) -> Float[Array, "book code dim"]:
    """Returns centers by Lloyd's iterations from distinct random rows, each book with its own draw.

    A center that no row chose moves onto one of the rows that are farthest from theirs. With fewer rows than
    centers the rows repeat among the centers.

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
    num_farthest = min(num_centers, num_rows)
    first = jax.random.permutation(key, num_rows)[jnp.arange(num_centers) % num_rows]

    def improve(centers: Float[Array, "code dim"], _: None) -> tuple[Float[Array, "code dim"], None]:
        nearest = _nearest_centers(rows, centers)
        counts = jax.ops.segment_sum(jnp.ones(num_rows), nearest, num_centers)
        means = jax.ops.segment_sum(rows, nearest, num_centers) / jnp.maximum(counts, 1.0)[:, None]
        # The n-th empty center takes the n-th farthest row.
        empty = counts == 0
        distances = jnp.sum((rows - centers[nearest]) ** 2, axis=-1)
        farthest = jax.lax.top_k(distances, num_farthest)[1]
        replacement = rows[farthest[(jnp.cumsum(empty) - 1) % num_farthest]]
        return jnp.where(empty[:, None], replacement, means), None

    return jax.lax.scan(improve, rows[first], length=iterations)[0]


def _nearest_centers(rows: Float[Array, "rows dim"], centers: Float[Array, "code dim"]) -> Int[Array, " rows"]:
    norms = jnp.sum(centers**2, axis=-1)

    def nearest(row: Float[Array, " dim"]) -> Int[Array, ""]:
        return jnp.argmin(norms - 2.0 * jnp.dot(centers, row, precision=jax.lax.Precision.HIGHEST))

    # `batch_size` makes it one matmul a chunk.
    return jax.lax.map(nearest, rows, batch_size=min(CHUNK_ROWS, rows.shape[0]))
