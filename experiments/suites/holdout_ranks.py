"""Ranks of chosen targets, and what is reported of them. Read `rank_last` and `report`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from experiments.evaluation import batches_of
from tokenrec_jax.config import Config
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.evaluation.evaluator import ScoreFunction, evaluate
from tokenrec_jax.evaluation.statistics import per_user
from tokenrec_jax.types import EvaluationBatch, Split

#: How often users or items are drawn for an interval.
DRAWS = 2000


def rank_last(
    score: ScoreFunction,
    now: Interactions,
    histories: Sequence[Sequence[int]],
    *,
    owners: Sequence[int],
    config: Config,
    cutoff: int,
) -> Int[np.ndarray, " histories"]:
    """Returns the rank of the last item of each history after the items before it; at least three items each.

    Args:
      score: ranks the items of `now`.
      now: everything that is known.
      histories: rows of items.
      owners: row of the user of each history.
      config: of the run.
      cutoff: of the metrics that the evaluator wants to be asked for.
    """
    if not histories:
        return np.empty(0, np.int32)
    whose = np.asarray(owners, np.int32)
    data = Interactions(
        name=now.name,
        indptr=np.append(0, np.cumsum([len(history) for history in histories])),
        items=np.concatenate(histories).astype(np.int32),
        user_ids=tuple(str(row) for row in range(len(histories))),
        item_ids=now.item_ids,
    )
    batches = batches_of(data, Split.TEST, config=config)

    def score_owners(batch: EvaluationBatch) -> Any:
        return score(dataclasses.replace(batch, user=whose[np.asarray(batch.user)]))

    return evaluate(score_owners, batches, num_items=now.num_items, cutoffs=(cutoff,)).ranks


def report(
    ranks: Int[np.ndarray, " held_out *peers"],
    groups: Int[np.ndarray, " held_out *peers"],
    *,
    unit: str,
    cutoff: int,
    seed: int,
) -> dict[str, Any]:
    """Returns HR and NDCG at a cutoff, and the middle 95 % of HR when items, or users, are drawn again (bootstrap).

    Args:
      ranks: of each target, or of the peers of each.
      groups: the item, or the user, that each rank is of; those of one depend on each other.
      unit: what the groups are called: "items" or "users".
      cutoff: of both metrics.
      seed: of the draws.

    Returns:
      "count" of targets, also of those that peers stand beside; under `unit` the number of groups; metrics, and the
      interval, None for a single group. Nothing but "count" where there are no targets.
    """
    if not len(ranks):
        return {"count": 0}
    hits, gains = (per_user(ranks.reshape(-1), f"{name}@{cutoff}") for name in ("hr", "ndcg"))
    number = len(np.unique(groups))
    return {
        "count": len(ranks),
        unit: number,
        f"hr@{cutoff}": float(hits.mean()),
        f"hr@{cutoff}_interval": _interval(hits, groups.reshape(-1), seed=seed) if number > 1 else None,
        f"ndcg@{cutoff}": float(gains.mean()),
    }


def _interval(hits: Float[np.ndarray, " ranks"], groups: Int[np.ndarray, " ranks"], *, seed: int) -> list[float]:
    """Returns both ends of the interval of the mean over the ranks of the groups that are drawn.

    Drawn is how often each distinct pair of hits and ranks occurs, which has the distribution of drawing groups one by
    one.

    Source: Davison and Hinkley (1997), Bootstrap Methods and Their Application, §3.8, whole groups with replacement.
    """
    _, group = np.unique(groups, return_inverse=True)
    totals = np.stack([np.bincount(group, hits), np.bincount(group)], axis=1)
    distinct, counts = np.unique(totals, axis=0, return_counts=True)
    rng = np.random.default_rng((seed, 8))
    drawn = rng.multinomial(len(totals), counts / len(totals), size=DRAWS) @ distinct
    return np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975]).tolist()
