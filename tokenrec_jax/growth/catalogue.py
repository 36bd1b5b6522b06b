"""The host's half of a grown state: original ids, histories, the edges of the graph, titles, removed items.

Read `Catalogue.with_rows`: it is what happens to interactions that are added. Vectors are in `tables.py`.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from tokenrec_jax.data.interactions import Interactions, in_words
from tokenrec_jax.growth.rows import Items, Rows, read_ids
from tokenrec_jax.types import DataError

#: Of an item of which nothing is said, by the attribute of `Catalogue`.
_NOTHING = {"titles": "", "attributes": (), "texts": ""}


class IdMap:
    """Original ids and their rows; only ever appended to, so that older catalogues can share it with newer ones.

    A reader of an older catalogue gives the number of ids that it knows.
    """

    def __init__(self, ids: Iterable[str], *, kind: str, source: str):
        """Numbers ids from 0; `kind` and `source` (name of the data set) are for errors."""
        self.ids = list(ids)
        self._rows = {name: row for row, name in enumerate(self.ids)}
        self._kind, self._source = kind, source

    def row(self, name: str, *, count: int) -> int:
        """Returns the row of an id among the first `count`.

        Raises:
          DataError: it has none.
        """
        row = self._rows.get(name, count)
        if row >= count:
            raise DataError(
                f"{self._kind} {name!r}: not among the {count} {self._kind}s of {self._source}; "
                f"ids look like {self.ids[0]!r}"
            )
        return row

    def add(self, names: Sequence[str]) -> Int[np.ndarray, " names"]:
        """Returns the rows of ids; unknown ones get the next rows in the order in which they come."""
        for name in dict.fromkeys(names):
            if name not in self._rows:
                # The list first: whoever finds the row finds its name.
                self.ids.append(name)
                self._rows[name] = len(self.ids) - 1
        return np.fromiter((self._rows[name] for name in names), np.int64, count=len(names))

    def truncate(self, count: int) -> None:
        """Forgets all ids but the first `count`."""
        for name in self.ids[count:]:
            del self._rows[name]
        del self.ids[count:]


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """Users, items and interactions that a recommender knows; immutable.

    A catalogue is a function of the run and of the added rows one after another: however a log is cut into batches, the
    result is the same. A row whose user has the item already changes nothing.

    The graph holds what the run's vectors rest on and all added interactions. Where they rest on the training alone,
    the newest interactions of a user, which the run was validated and tested with, stand in histories only.

    Attributes:
      run: the data set of the run.
      user_map, item_map: original ids; the first `num_users` and `num_items` of them count.
      titles, attributes, texts: of the items, empty where unknown; shared like the maps.
      indptr, items, times: histories, oldest first; seconds since 1970, 0 where unknown.
      edge_users, edge_items: interactions of the graph, those of the run first, then the others as they came.
      removed: items that are never recommended.
    """

    run: Interactions
    user_map: IdMap
    item_map: IdMap
    titles: list[str]
    attributes: list[tuple[str, ...]]
    texts: list[str]
    num_users: int
    num_items: int
    indptr: Int[np.ndarray, " users_plus_one"]
    items: Int[np.ndarray, " interactions"]
    times: Int[np.ndarray, " interactions"]
    edge_users: Int[np.ndarray, " edges"]
    edge_items: Int[np.ndarray, " edges"]
    removed: Bool[np.ndarray, " items"]

    @classmethod
    def of_run(cls, run: Interactions, *, graph: Interactions) -> "Catalogue":
        """Returns the catalogue of a run's data set, nothing added; `graph` is what its vectors rest on."""
        return cls(
            run=run,
            user_map=IdMap(run.user_ids, kind="user", source=run.name),
            item_map=IdMap(run.item_ids, kind="item", source=run.name),
            titles=list(run.item_titles or [""] * run.num_items),
            attributes=list(run.item_attributes or [()] * run.num_items),
            texts=list(run.item_texts or [""] * run.num_items),
            num_users=run.num_users,
            num_items=run.num_items,
            indptr=run.indptr.astype(np.int64),
            items=run.items.astype(np.int32),
            times=np.zeros(len(run.items), np.int64) if run.timestamps is None else run.timestamps.astype(np.int64),
            edge_users=np.repeat(np.arange(run.num_users), np.diff(graph.indptr)),
            edge_items=graph.items.astype(np.int64),
            removed=np.zeros(run.num_items, bool),
        )

    @functools.cached_property
    def interactions(self) -> Interactions:
        """Everything as one data set, in the rows of the tables. New users may have fewer than three interactions."""
        titles, attributes, texts = (tuple(each[: self.num_items]) for each in self.said.values())
        return dataclasses.replace(
            self.run,
            indptr=self.indptr,
            items=self.items,
            user_ids=tuple(self.user_map.ids[: self.num_users]),
            item_ids=tuple(self.item_map.ids[: self.num_items]),
            timestamps=None if self.run.timestamps is None else self.times,
            item_titles=titles if any(titles) or self.run.item_titles is not None else None,
            item_attributes=attributes if any(attributes) or self.run.item_attributes is not None else None,
            item_texts=texts if any(texts) or self.run.item_texts is not None else None,
        )

    def in_words(self, first: int) -> list[str]:
        """Returns what is known in words of each item from row `first` on; see `Interactions.texts`."""
        return in_words(*(each[first : self.num_items] for each in self.said.values()))

    def history(self, user: int) -> Int[np.ndarray, " history"]:
        """Returns a view of a user's items, oldest first."""
        return self.items[self.indptr[user] : self.indptr[user + 1]]

    def user_row(self, user: str) -> int:
        """Returns the row of an original id; raises DataError if it is unknown."""
        return self.user_map.row(user, count=self.num_users)

    def item_rows(self, items: Iterable[str]) -> Int[np.ndarray, " items"]:
        """Returns the rows of original ids; raises DataError about the first unknown one."""
        return np.array([self.item_map.row(item, count=self.num_items) for item in items], np.int32)

    def session(self, items: Sequence[str], number: int) -> Int[np.ndarray, " history"]:
        """Returns the rows of a history that is nobody's, each item once, where it came first.

        Raises:
          DataError: it is empty or an item is unknown; says which history, by `number`.
        """
        names = dict.fromkeys(read_ids(items, f"history {number}", each=f"history {number}: item"))
        if not names:
            raise DataError(f"history {number}: is empty; allowed is one item or more")
        return self.item_rows(names)

    def with_removed(self, items: Int[np.ndarray, " removed"], *, removed: bool) -> "Catalogue":
        """Returns the catalogue with some items marked as removed, or as not."""
        marks = self.removed.copy()
        marks[items] = removed
        return dataclasses.replace(self, removed=marks)

    def with_rows(self, rows: Rows) -> "Catalogue":
        """Returns the catalogue with rows added; itself if it has them all and they name no item that had no title.

        A user's history stays in the order of time, rows of one second in the order in which they came. A row without a
        time is as new as the newest of its user before it; where the run's data has no times, all of its interactions
        are older than any added one. Ids are numbered in the order of their first row. An item's title is the first one
        that comes. Only one thread may add to catalogues of one run at a time.
        """
        users, items = self.user_map.add(rows.users), self.item_map.add(rows.items)
        num_users, num_items = len(self.user_map.ids), len(self.item_map.ids)
        said = self._with_said(items, titles=rows.titles)
        new = self._are_new(users, items, stride=num_items)
        if not new.any():
            return self if said["titles"] is self.titles else dataclasses.replace(self, **said)
        users, items, times = users[new], items[new], rows.timestamps[new]
        indptr = np.pad(self.indptr, (0, num_users - self.num_users), mode="edge")
        times = _fill_times(users, times, newest=self._newest(users))
        place, order = _insertions(users, times, indptr=indptr, existing=self.times)
        lengths = np.diff(indptr) + np.bincount(users, minlength=num_users)
        return dataclasses.replace(
            self,
            num_users=num_users,
            num_items=num_items,
            indptr=np.append(0, np.cumsum(lengths)),
            items=np.insert(self.items, place, items[order].astype(np.int32)),
            times=np.insert(self.times, place, times[order]),
            edge_users=np.append(self.edge_users, users),
            edge_items=np.append(self.edge_items, items),
            removed=np.pad(self.removed, (0, num_items - self.num_items)),
            **said,
        )

    def with_items(self, items: Items) -> "Catalogue":
        """Returns the catalogue with items that nobody has touched; itself if it knows them all."""
        rows = self.item_map.add(items.items)
        num_items = len(self.item_map.ids)
        if num_items == self.num_items:
            return self
        # Known ones stay as they are, those too that the same call has named before.
        first = np.unique(rows, return_index=True)[1]
        new = np.sort(first[rows[first] >= self.num_items])
        columns = {"titles": items.titles, "attributes": items.attributes, "texts": items.texts}
        said = self._with_said(rows[new], **{name: [column[at] for at in new] for name, column in columns.items()})
        removed = np.pad(self.removed, (0, num_items - self.num_items))
        return dataclasses.replace(self, num_items=num_items, removed=removed, **said)

    @property
    def said(self) -> dict[str, list[Any]]:
        """What is said of items, by the name of the attribute. A list changes only where it gets longer."""
        return {"titles": self.titles, "attributes": self.attributes, "texts": self.texts}

    def _with_said(self, items: Int[np.ndarray, " rows"], **given: Sequence[Any]) -> dict[str, list[Any]]:
        """Returns `said`, long enough for all items, after what is said of some: the first that comes is kept."""
        said = self.said
        for name, kept in said.items():
            kept.extend([_NOTHING[name]] * (len(self.item_map.ids) - len(kept)))
            column = zip(items.tolist(), given.get(name, ()), strict=name in given)
            news = [(item, value) for item, value in column if value and not kept[item]]
            if any(item < self.num_items for item, _ in news):
                # Others have it as it is, and the addition may fail yet.
                said[name] = kept = list(kept)
            for item, value in news:
                kept[item] = kept[item] or value
        return said

    def forget_later(self) -> None:
        """Undoes what catalogues made from this one have left in the shared maps; for additions that failed."""
        self.user_map.truncate(self.num_users)
        self.item_map.truncate(self.num_items)
        for kept in self.said.values():
            del kept[self.num_items :]

    def _are_new(
        self, users: Int[np.ndarray, " rows"], items: Int[np.ndarray, " rows"], *, stride: int
    ) -> Bool[np.ndarray, " rows"]:
        """Returns which rows are the first of their (user, item), histories included."""
        keys = users * stride + items
        known = np.unique(users[users < self.num_users])
        at = _ranges(self.indptr[known], self.indptr[known + 1])
        owners = np.repeat(known, self.indptr[known + 1] - self.indptr[known])
        new = np.zeros(len(keys), bool)
        new[np.unique(keys, return_index=True)[1]] = True
        return new & ~np.isin(keys, owners * stride + self.items[at])

    def _newest(self, users: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
        """Returns the time of the newest interaction of each row's user, 0 if there is none."""
        old = np.minimum(users, self.num_users - 1)
        has_any = (users < self.num_users) & (self.indptr[old + 1] > self.indptr[old])
        return np.where(has_any, self.times[self.indptr[old + 1] - 1], 0)


def _fill_times(
    users: Int[np.ndarray, " rows"], times: np.ndarray, *, newest: Int[np.ndarray, " rows"]
) -> Int[np.ndarray, " rows"]:
    """Returns whole seconds; a row without a time (NaN) gets the latest of its user's rows before it and `newest`."""
    missing = np.isnan(times)
    known = np.where(missing, 0, times).astype(np.int64)
    order = np.argsort(users, kind="stable")
    at_least = np.maximum(known, newest)[order]
    # One running maximum for all users: the ranks of a later user's rows lie above those of all before.
    values, ranks = np.unique(at_least, return_inverse=True)
    offset = np.unique(users[order], return_inverse=True)[1] * len(values)
    running = np.maximum.accumulate(ranks + offset) - offset
    latest = np.empty_like(known)
    latest[order] = values[running]
    return np.where(missing, latest, known)


def _insertions(
    users: Int[np.ndarray, " rows"],
    times: Int[np.ndarray, " rows"],
    *,
    indptr: Int[np.ndarray, " users_plus_one"],
    existing: Int[np.ndarray, " interactions"],
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]:
    """Returns (place, order): row order[n] goes before the existing interaction place[n], for `np.insert`."""
    affected, local = np.unique(users, return_inverse=True)
    start, end = indptr[affected], indptr[affected + 1]
    at = _ranges(start, end)
    owner = np.append(np.repeat(np.arange(len(affected)), end - start), local)
    # Stable: of equal times existing interactions come first, then rows as they came.
    merged = np.lexsort((np.append(existing[at], times), owner))
    is_new = merged >= len(at)
    existing_before = np.cumsum(~is_new)[is_new]
    order = merged[is_new] - len(at)
    first = np.cumsum(end - start) - (end - start)
    return start[local[order]] + existing_before - first[local[order]], order


def _ranges(start: Int[np.ndarray, " segments"], end: Int[np.ndarray, " segments"]) -> Int[np.ndarray, " total"]:
    """Returns start[0], …, end[0] - 1, start[1], … one after another."""
    lengths = end - start
    return np.repeat(start - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
