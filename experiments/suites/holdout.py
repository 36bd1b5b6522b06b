"""Users and items held out of all training, brought back by `Recommender.add_interactions` alone, and ranked.

Read `measure`. Which ones are held out is decided in `holdout_split.py`. Leave-one-out, full ranking, seen items left
out, ties against us, as everywhere:

  users   all but the last item of a held-out user are added; the last is the target. Beside them the users of the
          training that have about as many interactions; their last item was never trained on either.
  items   a held-out item's interactions that are the last of their users are targets, and a fifth of it at any place;
          the others, at least one, are added. Beside them the last items of the training's users, those that have
          about as many interactions in training: compare with targets that are last too, for where a target stands
          matters more than whether its item was held out. Every target, of either kind, is ranked after all that its
          user had before it, held-out items among them. What the additions cost is told by the last items of the
          training's users before them, each ranked after what the training has of its user.

Targets of one item share its vector, so intervals are of items drawn again, see `holdout_ranks.report`.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from jaxtyping import Int

from experiments.evaluation import batches_of
from experiments.suites.holdout_ranks import rank_last, report
from experiments.suites.holdout_split import HeldOut, hold_out
from experiments.suites.holdout_untouched import measure_untouched
from experiments.training import LEFT_OUT, run
from tokenrec_jax.config import Config
from tokenrec_jax.data.sources import load_interactions
from tokenrec_jax.evaluation.comparability import protocol_interactions
from tokenrec_jax.evaluation.evaluator import evaluate
from tokenrec_jax.recommender import Recommender
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import ConfigError, Split

#: Users of the training that each held-out user is compared with, and targets for each target.
PEERS = 20

#: Share of a held-out item's interactions that are targets wherever they stand.
TARGETS = 0.2

USER_CUTOFF, ITEM_CUTOFF = 10, 50


def measure(config: Config, workdir: Workdir, *, fraction: float, by: str = "random") -> dict[str, Any]:
    """Trains on what is left, or goes on with it, then returns how those held out fare beside those seen.

    Args:
      config: of the run.
      workdir: of the run; a finished one is measured again.
      fraction: share of users, and of items, to hold out.
      by: how the users are chosen, see `hold_out`.

    Raises:
      ConfigError: the run there was trained without others, or the protocol is `reference`, which trains on its
        targets, as runs that hold out less than two items a user do, or the graph is `known`, which holds them.
    """
    if config.evaluation.graph != "training":
        raise ConfigError(f"evaluation.graph is {config.evaluation.graph!r}; allowed here: training")
    if config.evaluation.protocol == "reference":
        raise ConfigError("evaluation.protocol is 'reference'; allowed here: honest, ties_shuffled")
    if config.evaluation.held_out != 2:
        raise ConfigError(f"evaluation.held_out is {config.evaluation.held_out}; allowed here: 2")
    whole = protocol_interactions(load_interactions(config.data), config.evaluation.protocol, config.seed)
    part = hold_out(whole, fraction=fraction, seed=config.seed, by=by)
    if workdir.begun and not part.training.same_histories(workdir.interactions()):
        raise ConfigError(
            f"--workdir={workdir.path}: the run there has others held out than --fraction={fraction} --by={by}; "
            "give the flags that it was begun with, or another --workdir"
        )
    if not workdir.finished:
        # Other trainings that find them know that something is missing.
        dropped = whole.dropped | {LEFT_OUT: len(whole.items) - len(part.training.items)}
        training = dataclasses.replace(part.training, dropped=dropped)
        run(config, workdir, interactions=training, left_out={"fraction": fraction, "by": by})
    logging.info("held out: %d users, %d items; bringing them back", len(part.users), len(part.items))
    return {
        "dataset": part.whole.name,
        "seed": config.seed,
        "protocol": config.evaluation.protocol,
        "fraction": fraction,
        "by": by,
        "users": measure_users(Recommender.load(str(workdir.path)), part, config=config),
        "items": measure_items(Recommender.load(str(workdir.path)), part, config=config),
        "untouched_items": measure_untouched(Recommender.load(str(workdir.path)), part, config=config),
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
    batches = batches_of(whole, Split.TEST, config=config)
    score = recommender.score_function()
    output = evaluate(score, batches, num_items=now.num_items, cutoffs=(USER_CUTOFF,))
    # Users that `whole` evaluates are those with enough interactions, all of ours among them, in their order.
    is_new = output.users >= num_seen
    lengths = np.diff(whole.indptr)[output.users]
    old = np.flatnonzero(~is_new)
    groups = {
        "held_out": np.flatnonzero(is_new),
        "seen": old[_peers(lengths[is_new], lengths[old], seed=config.seed)],
        "seen_all": old,
    }
    return {
        name: report(output.ranks[rows], rows, unit="users", cutoff=USER_CUTOFF, seed=config.seed)
        for name, rows in groups.items()
    }


def measure_items(recommender: Recommender, part: HeldOut, *, config: Config) -> dict[str, Any]:
    """Returns HR of held-out items and of items of the training with as many interactions."""
    run_data = recommender.interactions
    added, targets = _divide(part, seed=config.seed)
    own = [run_data.history(row).tolist() for row in range(run_data.num_users)]
    before = rank_last(
        recommender.score_function(), run_data, own, owners=range(len(own)), config=config, cutoff=USER_CUTOFF
    )
    recommender.add_interactions(added)
    user_rows = {user: row for row, user in enumerate(recommender.user_ids)}
    item_rows = {item: row for row, item in enumerate(recommender.item_ids)}

    def up_to(target: _Target) -> list[int]:
        """Returns what the user had before it, then the target."""
        history = part.whole.history(target.user)[: target.place + 1]
        return [item_rows[name] for item in history if (name := part.whole.item_ids[item]) in item_rows]

    ranked = functools.partial(
        rank_last, recommender.score_function(), recommender.interactions, config=config, cutoff=ITEM_CUTOFF
    )
    kept = [(target, prefix) for target in targets if len(prefix := up_to(target)) > 2]
    prefixes, seen_prefixes = [prefix for _, prefix in kept], [up_to(target) for target in _last_of_training(part)]
    held_out = ranked(prefixes, owners=[user_rows[part.whole.user_ids[target.user]] for target, _ in kept])
    seen = ranked(seen_prefixes, owners=range(run_data.num_users))
    items, seen_items = (np.array([prefix[-1] for prefix in which], int) for which in (prefixes, seen_prefixes))

    added_degree = np.zeros(recommender.interactions.num_items, int)
    np.add.at(added_degree, [item_rows[item] for _, item, _ in added], 1)
    degree = np.bincount(run_data.without_last(2).items, minlength=run_data.num_items)
    is_last = np.array([target.is_last for target, _ in kept], bool)
    peers = _peers(added_degree[items[is_last]], degree[seen_items], seed=config.seed)
    told: dict[str, Any] = {"unit": "items", "cutoff": ITEM_CUTOFF, "seed": config.seed}
    first: dict[str, Any] = {**told, "cutoff": USER_CUTOFF}
    return {
        "items": len(np.unique(items)),
        "held_out": report(held_out[is_last], items[is_last], **told),
        "seen": report(seen[peers], seen_items[peers], **told),
        "held_out_anywhere": report(held_out, items, **told),
        "seen_all": report(seen, seen_items, **told),
        "seen_all_before_addition": report(before, seen_items, **first),
        "seen_all_after_addition": report(seen, seen_items, **first),
    }


class _Target(NamedTuple):
    """An interaction of `HeldOut.whole`: its user, its place in the history, whether it is the last there."""

    user: int
    place: int
    is_last: bool


def _last_of_training(part: HeldOut) -> list[_Target]:
    """Returns the last item that the training has of each of its users, in their order."""
    whole, training = part.whole, part.training
    user_rows = {name: row for row, name in enumerate(whole.user_ids)}
    item_rows = {name: row for row, name in enumerate(whole.item_ids)}
    targets = []
    for row, name in enumerate(training.user_ids):
        user = user_rows[name]
        history = whole.history(user).tolist()
        place = history.index(item_rows[training.item_ids[training.history(row)[-1]]])
        targets.append(_Target(user, place, place == len(history) - 1))
    return targets


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


def _peers(
    wanted: Int[np.ndarray, " held_out"], offered: Int[np.ndarray, " seen"], *, seed: int
) -> Int[np.ndarray, "held_out peers"]:
    """Returns for each number the places of those `PEERS` in `offered` that are nearest to it, ties at random."""
    order = np.random.default_rng((seed, 7)).permutation(len(offered))
    distances = np.abs(wanted[:, None] - offered[order][None])
    return order[np.argsort(distances, axis=1, kind="stable")[:, :PEERS]]
