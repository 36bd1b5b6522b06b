"""Users and items held out of all training, brought back by `Recommender.add_interactions` alone, and ranked.

Read `measure`. Which ones are held out is decided in `holdout_split.py`. Leave-one-out, full ranking, seen items left
out, ties against us, as everywhere:

  users   all but the last item of a held-out user are added; the last is the target. Beside them the users of the
          training that have about as many interactions; their last item was never trained on either.
  items   a held-out item's interactions that are the last of their users are targets, and a fifth of it at any place;
          the others, at least one, are added. A target is ranked after what its user had before it. Beside them the
          last items of the training's users, those that have about as many interactions in training: compare with
          targets that are last too, for where a target stands matters more than whether its item was held out.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from jaxtyping import Float, Int

from experiments.suites.holdout_split import HeldOut, hold_out
from experiments.training import run
from tokenrec_jax.config import Config
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.data.sources import load_interactions
from tokenrec_jax.evaluation.evaluator import evaluate
from tokenrec_jax.evaluation.protocols import evaluation_batches
from tokenrec_jax.recommender import Recommender
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import EvaluationBatch, Split

#: Users of the training that each held-out user is compared with, and targets for each target.
PEERS = 20

#: Share of a held-out item's interactions that are targets wherever they stand.
TARGETS = 0.2

USER_CUTOFF, ITEM_CUTOFF = 10, 50


def measure(config: Config, workdir: Workdir, *, fraction: float) -> dict[str, Any]:
    """Trains on what is left, or goes on with it, then returns how those held out fare beside those seen.

    Args:
      config: of the run.
      workdir: of the run; a finished one is measured again.
      fraction: share of users, and of items, to hold out.
    """
    part = hold_out(load_interactions(config.data), fraction=fraction, seed=config.seed)
    if not workdir.finished:
        run(config, workdir, interactions=part.training)
    logging.info("held out: %d users, %d items; bringing them back", len(part.users), len(part.items))
    return {
        "dataset": part.whole.name,
        "seed": config.seed,
        "fraction": fraction,
        "users": measure_users(Recommender.load(str(workdir.path)), part, config=config),
        "items": measure_items(Recommender.load(str(workdir.path)), part, config=config),
    }


def measure_users(recommender: Recommender, part: HeldOut, *, config: Config) -> dict[str, Any]:
    """Returns HR and NDCG of held-out users and of users of the training with as many interactions."""
    known = part.known_items
    histories = [[item for item in part.whole.history(user) if known[item]] for user in part.users.tolist()]
    num_seen = recommender.interactions.num_users
    recommender.add_interactions(
        [
            (part.whole.user_ids[user], part.whole.item_ids[item])
            for user, history in zip(part.users, histories, strict=True)
            for item in history[:-1]
        ]
    )
    # The target of a held-out user stands behind what was added, where the protocol looks for it.
    item_rows = {item: row for row, item in enumerate(recommender.item_ids)}
    now = recommender.interactions
    targets = [item_rows[part.whole.item_ids[history[-1]]] for history in histories]
    whole = dataclasses.replace(
        now,
        indptr=now.indptr + np.append(np.zeros(num_seen, int), np.arange(len(targets) + 1)),
        items=np.insert(now.items, now.indptr[num_seen + 1 :], np.array(targets, now.items.dtype)),
        timestamps=None,
    )
    batches = evaluation_batches(
        whole, Split.TEST, max_history=config.data.max_history, batch_size=config.evaluation.batch_size
    )
    score = recommender.score_function()
    output = evaluate(score, batches, num_items=now.num_items, cutoffs=(USER_CUTOFF,))
    # Users that `whole` evaluates are those with enough interactions, all of ours among them, in their order.
    is_new = output.users >= num_seen
    lengths = np.diff(whole.indptr)[output.users]
    peers = _peers(lengths[is_new], lengths[~is_new], seed=config.seed)
    return {
        "held_out": _report(output.ranks[is_new], cutoff=USER_CUTOFF, seed=config.seed),
        "seen": _report(output.ranks[~is_new][peers], cutoff=USER_CUTOFF, seed=config.seed),
        "seen_all": _report(output.ranks[~is_new], cutoff=USER_CUTOFF, seed=config.seed),
    }


def measure_items(recommender: Recommender, part: HeldOut, *, config: Config) -> dict[str, Any]:
    """Returns HR of held-out items and of items of the training with as many interactions."""
    run_data = recommender.interactions
    added, targets = _divide(part, seed=config.seed)
    recommender.add_interactions(added)
    user_rows = {user: row for row, user in enumerate(recommender.user_ids)}
    item_rows = {item: row for row, item in enumerate(recommender.item_ids)}
    # One row a target: what the user had before it, then the target.
    prefixes, owners = [], []
    for target in targets:
        history = part.whole.history(target.user)[: target.place + 1]
        prefixes.append([item_rows[name] for item in history if (name := part.whole.item_ids[item]) in item_rows])
        owners.append(user_rows[part.whole.user_ids[target.user]])
    kept = [number for number, prefix in enumerate(prefixes) if len(prefix) > 2]
    held_out = _rank(recommender, [prefixes[number] for number in kept], [owners[n] for n in kept], config=config)
    seen_rows = range(run_data.num_users)
    seen = _rank(recommender, [run_data.history(row).tolist() for row in seen_rows], seen_rows, config=config)

    added_degree = np.zeros(recommender.interactions.num_items, int)
    np.add.at(added_degree, [item_rows[item] for _, item, _ in added], 1)
    degree = np.bincount(run_data.without_last(2).items, minlength=run_data.num_items)
    of_target = added_degree[[prefixes[number][-1] for number in kept]]
    is_last = np.array([targets[number].is_last for number in kept])
    peers = _peers(of_target[is_last], degree[[run_data.history(row)[-1] for row in seen_rows]], seed=config.seed)
    return {
        "items": len({prefixes[number][-1] for number in kept}),
        "held_out": _report(held_out[is_last], cutoff=ITEM_CUTOFF, seed=config.seed),
        "seen": _report(seen[peers], cutoff=ITEM_CUTOFF, seed=config.seed),
        "held_out_anywhere": _report(held_out, cutoff=ITEM_CUTOFF, seed=config.seed),
        "seen_all": _report(seen, cutoff=ITEM_CUTOFF, seed=config.seed),
    }


class _Target(NamedTuple):
    """An interaction of `HeldOut.whole` with a held-out item: its user, its place in the history."""

    user: int
    place: int
    is_last: bool


def _divide(part: HeldOut, *, seed: int) -> tuple[list[tuple], list[_Target]]:
    """Returns the rows of held-out items to add, and the targets; an item with one interaction is no target."""
    rng = np.random.default_rng((seed, 6))
    whole = part.whole
    lengths = np.diff(whole.indptr)
    users = np.repeat(np.arange(whole.num_users), lengths)
    places = np.arange(len(users)) - whole.indptr[users]
    is_last = places == lengths[users] - 1
    ours = np.flatnonzero(np.isin(whole.items, part.items) & part.known_users[users])
    ours = ours[np.argsort(whole.items[ours], kind="stable")]
    added, targets = [], []
    for rows in np.split(ours, np.flatnonzero(np.diff(whole.items[ours])) + 1):
        shuffled = rng.permutation(rows)
        # The last ones of their users first.
        shuffled = shuffled[np.argsort(~is_last[shuffled], kind="stable")]
        count = min(max(round(TARGETS * len(rows)), int(is_last[rows].sum()), 1), len(rows) - 1)
        targets += [_Target(int(users[row]), int(places[row]), bool(is_last[row])) for row in shuffled[:count]]
        times = whole.timestamps
        added += [
            (whole.user_ids[users[row]], whole.item_ids[whole.items[row]], None if times is None else int(times[row]))
            for row in np.sort(shuffled[count:])
        ]
    return added, targets


def _rank(
    recommender: Recommender, histories: list[list[int]], users: Any, *, config: Config
) -> Int[np.ndarray, " histories"]:
    """Returns the rank of the last item of each history after the items before it; at least three items each.

    Args:
      recommender: ranks.
      histories: rows of items.
      users: row of the user of each history.
      config: of the run.
    """
    now = recommender.interactions
    owners = np.asarray(users, np.int32)
    data = Interactions(
        name=now.name,
        indptr=np.append(0, np.cumsum([len(history) for history in histories])),
        items=np.concatenate(histories).astype(np.int32),
        user_ids=tuple(str(row) for row in range(len(histories))),
        item_ids=now.item_ids,
    )
    batches = evaluation_batches(
        data, Split.TEST, max_history=config.data.max_history, batch_size=config.evaluation.batch_size
    )
    score = recommender.score_function()

    def score_owners(batch: EvaluationBatch) -> Any:
        return score(dataclasses.replace(batch, user=owners[np.asarray(batch.user)]))

    return evaluate(score_owners, batches, num_items=now.num_items, cutoffs=(ITEM_CUTOFF,)).ranks


def _peers(
    wanted: Int[np.ndarray, " held_out"], offered: Int[np.ndarray, " seen"], *, seed: int
) -> Int[np.ndarray, "held_out peers"]:
    """Returns for each number the places of those `PEERS` in `offered` that are nearest to it, ties at random."""
    order = np.random.default_rng((seed, 7)).permutation(len(offered))
    distances = np.abs(wanted[:, None] - offered[order][None])
    return order[np.argsort(distances, axis=1, kind="stable")[:, :PEERS]]


def _report(ranks: Int[np.ndarray, "held_out *peers"], *, cutoff: int, seed: int) -> dict[str, Any]:
    """Returns HR and NDCG at a cutoff, and the middle 95 % of HR when those held out are drawn again (bootstrap)."""
    ranks = ranks.reshape(len(ranks), -1)
    hits = np.mean(ranks <= cutoff, axis=1)
    gains = np.mean((ranks <= cutoff) / np.log2(ranks + 1.0), axis=1)
    return {
        "count": len(ranks),
        f"hr@{cutoff}": float(hits.mean()),
        f"hr@{cutoff}_interval": _interval(hits, seed=seed),
        f"ndcg@{cutoff}": float(gains.mean()),
    }


def _interval(values: Float[np.ndarray, " held_out"], *, seed: int) -> list[float]:
    drawn = np.random.default_rng((seed, 8)).integers(0, len(values), (2000, len(values)))
    return np.quantile(values[drawn].mean(axis=1), [0.025, 0.975]).tolist()
