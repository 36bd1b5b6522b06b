"""Which items may be recommended, and which k of them score best: the rules that evaluation and search share.

Read `select`. `allowed_items` is the one place that decides what may be recommended, so that a rank and a
recommendation never disagree about it. Where scores come from is the business of `tiles.py`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from tokenrec_jax.types import PADDING, TopK


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How a search is cut up for a kind of device.

    Attributes:
      queries: most queries of one tile of scores that does not have all items; twice as many of one that has.
      scores: most scores of a tile: what stays in a CPU's cache, or fills an accelerator.
      items: most items of a tile; they are copied (and decoded) once for all queries that pass.
      together: most queries that pass the items together; bounds the memory of what they have found.
      parts: pieces of a selection that may run side by side.
      group: most items of a group, see `_best_of_groups`; 0: no groups.
    """

    queries: int
    scores: int
    items: int
    together: int
    parts: int
    group: int


#: XLA's selection of the k largest runs on one thread of a CPU, so it is given several of them, of few candidates. A
#: TPU selects from all scores of a tile in a third of the time that it takes by way of groups, the compiler estimates.
CPU = Tiling(queries=128, scores=1 << 22, items=1 << 16, together=1024, parts=16, group=64)
ACCELERATOR = Tiling(queries=512, scores=1 << 26, items=1 << 20, together=1024, parts=1, group=0)
#: On a GPU XLA sorts all scores where more than 16 are asked for, ties in order; so it is given few. Not measured.
GPU = dataclasses.replace(ACCELERATOR, group=64)

#: Fewer rows than these are selected from sooner than another thread has begun with them.
_ROWS_OF_A_PART = 16


def for_platform(function: Callable[..., Any], *arguments: Any) -> Any:
    """Returns `function(*arguments, tiling=...)` with the tiling of the platform that is compiled for."""
    own = {
        name: functools.partial(function, tiling=tiling)
        for name, tiling in (("cpu", CPU), ("cuda", GPU), ("rocm", GPU))
    }
    return jax.lax.platform_dependent(*arguments, **own, default=functools.partial(function, tiling=ACCELERATOR))


def allowed_items(
    exclude: Int[Array, "batch seen"] | None,
    *,
    num_rows: int,
    num_items: int | Int[Array, ""],
    allow: Bool[Array, "#batch items"] | None = None,
    first: int | Int[Array, ""] = 0,
) -> Bool[Array, "batch_or_one items"]:
    """Returns which rows of the item table may be recommended: no padding rows, no excluded items.

    Args:
      exclude: item ids a query must not get; negative entries are padding. None and `allow` of one row or None give
        one row that fits all queries.
      num_rows: rows of the item table.
      num_items: how many of them are items.
      allow: False for items that may not be recommended, for all queries or for each. None allows all.
      first: rows before this one are not allowed either; for a part of a table that overlaps with another.
    """
    row = jnp.arange(num_rows, dtype=jnp.int32)[None, :]
    allowed = (row >= first) & (row < num_items)
    if allow is not None:
        allowed &= allow
    if exclude is None:
        return allowed
    batch = exclude.shape[0]
    # A negative index would count from the end: padding is sent past the end instead, where "drop" ignores it.
    column = jnp.where(exclude < 0, num_rows, exclude)
    query = jnp.arange(batch, dtype=jnp.int32)[:, None]
    return jnp.broadcast_to(allowed, (batch, num_rows)).at[query, column].set(False, mode="drop")


def select(scores: Float[Array, "batch items"], allowed: Bool[Array, "batch_or_one items"], *, k: int) -> TopK:
    """Returns the k best allowed items of each row of scores.

    Ties go to the lower id. Items with score NaN or -inf are never returned; where fewer than k are left, the
    id is `PADDING` and the score -inf.
    """
    return for_platform(functools.partial(select_tile, k=k), scores, allowed)


def select_tile(
    scores: Float[Array, "batch items"],
    allowed: Bool[Array, "batch_or_one items"],
    *,
    k: int,
    tiling: Tiling,
    recall_target: float | None = None,
) -> TopK:
    """Does the work of `select`.

    Args:
      scores: see `select`.
      allowed: see `select`.
      k: how many.
      tiling: of the platform.
      recall_target: share of the k best that is enough, for `lax.approx_max_k`; None: all of them.
    """
    found = min(k, scores.shape[1])
    group = _group_size(scores.shape[1], k=found, largest=tiling.group)
    # One array for all that follows: it takes the place of the scores, and a tile of them fills the cache.
    # `scores > -inf` is False for NaN as well, which `lax.top_k` puts above +inf.
    scores = jnp.where(allowed & (scores > -jnp.inf), scores, -jnp.inf)
    if recall_target is not None:
        best, ids = jax.lax.approx_max_k(scores, found, recall_target=recall_target)
    elif group:
        best, ids = _best_of_groups(scores, k=found, group=group, parts=tiling.parts)
    else:
        best, ids = _largest(_one_zero(scores), found, parts=tiling.parts)
    return filled(jnp.where(best > -jnp.inf, ids, PADDING).astype(jnp.int32), best, k=k)


def filled(ids: Int[Array, "batch found"], scores: Float[Array, "batch found"], *, k: int) -> TopK:
    """Returns k columns, the last ones padding where fewer were found."""
    missing = ((0, 0), (0, k - ids.shape[1]))
    return TopK(
        ids=jnp.pad(ids, missing, constant_values=PADDING), scores=jnp.pad(scores, missing, constant_values=-jnp.inf)
    )


def merge(ids: Int[Array, "batch found"], scores: Float[Array, "batch found"], *, k: int, tiling: Tiling) -> TopK:
    """Returns the k best of what several parts of the items gave, lower ids first among equals.

    Args:
      ids: `PADDING` where the score is -inf; of equal scores the lower id must come first already.
      scores: no NaN.
      k: how many.
      tiling: of the platform.
    """
    best, at = _largest(scores, min(k, scores.shape[1]), parts=tiling.parts)
    return filled(jnp.take_along_axis(ids, at, axis=1), best, k=k)


def _best_of_groups(
    scores: Float[Array, "batch items"], *, k: int, group: int, parts: int
) -> tuple[Float[Array, "batch k"], Int[Array, "batch k"]]:
    """Returns the k best scores and their columns by way of the largest score of each group of neighbours.

    The k best items lie in the k groups with the best maxima: an item elsewhere has k groups before it, each with an
    item at least as good, and of a lower id if just as good, as groups are ranges of ids. A maximum costs a fraction of
    a selection, which then sees few candidates.
    """
    batch = scores.shape[0]
    groups = (batch, scores.shape[1] // group, group)
    maxima = jnp.max(scores.reshape(groups), axis=2)
    _, chosen = _largest(_one_zero(maxima), k, parts=parts)
    # In the order of ids, so that of equal candidates the lower id comes first.
    chosen = jnp.sort(chosen, axis=1)
    candidates = jnp.take_along_axis(scores.reshape(groups), chosen[:, :, None], axis=1).reshape(batch, k * group)
    best, at = _largest(_one_zero(candidates), k, parts=parts)
    return best, jnp.take_along_axis(chosen, at // group, axis=1) * group + at % group


def _group_size(width: int, *, k: int, largest: int) -> int:
    """Returns a power of two that divides `width`, with about as many groups as candidates; 0 if that is no gain."""
    wanted = math.isqrt(width // k) if k else 0
    size = largest
    while size >= 8 and (size > 3 * wanted or width % size or width // size < k):
        size //= 2
    return size if size >= 8 else 0


def _largest(
    values: Float[Array, "batch columns"], k: int, *, parts: int
) -> tuple[Float[Array, "batch k"], Int[Array, "batch k"]]:
    """Returns `lax.top_k`, of several ranges of rows side by side where there are enough of them."""
    rows = values.shape[0]
    parts = min(parts, rows // _ROWS_OF_A_PART)
    if parts < 2:
        best, at = jax.lax.top_k(values, k)
        return best, at
    cuts = [rows * part // parts for part in range(1, parts)]
    # The barriers keep all parts alive at a time. Else the compiler gives them one buffer, one after the other.
    pieces = jax.lax.optimization_barrier(tuple(jnp.split(values, cuts)))
    found = jax.lax.optimization_barrier(tuple(tuple(jax.lax.top_k(piece, k)) for piece in pieces))
    best, at = (jnp.concatenate(columns) for columns in zip(*found, strict=True))
    return best, at


def _one_zero(scores: Float[Array, "batch columns"]) -> Float[Array, "batch columns"]:
    # `lax.top_k` puts 0.0 above -0.0 although they are equal. A written zero, as the compiler simplifies
    # `scores + 0.0` to `scores`.
    return jnp.where(scores == 0.0, 0.0, scores)
