"""Categorical values of items as numbers. Read `feature_table`.

Where the values come from is in the readers of the sources; the vectors that stand for them are learned, see
`models/item_features.py`.
"""

import collections
import dataclasses

import numpy as np
from jaxtyping import Int

from tokenrec_jax.types import PADDING

#: The most frequent values that are kept: a step multiplies a table of items by values.
MOST_VALUES = 4096

Values = tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class FeatureTable:
    """Which values there are, and which items have them.

    Attributes:
      names: the values, in the order of their numbers.
      width: values that an item has at most.
    """

    names: tuple[str, ...]
    width: int

    def encode(self, attributes: Values) -> Int[np.ndarray, "items width"]:
        """Returns the numbers of each item's values, int32, right-padded with `PADDING`; unknown values are left out.

        An item may have more known values than any item had when the table was made: the first ones count.
        """
        number = {name: place for place, name in enumerate(self.names)}
        table = np.full((len(attributes), self.width), PADDING, np.int32)
        for item, values in enumerate(attributes):
            known = [number[value] for value in values if value in number][: self.width]
            table[item, : len(known)] = known
        return table


def feature_table(attributes: Values, *, min_items: int) -> FeatureTable | None:
    """Returns the table of the `MOST_VALUES` most frequent values that enough items have; None where there is none.

    Args:
      attributes: values of each item.
      min_items: items that must have a value.
    """
    # Not through sets: ties go to the value that comes first, in every process.
    counts = collections.Counter(value for values in attributes for value in dict.fromkeys(values))
    names = tuple(value for value, count in counts.most_common(MOST_VALUES) if count >= min_items)
    if not names:
        return None
    known = set(names)
    return FeatureTable(names=names, width=max(len(known.intersection(values)) for values in attributes))
