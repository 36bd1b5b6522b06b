"""Top-k search as pure functions of arrays: score, say which items are allowed, select.

Read `top_k` first. `allowed_items` is the one place that decides what may be recommended; evaluation uses it
too, so that a rank and a recommendation never disagree about it. How vectors are stored is `index.py`'s
business.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from tokenrec_jax.partitioned import (
    BATCH,
    EVERYWHERE,
    ROWS,
    first_row,
    gather_batch,
    over_devices,
    own_batch,
    partitions,
)
from tokenrec_jax.sharding import ROW_AXES
from tokenrec_jax.types import PADDING, TopK


@functools.partial(jax.jit, static_argnames=("k",))
def top_k(
    queries: Float[Array, "batch emb"],
    items: Float[Array, "items emb"],
    *,
    k: int,
    num_items: int | Int[Array, ""],
    exclude: Int[Array, "batch seen"] | None = None,
) -> TopK:
    """Returns the k allowed items with the largest dot product with each query, best first.

    Where the items are cut over devices (`partitioned.py`), each device selects from its own, and only the selected
    are compared with each other.

    Args:
      queries: one vector a row.
      items: one vector a row; the row is the item id.
      k: how many items; more than are allowed is fine, the tail is then padding.
      num_items: rows of `items` that are items; those from here on are padding and are never returned.
      exclude: item ids that a query must not get; negative entries are padding. None excludes nothing.

    Returns:
      Ids and float32 scores. Ties go to the lower id. See `select` for the rest of the order.
    """
    mesh = partitions()
    if mesh is None:
        allowed = allowed_items(exclude, num_rows=items.shape[0], num_items=num_items)
        return select(similarities(queries, items), allowed, k=k)

    def local(queries: Array, part: Array, num_items: Array, exclude: Array | None) -> tuple[Array, Array]:
        queries, first = gather_batch(queries), first_row(part)
        if exclude is not None:
            # Those of other devices become negative or too large, which excludes nothing.
            exclude = jnp.where(exclude < 0, PADDING, exclude)
            exclude = gather_batch(exclude)
            exclude = jnp.where((exclude < first) | (exclude >= first + part.shape[0]), PADDING, exclude - first)
        own = top_k(queries, part, k=min(k, part.shape[0]), num_items=num_items - first, exclude=exclude)
        ids = jnp.where(own.ids == PADDING, PADDING, own.ids + first)
        # In the order of the devices, so that of equal scores the lower id still comes first.
        ids, scores = (jax.lax.all_gather(x, ROW_AXES, axis=1, tiled=True) for x in (ids, own.scores))
        best, at = jax.lax.top_k(scores, min(k, scores.shape[1]))
        return own_batch(jnp.take_along_axis(ids, at, axis=1)), own_batch(best)

    excluded = None if exclude is None else BATCH
    searched = over_devices(local, mesh, in_specs=(BATCH, ROWS, EVERYWHERE, excluded), out_specs=BATCH)
    ids, scores = searched(queries, items, jnp.asarray(num_items, jnp.int32), exclude)
    return _filled(ids, scores, k=k)


def similarities(queries: Float[Array, "batch emb"], items: Float[Array, "items emb"]) -> Float[Array, "batch items"]:
    """Returns all dot products in float32.

    Full precision of the inputs is asked for: accelerators else round float32 inputs to bfloat16 or TF32,
    which changes the order of close items. It costs nothing where the inputs are bfloat16 already.
    """
    return jnp.einsum(
        "qd,nd->qn",
        queries,
        items,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def allowed_items(
    exclude: Int[Array, "batch seen"] | None, *, num_rows: int, num_items: int | Int[Array, ""]
) -> Bool[Array, "batch_or_one items"]:
    """Returns which rows of the item table may be recommended: no padding rows, no excluded items.

    Args:
      exclude: item ids a query must not get; negative entries are padding. None gives one row that fits all
        queries.
      num_rows: rows of the item table.
      num_items: how many of them are items.
    """
    is_item = jnp.arange(num_rows, dtype=jnp.int32)[None, :] < num_items
    if exclude is None:
        return is_item
    batch = exclude.shape[0]
    row = jnp.arange(batch, dtype=jnp.int32)[:, None]
    # A negative index would count from the end: padding is sent past the end instead, where "drop" ignores
    # it.
    column = jnp.where(exclude < 0, num_rows, exclude)
    return jnp.broadcast_to(is_item, (batch, num_rows)).at[row, column].set(False, mode="drop")


def select(scores: Float[Array, "batch items"], allowed: Bool[Array, "batch_or_one items"], *, k: int) -> TopK:
    """Returns the k best allowed items of each row of scores.

    Ties go to the lower id. Items with score NaN or -inf are never returned; where fewer than k are left, the
    id is `PADDING` and the score -inf.
    """
    # `lax.top_k` puts NaN above +inf, and 0.0 above -0.0 although they are equal; both would break the order
    # promised. A written zero, as the compiler simplifies `scores + 0.0` to `scores`.
    ordered = jnp.where(scores == 0.0, 0.0, scores)
    # `scores > -inf` is False for NaN as well.
    ordered = jnp.where(allowed & (scores > -jnp.inf), ordered, -jnp.inf)
    best, ids = jax.lax.top_k(ordered, min(k, scores.shape[1]))
    return _filled(jnp.where(best > -jnp.inf, ids, PADDING).astype(jnp.int32), best, k=k)


def _filled(ids: Int[Array, "batch found"], scores: Float[Array, "batch found"], *, k: int) -> TopK:
    """Returns k columns, the last ones padding where fewer were found."""
    missing = ((0, 0), (0, k - ids.shape[1]))
    return TopK(
        ids=jnp.pad(ids, missing, constant_values=PADDING), scores=jnp.pad(scores, missing, constant_values=-jnp.inf)
    )
