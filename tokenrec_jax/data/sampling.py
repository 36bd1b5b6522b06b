"""Random choices of the training data: order of examples and negatives. Pure numpy, seeded, random access.

Read `EpochOrder` for how a step number becomes example indices, and `NegativeSampler` for negatives.
"""

import functools

import numpy as np
from jaxtyping import Int

from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.types import DataError


class EpochOrder:
    """An endless sequence of epochs, each a permutation of `size` examples, addressable by position.

    Any slice can be computed from (seed, position) alone, so a data position is one integer and a resumed run sees
    the examples that the interrupted one would have seen.
    """

    def __init__(self, size: int, *, seed: int):
        """Prepares an order of `size` >= 1 examples."""
        self._size = size
        self._seed = seed
        # Two epochs: a batch may reach from one into the next.
        self._permutation = functools.lru_cache(maxsize=2)(self._draw)

    def _draw(self, epoch: int) -> Int[np.ndarray, " size"]:
        return np.random.default_rng((self._seed, epoch)).permutation(self._size)

    def slice(self, start: int, count: int) -> Int[np.ndarray, " batch"]:
        """Returns the example indices at positions start .. start + count - 1."""
        parts, stop = [], start + count
        while start < stop:
            epoch, offset = divmod(start, self._size)
            part = self._permutation(epoch)[offset : offset + stop - start]
            parts.append(part)
            start += len(part)
        return np.concatenate(parts)


class NegativeSampler:
    """Draws items uniformly among those that a user has no training interaction with."""

    def __init__(self, interactions: Interactions):
        """Indexes the training interactions.

        Raises:
          DataError: a user has interacted with every item, so that no negative exists.
        """
        lengths = np.diff(interactions.indptr)
        if interactions.num_users and lengths.max() >= interactions.num_items:
            user = interactions.user_ids[int(lengths.argmax())]
            raise DataError(
                f"{interactions.name}: user {user} has interacted with all {interactions.num_items} items; "
                "a negative needs at least one item without interaction"
            )
        self._num_items = interactions.num_items
        users = np.repeat(np.arange(interactions.num_users, dtype=np.int64), lengths)
        self._positives = np.sort(users * interactions.num_items + interactions.items)
        self._lengths = lengths
        self._starts = interactions.indptr[:-1]

    def is_positive(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Returns where (user, item) is a training interaction; any shape, broadcast together."""
        keys = users.astype(np.int64) * self._num_items + items
        found = np.searchsorted(self._positives, keys)
        return self._positives[np.minimum(found, len(self._positives) - 1)] == keys

    def sample(self, users: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
        """Returns one negative for each entry of `users` (any shape), int32.

        Exact in one pass, without rejection: draw r below the number of the user's negatives and return the r-th
        item that is not a positive. That item is r + c, where c counts the positives that it must step over: c is
        the number of sorted positives p_j of the user with p_j - j <= r, found by bisection on all rows at once.
        """
        flat = users.reshape(-1).astype(np.int64)
        rank = rng.integers(0, self._num_items - self._lengths[flat])
        base = flat * self._num_items
        low, high = np.zeros_like(flat), self._lengths[flat].copy()
        while (low < high).any():
            middle = (low + high) // 2
            at = np.minimum(self._starts[flat] + middle, len(self._positives) - 1)
            steps_over = (self._positives[at] - base - middle <= rank) & (low < high)
            low = np.where(steps_over, middle + 1, low)
            high = np.where(steps_over | (low >= high), high, middle)
        return (rank + low).astype(np.int32).reshape(users.shape)
