"""The same list for everybody: items by number of training interactions."""

from collections.abc import Callable

import numpy as np

from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.types import EvaluationBatch


def popularity(train: Interactions) -> Callable[[EvaluationBatch], np.ndarray]:
    """Returns a score function that scores an item with its number of training interactions.

    Args:
      train: `interactions.without_last(2)`. Counting the validation items as well would be allowed on the
        test split, but then the validation split would need another model.
    """
    counts = np.bincount(train.items, minlength=train.num_items).astype(np.float32)

    def score(batch: EvaluationBatch) -> np.ndarray:
        return np.broadcast_to(counts, (len(batch.target), len(counts)))

    return score
