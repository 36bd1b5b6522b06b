"""The leave-one-out protocol: whom we rank, on which item, and what may be known about them at that moment.

Train on all but the last two items of a user, choose a model on the second last, report on the last.
Everything older than the target may be read, so the test split sees the validation item. When a history is
cut its *newest* items stay, and every older item, cut or not, is excluded from the ranking.

Differs: the reference code keeps the oldest 51 items, ranks against items still in the history and selects on
test; `comparability.py` can do so too.
"""

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from jaxtyping import Int

from tokenrec_jax.data.interactions import MIN_HISTORY, Interactions
from tokenrec_jax.types import PADDING, ConfigError, EvaluationBatch, Split

#: The seen lists are padded to a multiple of this, so that one more interaction rarely means one more
#: compilation.
SEEN_MULTIPLE = 64


def evaluation_batches(
    interactions: Interactions, split: Split, *, max_history: int, batch_size: int
) -> "EvaluationBatches":
    """Returns the batches of a split: every user with `MIN_HISTORY` interactions or more, once, by id.

    Args:
      interactions: whole histories, held-out items included.
      split: `VALID` targets the second last item of a user, `TEST` the last.
      max_history: length of `EvaluationBatch.history`; newest items stay.
      batch_size: users a batch; the last one is filled up with rows of padding.

    Raises:
      ConfigError: `max_history` or `batch_size` is below 1.
    """
    return EvaluationBatches(interactions, split, max_history=max_history, batch_size=batch_size)


class EvaluationBatches(Sequence[EvaluationBatch]):
    """Batches of int32 NumPy arrays, all of one shape, made when they are asked for.

    The shape is that of both splits, so that they share one compilation. A slice is a list of batches.

    Attributes:
      users: ids of the users that are evaluated, ascending.
      num_seen: length of `EvaluationBatch.seen`: the longest list of any user, rounded up.
    """

    def __init__(self, interactions: Interactions, split: Split, *, max_history: int, batch_size: int):
        for name, value in (("max_history", max_history), ("batch_size", batch_size)):
            if value < 1:
                raise ConfigError(f"{name}: got {value}; allowed is 1 or more")
        lengths = np.diff(interactions.indptr)
        self.users: Int[np.ndarray, " users"] = np.flatnonzero(lengths >= MIN_HISTORY)
        longest = int(lengths.max(initial=MIN_HISTORY)) - 1
        self.num_seen = -(-longest // SEEN_MULTIPLE) * SEEN_MULTIPLE
        self._interactions = interactions
        self._start = interactions.indptr[:-1]
        # Where the target stands in `items`, which is also where the items before it end.
        self._target = interactions.indptr[1:] - (1 if split is Split.TEST else 2)
        self._max_history = max_history
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.users) // self._batch_size)

    @overload
    def __getitem__(self, index: int) -> EvaluationBatch: ...
    @overload
    def __getitem__(self, index: slice) -> list[EvaluationBatch]: ...
    def __getitem__(self, index: int | slice) -> EvaluationBatch | list[EvaluationBatch]:
        if isinstance(index, slice):
            return [self._batch(number) for number in range(*index.indices(len(self)))]
        return self._batch(range(len(self))[index])

    def _batch(self, number: int) -> EvaluationBatch:
        users = self.users[number * self._batch_size : (number + 1) * self._batch_size]
        filling = self._batch_size - len(users)
        # Filling rows are users without items: start and end are both 0.
        start = np.pad(self._start[users], (0, filling))
        end = np.pad(self._target[users], (0, filling))
        newest = np.maximum(start, end - self._max_history)
        target = np.pad(self._interactions.items[self._target[users]], (0, filling), constant_values=PADDING)
        # Host arrays, where the annotations of the batch name the arrays of the device that they become.
        arrays: dict[str, Any] = {
            "user": np.pad(users, (0, filling)).astype(np.int32),
            "history": self._interactions.padded(newest, end, width=self._max_history),
            "seen": self._interactions.padded(start, end, width=self.num_seen),
            "target": target.astype(np.int32),
        }
        return EvaluationBatch(**arrays)
