"""Top-k search as a pure function of arrays that may be cut over devices. Read `top_k`.

The arithmetic on one device is in `tiles.py`, the rules of what may be recommended in `selection.py`, how vectors are
stored in `index.py`.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Num

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
from tokenrec_jax.retrieval.selection import ACCELERATOR, allowed_items, for_platform, merge, select, select_tile
from tokenrec_jax.retrieval.tiles import best_in_tiles, similarities
from tokenrec_jax.sharding import DATA, ROW_AXES
from tokenrec_jax.types import PADDING, TopK

__all__ = ["allowed_items", "best_of_scores", "rerank", "select", "similarities", "top_k"]

#: Queries that are re-ranked at a time: the candidates' rows of each are copied together.
_RERANKED_TOGETHER = 128


@functools.partial(jax.jit, static_argnames=("k", "num_candidates", "recall_target"))
def top_k(
    queries: Float[Array, "batch emb"],
    items: Num[Array, "items emb"],
    *,
    k: int,
    num_items: int | Int[Array, ""],
    exclude: Int[Array, "batch seen"] | None = None,
    allow: Bool[Array, " items"] | Bool[Array, "batch items"] | None = None,
    scale: Float[Array, " items"] | None = None,
    exact: Float[Array, "items emb"] | None = None,
    num_candidates: int = 0,
    recall_target: float | None = None,
) -> TopK:
    """Returns the k allowed items with the largest dot product with each query, best first.

    Where the items are cut over devices (`partitioned.py`), each device selects from its own, and only the selected
    are compared with each other.

    Args:
      queries: one vector a row.
      items: one vector a row; the row is the item id. In a narrower type than the queries they stand for the values
        that they hold.
      k: how many items; more than are allowed is fine, the tail is then padding.
      num_items: rows of `items` that are items; those from here on are padding and are never returned.
      exclude: item ids that a query must not get; negative entries are padding. None excludes nothing.
      allow: False for items that may not be returned, for all queries or for each. None allows all.
      scale: what the products with each item are multiplied with. None: nothing.
      exact: vectors by which the best `num_candidates` are ranked again; their scores are then returned. None: none.
      num_candidates: see `exact`; at least k count.
      recall_target: share of the k best that is enough, for `lax.approx_max_k`. None: all of them.

    Returns:
      Ids and float32 scores. Ties go to the lower id. See `select` for the rest of the order.
    """
    found = k if exact is None else max(k, num_candidates)
    if allow is not None and allow.ndim == 1:
        allow = allow[None, :]

    def on_one_device(queries, items, scale, exact, num_items, exclude, allow) -> TopK:
        search = functools.partial(best_in_tiles, k=found, recall_target=recall_target)
        best = for_platform(search, queries, items, scale, num_items, exclude, allow)
        return best if exact is None else rerank(queries, exact, best.ids, k=k)

    num_items = jnp.asarray(num_items, jnp.int32)
    mesh = partitions()
    if mesh is None:
        return on_one_device(queries, items, scale, exact, num_items, exclude, allow)

    def local(queries, part, scale, exact, num_items, exclude, allow) -> tuple[Array, Array]:
        queries, first = gather_batch(queries), first_row(part)
        if exclude is not None:
            # Those of other devices become negative or too large, which excludes nothing.
            exclude = jnp.where(exclude < 0, PADDING, exclude)
            exclude = gather_batch(exclude)
            exclude = jnp.where((exclude < first) | (exclude >= first + part.shape[0]), PADDING, exclude - first)
        own = on_one_device(queries, part, scale, exact, num_items - first, exclude, allow)
        ids = jnp.where(own.ids == PADDING, PADDING, own.ids + first)
        # In the order of the devices, so that of equal scores the lower id still comes first.
        ids, scores = (jax.lax.all_gather(x, ROW_AXES, axis=1, tiled=True) for x in (ids, own.scores))
        best = merge(ids, scores, k=k, tiling=ACCELERATOR)
        return own_batch(best.ids), own_batch(best.scores)

    # Rows of `allow` are needed by all devices that hold one copy of the items, each its own columns of them.
    masked = PartitionSpec(DATA if allow is not None and allow.shape[0] > 1 else None, ROW_AXES)
    cut = (BATCH, ROWS, ROWS, ROWS, EVERYWHERE, BATCH, masked)
    arguments = (queries, items, scale, exact, num_items, exclude, allow)
    specs = tuple(None if argument is None else spec for argument, spec in zip(arguments, cut, strict=True))
    ids, scores = over_devices(local, mesh, in_specs=specs, out_specs=BATCH)(*arguments)
    return TopK(ids=ids, scores=scores)


def best_of_scores(scores: Float[Array, "batch items"], allowed: Bool[Array, "batch items"], *, k: int) -> TopK:
    """Returns what `select` does, of scores that may be cut over devices: only the k best of each part travel.

    Args:
      scores: the batch along `DATA`, the items along `ROW_AXES`, if they are cut.
      allowed: which items count.
      k: how many.
    """
    mesh = partitions()
    if mesh is None:
        return select(scores, allowed, k=k)

    def local(part, allowed) -> tuple[Array, Array]:
        own = select(part, allowed, k=k)
        ids = jnp.where(own.ids == PADDING, PADDING, own.ids + jax.lax.axis_index(ROW_AXES) * part.shape[1])
        ids, found = (jax.lax.all_gather(x, ROW_AXES, axis=1, tiled=True) for x in (ids, own.scores))
        best = merge(ids, found, k=k, tiling=ACCELERATOR)
        return best.ids, best.scores

    missing = -scores.shape[1] % math.prod(mesh.shape[axis] for axis in ROW_AXES)
    scores, allowed = (jnp.pad(each, ((0, 0), (0, missing))) for each in (scores, allowed))
    cut = PartitionSpec(DATA, ROW_AXES)
    ids, found = over_devices(local, mesh, in_specs=(cut, cut), out_specs=PartitionSpec(DATA))(scores, allowed)
    return TopK(ids=ids, scores=found)


def rerank(
    queries: Float[Array, "batch emb"], items: Float[Array, "items emb"], ids: Int[Array, "batch candidates"], *, k: int
) -> TopK:
    """Returns the k best of each query's candidates by their dot products in float32.

    Args:
      queries: one vector a row.
      items: one vector a row.
      ids: candidates, `PADDING` where there is none.
      k: how many.
    """
    # In the order of ids, so that of equal scores the lower id comes first.
    ids = jnp.sort(ids, axis=1)

    def score(pair: tuple[Array, Array]) -> Array:
        query, candidates = pair
        return similarities(query[None, :], items[candidates])[0]

    scores = jax.lax.map(score, (queries, jnp.maximum(ids, 0)), batch_size=_RERANKED_TOGETHER)

    def best(scores, ids, *, tiling) -> TopK:
        found = select_tile(scores, ids != PADDING, k=k, tiling=tiling)
        columns = jnp.take_along_axis(ids, jnp.maximum(found.ids, 0), axis=1)
        return TopK(ids=jnp.where(found.ids == PADDING, PADDING, columns), scores=found.scores)

    return for_platform(best, scores, ids)
