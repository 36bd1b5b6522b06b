"""Runs a score function over all users of a split and returns metrics and every user's rank.

A *score function* takes an `EvaluationBatch` of NumPy arrays and returns one score an item, as an array of
the host or of the device; it moves to the device what it needs. Models that give a query vector become one
through `score_with_index`. Read `evaluate` first. All copies between host and device are explicit, so that an
evaluation runs under `jax.transfer_guard("disallow")`. With several processes all of them evaluate together and get the
same output.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh
from jaxtyping import Array, Float, Int

from tokenrec_jax.evaluation import ranking
from tokenrec_jax.retrieval import search
from tokenrec_jax.retrieval.index import ItemIndex
from tokenrec_jax.sharding import fetch, is_ours, on_mesh, put, replicated_beside
from tokenrec_jax.types import PADDING, DataError, EvaluationBatch

ScoreFunction = Callable[[EvaluationBatch], jax.Array | np.ndarray]
QueryFunction = Callable[[EvaluationBatch], jax.Array]


@dataclasses.dataclass(frozen=True)
class EvaluationOutput:
    """Result of an evaluation; filling rows are gone.

    Attributes:
      metrics: hr@k, ndcg@k, mrr@k, recall@k and coverage@k (share of the catalogue that stands in the top k
        of at least one user) for each cutoff, and "users", how many were ranked.
      users: id of each ranked user.
      ranks: the 1-based rank of each user's target; what confidence intervals are bootstrapped from.
    """

    metrics: dict[str, float]
    users: Int[np.ndarray, " users"]
    ranks: Int[np.ndarray, " users"]


def evaluate(
    score_fn: ScoreFunction,
    batches: Iterable[EvaluationBatch],
    *,
    num_items: int,
    cutoffs: Sequence[int],
) -> EvaluationOutput:
    """Ranks the target of every user against the full catalogue, seen items excluded.

    Args:
      score_fn: returns scores of shape [batch, items or more]; columns from `num_items` on are padding.
      batches: what `protocols.evaluation_batches` returns.
      num_items: size of the catalogue.
      cutoffs: values of k.

    Raises:
      ConfigError: a cutoff is below 1, or there is none.
      DataError: no user has a target.
      ValueError: the scores have another shape.
    """
    ranking.check_cutoffs(cutoffs)
    users, ranks = [], []
    positions = pending = None
    for batch in batches:
        scores = _on_device(score_fn(batch), rows=len(batch.target), num_items=num_items)
        beside = replicated_beside(scores)
        target, seen, count = put((batch.target, batch.seen, np.int32(num_items)), beside)
        if positions is None:
            positions = put(np.full(num_items, _NEVER, np.int32), beside)
        positions = _best_positions(
            positions, scores, target, seen=seen, num_items=count, k=min(max(cutoffs), num_items), mesh=mesh_of(scores)
        )
        rank = jax.device_put(ranking.ranks(scores, target, seen=seen, num_items=count), beside)
        # The ranks of the previous batch are read while this one is computed: the device is never idle, and
        # no more than two score matrices are alive.
        if pending is not None:
            ranks.append(jax.device_get(pending))
        pending = rank
        users.append(np.where(np.asarray(batch.target) == PADDING, PADDING, batch.user))
    if pending is None or positions is None:
        raise DataError("batches: got none; allowed is at least one user with a target")
    ranks.append(jax.device_get(pending))
    user, rank = np.concatenate(users), np.concatenate(ranks)
    user, rank = user[user != PADDING], rank[rank > 0]
    metrics = ranking.metrics(rank, cutoffs)
    best = fetch(positions)
    metrics |= {f"coverage@{k}": float(np.mean(best <= k)) for k in cutoffs}
    metrics["users"] = float(len(rank))
    return EvaluationOutput(metrics=metrics, users=user, ranks=rank)


def score_with_index(
    query_fn: QueryFunction, index: ItemIndex, *, sharding: jax.sharding.Sharding | None = None
) -> ScoreFunction:
    """Returns the score function of a model that gives one query vector a user.

    Args:
      query_fn: takes the batch on the device and returns queries of shape [batch, emb]; jit it.
      index: the items to search.
      sharding: where the batch goes, its first axis along the devices; None: the default device.
    """

    def score(batch: EvaluationBatch) -> jax.Array:
        return index.score(query_fn(put(batch, sharding)))

    return score


#: Position of an item that no user has been shown; worse than every cutoff.
_NEVER = np.iinfo(np.int32).max


def mesh_of(scores: jax.Array) -> AbstractMesh | None:
    """Returns the mesh of ours that scores are cut over; None if they are whole."""
    layout = scores.sharding
    return layout.mesh.abstract_mesh if is_ours(layout) and layout.num_devices > 1 else None


@functools.partial(jax.jit, static_argnames=("k", "mesh"), donate_argnames=("positions",))
def _best_positions(
    positions: Int[Array, " catalogue"],
    scores: Float[Array, "batch items"],
    target: Int[Array, " batch"],
    *,
    seen: Int[Array, "batch seen"],
    num_items: Int[Array, ""],
    k: int,
    mesh: AbstractMesh | None,
) -> Int[Array, " catalogue"]:
    """Returns the best position (1 to k) at which each item has been shown to any user so far.

    One integer an item gives the coverage at every cutoff, and the minimum does not depend on the order of
    batches.
    """
    allowed = ranking.candidates(target, seen=seen, num_rows=scores.shape[1], num_items=num_items)
    with on_mesh(mesh):
        ids = search.best_of_scores(scores, allowed, k=k).ids
    unused = (ids == PADDING) | (target < 0)[:, None]
    ids = jnp.where(unused, positions.shape[0], ids)
    position = jnp.broadcast_to(jnp.arange(1, k + 1, dtype=jnp.int32), ids.shape)
    return positions.at[ids].min(position, mode="drop")


def _on_device(scores: jax.Array | np.ndarray, *, rows: int, num_items: int) -> jax.Array:
    if scores.ndim != 2 or scores.shape[0] != rows or scores.shape[1] < num_items:
        raise ValueError(f"scores: got shape {scores.shape}; allowed is [{rows}, {num_items} or more]")
    return scores if isinstance(scores, jax.Array) else jax.device_put(scores.astype(np.float32))
