"""Which users and items a run never sees, and what is left for it to train on. Read `hold_out`.

How they are brought back and ranked is in `holdout.py`.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from tokenrec_jax.data.interactions import MIN_HISTORY, Interactions
from tokenrec_jax.types import ConfigError

#: How the users to hold out are chosen.
CHOICES = ("random", "activity")


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """A data set in two parts.

    Attributes:
      training: users and items that a run sees; all ids dense again.
      whole: the whole data set.
      users: users (of `whole`) that `training` lacks by choice, with `MIN_HISTORY` or more items that it has.
      items: items (of `whole`) that `training` lacks by choice, with users that it has.
    """

    training: Interactions
    whole: Interactions
    users: Int[np.ndarray, " users"]
    items: Int[np.ndarray, " items"]

    @property
    def known_users(self) -> Bool[np.ndarray, " users"]:
        """Which users of `whole` are in `training`."""
        return _are_among(self.whole.user_ids, self.training.user_ids)

    @property
    def known_items(self) -> Bool[np.ndarray, " items"]:
        """Which items of `whole` are in `training`."""
        return _are_among(self.whole.item_ids, self.training.item_ids)


def hold_out(interactions: Interactions, *, fraction: float, seed: int, by: str = "random") -> HeldOut:
    """Chooses users and items to hold out and returns both parts.

    A user whom too few interactions are left without the held-out items is in neither part, nor is an item that nobody
    is left to interact with.

    Args:
      interactions: the whole data set.
      fraction: share of the users, and of the items, to hold out.
      seed: decides which.
      by: one of `CHOICES`: "random" draws users; "activity" takes those with the fewest interactions, ties at random,
        the cold users of TokenRec's experiment on unseen users. Items are always drawn.

    Raises:
      ConfigError: the share is not between 0 and 1, or there is no such choice.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"--fraction={fraction:g}: allowed is above 0 and below 1")
    if by not in CHOICES:
        raise ConfigError(f"--by={by}: allowed are {', '.join(CHOICES)}")
    rng = np.random.default_rng((seed, 5))
    users = np.repeat(np.arange(interactions.num_users), np.diff(interactions.indptr))
    drawn_user = _draw(rng, interactions.num_users, fraction)
    if by == "activity":
        drawn_user = _least_active(rng, np.diff(interactions.indptr), count=int(drawn_user.sum()))
    drawn_item = _draw(rng, interactions.num_items, fraction)
    keep = ~drawn_user[users] & ~drawn_item[interactions.items]
    keep &= np.bincount(users[keep], minlength=interactions.num_users)[users] >= MIN_HISTORY
    training = _select(interactions, keep, users=users)
    part = HeldOut(training=training, whole=interactions, users=np.flatnonzero(drawn_user), items=np.array([], int))
    of_known_items = np.bincount(users[part.known_items[interactions.items]], minlength=interactions.num_users)
    of_known_users = np.bincount(interactions.items[part.known_users[users]], minlength=interactions.num_items)
    return dataclasses.replace(
        part,
        users=np.flatnonzero(drawn_user & (of_known_items >= MIN_HISTORY)),
        items=np.flatnonzero(drawn_item & (of_known_users >= 1)),
    )


def _are_among(ids: Sequence[str], others: Sequence[str]) -> Bool[np.ndarray, " ids"]:
    known = set(others)
    return np.array([one in known for one in ids], bool)


def _draw(rng: np.random.Generator, count: int, fraction: float) -> Bool[np.ndarray, " rows"]:
    drawn = np.zeros(count, bool)
    drawn[rng.choice(count, max(1, round(fraction * count)), replace=False)] = True
    return drawn


def _least_active(
    rng: np.random.Generator, lengths: Int[np.ndarray, " users"], *, count: int
) -> Bool[np.ndarray, " users"]:
    """Marks the `count` users with the fewest interactions, ties at random."""
    drawn = np.zeros(len(lengths), bool)
    drawn[np.lexsort((rng.random(len(lengths)), lengths))[:count]] = True
    return drawn


def _select(
    interactions: Interactions, keep: Bool[np.ndarray, " interactions"], *, users: Int[np.ndarray, " interactions"]
) -> Interactions:
    """Returns the data set of some interactions, without the users and items that have none of them."""
    user_rows, user = np.unique(users[keep], return_inverse=True)
    item_rows, item = np.unique(interactions.items[keep], return_inverse=True)
    titles, attributes, times = interactions.item_titles, interactions.item_attributes, interactions.timestamps
    texts = interactions.item_texts
    return Interactions(
        name=interactions.name,
        indptr=np.append(0, np.cumsum(np.bincount(user))),
        items=item.astype(np.int32),
        user_ids=tuple(interactions.user_ids[row] for row in user_rows),
        item_ids=tuple(interactions.item_ids[row] for row in item_rows),
        timestamps=None if times is None else times[keep],
        item_titles=None if titles is None else tuple(titles[row] for row in item_rows),
        item_attributes=None if attributes is None else tuple(attributes[row] for row in item_rows),
        item_texts=None if texts is None else tuple(texts[row] for row in item_rows),
    ).validated()
