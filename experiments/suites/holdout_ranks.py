"""Ranks of chosen targets, and what is reported of them. Read `rank_last`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from experiments.evaluation import batches_of
from tokenrec_jax.config import Config
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.evaluation.evaluator import ScoreFunction, evaluate
from tokenrec_jax.evaluation.statistics import interval, per_user
from tokenrec_jax.types import EvaluationBatch, Split


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


def report(ranks: Int[np.ndarray, " held_out *peers"], *, cutoff: int, seed: int) -> dict[str, Any]:
    """Returns HR and NDCG at a cutoff, and the middle 95 % of HR when those held out are drawn again (bootstrap).

    Nothing but their number where there are none.
    """
    if not len(ranks):
        return {"count": 0}
    flat, shape = ranks.reshape(-1), (len(ranks), -1)
    hits, gains = (per_user(flat, f"{name}@{cutoff}").reshape(shape).mean(axis=1) for name in ("hr", "ndcg"))
    return {
        "count": len(ranks),
        f"hr@{cutoff}": float(hits.mean()),
        f"hr@{cutoff}_interval": list(dataclasses.astuple(interval(hits, seed=seed))),
        f"ndcg@{cutoff}": float(gains.mean()),
    }
