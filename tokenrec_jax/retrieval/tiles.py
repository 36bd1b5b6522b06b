"""Exact search in tiles: scores of some queries against some items, reduced to the best k before the next tile.

Read `best_in_tiles`. No score is computed twice or rounded twice: what selects an item is the score that is returned.
Devices, exclusions by id and storage belong to `search.py` and `index.py`.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num, Shaped

from tokenrec_jax.numerics import round_up
from tokenrec_jax.retrieval.selection import Tiling, allowed_items, filled, merge, select_tile
from tokenrec_jax.types import PADDING, TopK

#: Tiles of items start at multiples of this, the width of a TPU's matrix unit.
_TILE_MULTIPLE = 128

#: See `_tile_width`.
_FEW_QUERIES = 4


def best_in_tiles(
    queries: Float[Array, "batch emb"],
    items: Num[Array, "items emb"],
    scale: Float[Array, " items"] | None,
    num_items: Int[Array, ""],
    exclude: Int[Array, "batch seen"] | None,
    allow: Bool[Array, "batch_or_one items"] | None,
    *,
    k: int,
    tiling: Tiling,
    recall_target: float | None = None,
) -> TopK:
    """Returns the k best items of each query; arguments as in `search.top_k`.

    Memory beyond the arguments and the result is that of a few tiles, whatever the number of items and queries.
    """
    batch = queries.shape[0]
    search = functools.partial(_pass_items, k=k, tiling=tiling, recall_target=recall_target)
    if batch <= tiling.together:
        return search(queries, items, scale, num_items, exclude, allow)
    passes, size = _even(batch, tiling.together)

    def one(part: tuple) -> TopK:
        queries, exclude, own = part
        return search(queries, items, scale, num_items, exclude, allow if own is None else own)

    own = None if allow is None or allow.shape[0] == 1 else _cut(allow, passes, size, fill=0)
    excluded = None if exclude is None else _cut(exclude, passes, size, fill=PADDING)
    found = jax.lax.map(one, (_cut(queries, passes, size, fill=0), excluded, own))
    return jax.tree.map(lambda x: x.reshape(passes * size, k)[:batch], found)


def similarities(queries: Float[Array, "batch emb"], items: Num[Array, "items emb"]) -> Float[Array, "batch items"]:
    """Returns all dot products in float32.

    Full precision of the inputs is asked for: accelerators else round float32 inputs to bfloat16 or TF32,
    which changes the order of close items. It costs nothing where the inputs are bfloat16 already.
    """
    # Items in a narrower type stand for the values that they hold; the queries are not rounded to it.
    items = items.astype(queries.dtype)
    dot = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
    if queries.shape[0] == 1:
        # One query is a product of a matrix and a vector, which CPUs do faster in the order of the items' rows.
        return dot("nd,qd->nq", items, queries).reshape(1, -1)
    return dot("qd,nd->qn", queries, items)


def _pass_items(
    queries: Float[Array, "batch emb"],
    items: Num[Array, "items emb"],
    scale: Float[Array, " items"] | None,
    num_items: Int[Array, ""],
    exclude: Int[Array, "batch seen"] | None,
    allow: Bool[Array, "batch_or_one items"] | None,
    *,
    k: int,
    tiling: Tiling,
    recall_target: float | None,
) -> TopK:
    """Does `best_in_tiles` for so many queries that their findings in all tiles of items fit into memory."""
    batch, rows = queries.shape[0], items.shape[0]
    parts, size = _even(batch, 2 * tiling.queries if 2 * tiling.queries * rows <= tiling.scores else tiling.queries)
    width = _tile_width(rows, size, tiling=tiling, is_copied=items.dtype != queries.dtype)
    steps = math.ceil(rows / width)
    cut_queries = _cut(queries, parts, size, fill=0)
    cut_exclude = None if exclude is None else _cut(exclude, parts, size, fill=PADDING)

    def pass_tile(step: Int[Array, ""] | int) -> TopK:
        wanted = step * width
        # The last tile is as wide as the others and starts earlier; what it shares with its neighbour is not allowed.
        start = jnp.minimum(wanted, rows - width)

        def tile(array: Array, axis: int) -> Array:
            return array if steps == 1 else jax.lax.dynamic_slice_in_dim(array, start, width, axis=axis)

        vectors = tile(items, 0)
        lengths = None if scale is None else tile(scale, 0)
        may = None if allow is None else tile(allow, 1)

        def one(part: tuple) -> TopK:
            queries, exclude, own = part
            scores = similarities(queries, vectors)
            if lengths is not None:
                scores *= lengths[None, :]
            if exclude is not None:
                # Those of other tiles become negative or too large, which excludes nothing.
                exclude = jnp.where((exclude < start) | (exclude >= start + width), PADDING, exclude - start)
            allowed = allowed_items(
                exclude,
                num_rows=width,
                num_items=num_items - start,
                allow=may if own is None else own,
                first=wanted - start,
            )
            found = select_tile(scores, allowed, k=min(k, width), tiling=tiling, recall_target=recall_target)
            return TopK(ids=jnp.where(found.ids == PADDING, PADDING, found.ids + start), scores=found.scores)

        if parts == 1:
            return one((queries, exclude, may))
        own = None if may is None or may.shape[0] == 1 else _cut(may, parts, size, fill=0)
        found = jax.lax.map(one, (cut_queries, cut_exclude, own))
        return jax.tree.map(lambda x: x.reshape(parts * size, -1)[:batch], found)

    if steps == 1:
        found = pass_tile(0)
        return filled(found.ids, found.scores, k=k)
    # In the order of the tiles, so that of equal scores the lower id still comes first.
    found = jax.lax.map(pass_tile, jnp.arange(steps, dtype=jnp.int32))
    ids, scores = (jnp.moveaxis(x, 0, 1).reshape(batch, -1) for x in (found.ids, found.scores))
    return merge(ids, scores, k=k, tiling=tiling)


def _tile_width(rows: int, queries: int, *, tiling: Tiling, is_copied: bool) -> int:
    """Returns how many items a tile has; all of them where they need be neither decoded nor cut."""
    # To cut out a tile is to read and write its items, which is most of the work for a few queries.
    most_scores = 8 * tiling.scores if queries <= _FEW_QUERIES else tiling.scores
    if not is_copied and rows * queries <= most_scores:
        return rows
    most = max(_TILE_MULTIPLE, min(tiling.items, tiling.scores // queries))
    _, size = _even(rows, most)
    return min(rows, round_up(size, multiple=_TILE_MULTIPLE))


def _even(count: int, most: int) -> tuple[int, int]:
    """Returns the number and the size of equal parts of at most `most`; the last may have to be filled up."""
    parts = max(1, math.ceil(count / most))
    return parts, math.ceil(count / parts)


def _cut(array: Shaped[Array, "batch rest"], parts: int, size: int, *, fill: int) -> Array:
    """Returns rows as `parts` ranges of `size` rows, filled up at the end."""
    missing = parts * size - array.shape[0]
    return jnp.pad(array, ((0, missing), (0, 0)), constant_values=fill).reshape(parts, size, array.shape[1])
