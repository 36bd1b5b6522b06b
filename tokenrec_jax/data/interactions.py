"""The one in-memory form of a data set: every user's history as compressed sparse rows, with id maps and item texts.

Files and formats live in `sources.py`; the prepared ArrayRecord form in `tfds_builders.py`.
"""

import dataclasses

import numpy as np
from jaxtyping import Int


@dataclasses.dataclass(frozen=True)
class Interactions:
    """Histories of all users, oldest first; immutable and validated when made.

    Attributes:
      name: name of the data set, for results.
      indptr: user u owns items[indptr[u] : indptr[u + 1]].
      items: dense item ids, 0 <= id < num_items.
      user_ids: original id of each user.
      item_ids: original id of each item.
      timestamps: seconds since 1970 of each interaction, or None where the source has no times.
      item_titles: readable name of each item ("" where unknown), or None.
      item_attributes: categorical values of each item, for example brand and categories, or None.
      dropped: rows that the source left out, by reason, for the report.
    """

    name: str
    indptr: Int[np.ndarray, " users_plus_one"]
    items: Int[np.ndarray, " interactions"]
    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    timestamps: Int[np.ndarray, " interactions"] | None = None
    item_titles: tuple[str, ...] | None = None
    item_attributes: tuple[tuple[str, ...], ...] | None = None
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def num_users(self) -> int:
        """Number of users."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """Number of items."""
        return len(self.item_ids)

    def history(self, user: int) -> Int[np.ndarray, " history"]:
        """Returns a view of a user's items, oldest first."""
        return self.items[self.indptr[user] : self.indptr[user + 1]]

    def without_last(self, count: int) -> "Interactions":
        """Returns the data set without the newest `count` interactions of each user.

        `without_last(2)` is what may be trained on: the last item is the test target, the one before it the
        validation target.
        """
        lengths = np.maximum(np.diff(self.indptr) - count, 0)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        position = np.arange(len(self.items)) - np.repeat(self.indptr[:-1], np.diff(self.indptr))
        keep = position < np.repeat(lengths, np.diff(self.indptr))
        times = None if self.timestamps is None else self.timestamps[keep]
        return dataclasses.replace(self, indptr=indptr, items=self.items[keep], timestamps=times)
