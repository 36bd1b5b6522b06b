"""A made-up data set with planted structure, for tests and for a first run without any file.

Items belong to groups. A user walks around a ring of groups, stays a while in each, and there mostly takes
the item that follows the one before in the group's own order, else a popular item of the group. So a model of
co-occurrence learns the groups, a model of order learns who follows whom, and popularity alone knows neither.
Read `synthetic_interactions`.
"""

import numpy as np
from jaxtyping import Bool, Int

from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.types import ConfigError

_GROUP_SIZE = 12
_SHORTEST, _LONGEST = 6, 24  # interactions a user
_FOLLOW = 0.6  # probability of the item that follows the one before
_MOVE = 0.15  # probability of going on to the next group of the ring
_USERS_AT_ONCE = 4096
_FIRST_SECOND = 1_600_000_000
_HOUR = 3600
_MIN_ITEMS = 2 * _GROUP_SIZE


def synthetic_interactions(*, name: str, num_users: int, num_items: int, seed: int) -> Interactions:
    """Returns a data set that depends on the arguments only.

    Args:
      name: name of the data set in results.
      num_users: users, 1 or more; each has 6 to 24 interactions.
      num_items: items, 24 or more; an item may have no interaction.
      seed: seed of everything random, 0 or more.

    Raises:
      ConfigError: an argument is too small.
    """
    if num_users < 1 or num_items < _MIN_ITEMS or seed < 0:
        raise ConfigError(
            f"data.synthetic_users {num_users}, synthetic_items {num_items}, synthetic_seed {seed}; "
            f"at least 1, {_MIN_ITEMS} and 0 are due"
        )
    rng = np.random.default_rng(seed)
    num_groups = num_items // _GROUP_SIZE
    group = rng.permutation(np.arange(num_items) % num_groups)
    # Users come in chunks, so that memory stays small however many there are.
    chunks = [
        _walk(rng, group, num_users=min(_USERS_AT_ONCE, num_users - start))
        for start in range(0, num_users, _USERS_AT_ONCE)
    ]
    histories = np.concatenate(chunks)
    lengths = rng.integers(_SHORTEST, _LONGEST, num_users, endpoint=True)
    kept = np.arange(_LONGEST)[None, :] < lengths[:, None]
    starts = _FIRST_SECOND + rng.integers(0, 365 * 24, num_users) * _HOUR
    times = starts[:, None] + np.cumsum(rng.integers(1, 48, histories.shape) * _HOUR, axis=1)
    return Interactions(
        name=name,
        indptr=np.append(0, np.cumsum(lengths)),
        items=histories[kept].astype(np.int32),
        user_ids=tuple(f"user-{user}" for user in range(num_users)),
        item_ids=tuple(f"item-{item}" for item in range(num_items)),
        timestamps=times[kept],
        item_titles=tuple(f"Item {item} of group {label}" for item, label in enumerate(group)),
        item_attributes=tuple((f"group {label}",) for label in group),
    ).validated()


def _walk(
    rng: np.random.Generator, group: Int[np.ndarray, " items"], *, num_users: int
) -> Int[np.ndarray, "users history"]:
    """Returns full-length histories without repeats; all users take a step at a time."""
    # Items sorted by group: members[first[g] : first[g] + size[g]], most popular first. The next item in a
    # group's own order is `follower`, who comes `stride` ranks later, around the group.
    members = np.argsort(group, kind="stable")
    size = np.bincount(group)
    first = np.append(0, np.cumsum(size)[:-1])
    place = np.argsort(members)  # of each item among the members
    rank = place - first[group]
    stride = 5
    follower = members[first[group] + (rank + stride) % size[group]]

    user = np.arange(num_users)
    here = _skewed(rng, num_users, len(size))
    histories = np.full((num_users, _LONGEST), -1)
    for step in range(_LONGEST):
        here = np.where(rng.random(num_users) < _MOVE, (here + 1) % len(size), here)
        drawn = members[first[here] + _skewed(rng, num_users, size[here])]
        previous = histories[:, step - 1]
        follows = (rng.random(num_users) < _FOLLOW) & (step > 0) & (group[previous] == here)
        item = np.where(follows, follower[previous], drawn)
        taken = _contains(histories, item)
        while taken.any():
            # The next less popular item of the group, and of the groups after it when this one is used up.
            item = np.where(taken, members[(place[item] + 1) % len(members)], item)
            taken = _contains(histories, item)
        histories[user, step] = item
    return histories


def _skewed(rng: np.random.Generator, count: int, bound: int | Int[np.ndarray, " users"]) -> Int[np.ndarray, " users"]:
    """Returns ranks below a bound, small ones more often: half of them lie in the first eighth."""
    return (rng.random(count) ** 3 * bound).astype(np.int64)


def _contains(
    histories: Int[np.ndarray, "users history"], item: Int[np.ndarray, " users"]
) -> Bool[np.ndarray, " users"]:
    """Returns whether each user's history holds the item."""
    return (histories == item[:, None]).any(axis=1)
