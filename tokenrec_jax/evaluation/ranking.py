"""Scores to ranks, and ranks to HR, NDCG, MRR and recall.

A rank is exact, over the whole catalogue, and never flatters: what cannot be told apart from the target
stands before it. Read `ranks` first; which users and targets there are is said in `protocols.py`.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from tokenrec_jax.retrieval import search
from tokenrec_jax.types import ConfigError, DataError

#: What a target at a rank within the cutoff is worth, by metric.
GAINS: Mapping[str, Callable[[Float[np.ndarray, " users"]], Float[np.ndarray, " users"]]] = {
    "hr": np.ones_like,
    "ndcg": lambda rank: 1.0 / np.log2(rank + 1.0),
    "mrr": lambda rank: 1.0 / rank,
    "recall": np.ones_like,
}


@jax.jit
def ranks(
    scores: Float[Array, "batch items"],
    target: Int[Array, " batch"],
    *,
    seen: Int[Array, "batch seen"],
    num_items: int | Int[Array, ""],
) -> Int[Array, " batch"]:
    """Returns the rank of each target among the allowed items: 1 is best, 0 stands in filling rows.

    The rank is the number of allowed items, the target among them, whose score is not below the target's. So
    ties count against us, and so does NaN: a NaN item stands before the target, a NaN target comes last.

    Args:
      scores: one column an item; columns from `num_items` on are padding.
      target: held-out items; negative in rows that only fill the batch.
      seen: items to leave out, right-padded with `PADDING`; the target is never left out.
      num_items: size of the catalogue.
    """
    allowed = candidates(target, seen=seen, num_rows=scores.shape[1], num_items=num_items)
    target_score = jnp.take_along_axis(scores, jnp.maximum(target, 0)[:, None], axis=1)
    # Not `scores >= target_score`: every comparison with NaN is False.
    not_below = allowed & ~(scores < target_score)
    return jnp.where(target < 0, 0, jnp.sum(not_below, axis=1, dtype=jnp.int32))


def candidates(
    target: Int[Array, " batch"],
    *,
    seen: Int[Array, "batch seen"],
    num_rows: int,
    num_items: int | Int[Array, ""],
) -> Bool[Array, "batch items"]:
    """Returns the items that compete in each row: the catalogue without the seen items, but with the target.

    Args as for `ranks`; `num_rows` is the number of score columns.
    """
    allowed = search.allowed_items(seen, num_rows=num_rows, num_items=num_items)
    # A user may meet an item twice: then the target is in `seen` and must still be found.
    column = jnp.where(target < 0, num_rows, target)
    return allowed.at[jnp.arange(target.shape[0]), column].set(True, mode="drop")


def metrics(ranks: Int[np.ndarray, " users"], cutoffs: Sequence[int]) -> dict[str, float]:
    """Returns the means over users of hr@k, ndcg@k, mrr@k and recall@k for each cutoff k.

    Each user has one target, so recall@k is hr@k (the share of targets in the top k), the ideal DCG is 1, and
    reciprocal rank and gain are 0 beyond k. Computed in float64 on the host: the same ranks give the same
    numbers on every backend.

    Args:
      ranks: 1-based ranks; entries below 1 come from filling rows and do not count.
      cutoffs: values of k.

    Raises:
      ConfigError: a cutoff is below 1, or there is none.
      DataError: no user has a rank.

    Source: NDCG with binary relevance, Järvelin and Kekäläinen (2002).
    """
    check_cutoffs(cutoffs)
    rank = ranks[ranks >= 1]
    if rank.size == 0:
        raise DataError("ranks: no user has a target; allowed is at least one")
    return {f"{name}@{k}": float(np.mean(gains(rank, name=name, cutoff=k))) for k in cutoffs for name in GAINS}


def gains(ranks: Int[np.ndarray, " users"], *, name: str, cutoff: int) -> Float[np.ndarray, " users"]:
    """Returns each user's value of one of `GAINS` at a cutoff, float64; all ranks are 1 or more."""
    rank = ranks.astype(np.float64)
    return np.where(rank <= cutoff, GAINS[name](rank), 0.0)


def check_cutoffs(cutoffs: Sequence[int]) -> None:
    """Raises ConfigError unless there is a cutoff and all are at least 1."""
    if not cutoffs or min(cutoffs) < 1:
        raise ConfigError(f"cutoffs: got {tuple(cutoffs)}; allowed are one or more values of at least 1")
