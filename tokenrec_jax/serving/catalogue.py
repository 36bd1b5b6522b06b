"""Which ids are known, and search in ids and titles. Not what anybody likes. Read `Catalogue.find_items`."""

import bisect
import dataclasses
import itertools
from collections.abc import Iterable, Sequence

from tokenrec_jax.serving.log import Add, AddItem, Event, Remove, Restore
from tokenrec_jax.serving.protocol import Recommends


@dataclasses.dataclass(frozen=True)
class Named:
    """An id with its title, "" where it has none."""

    id: str
    title: str


class Catalogue:
    """The ids of a recommender, kept up to date by telling it every event. One thread tells, all may ask."""

    def __init__(self, recommender: Recommends):
        """Reads all ids and titles once."""
        self._recommender = recommender
        users, items = list(recommender.user_ids), list(recommender.item_ids)
        self._users = set(users)
        self._items = {item: recommender.title(item) for item in items}
        self._removed: set[str] = set()
        self._user_search = _Search(users, [""] * len(users))
        self._item_search = _Search(items, list(self._items.values()))
        self._new_users: dict[str, str] = {}
        self._new_items: dict[str, str] = {}

    @property
    def num_users(self) -> int:
        """How many users are known."""
        return len(self._users)

    @property
    def num_items(self) -> int:
        """How many items may be recommended."""
        return len(self._items) - len(self._removed)

    def has_user(self, user: str) -> bool:
        """Returns whether a user is known."""
        return user in self._users

    def has_item(self, item: str) -> bool:
        """Returns whether an item is known, removed or not."""
        return item in self._items

    def update(self, events: Iterable[Event]) -> None:
        """Follows what was done to the recommender."""
        for event in events:
            match event:
                case Remove(item):
                    self._removed.add(item)
                case Restore(item):
                    self._removed.discard(item)
                case Add(user, item):
                    if user not in self._users:
                        self._users.add(user)
                        self._new_users[user] = ""
                    self._name(item)
                case AddItem(item):
                    self._name(item)

    def _name(self, item: str) -> None:
        # A new item may get its title with a later interaction.
        if item not in self._items or self._new_items.get(item) == "":
            self._items[item] = self._new_items[item] = self._recommender.title(item)

    def find_users(self, text: str, *, limit: int, offset: int = 0) -> list[Named]:
        """Returns users whose id has `text` in it, in the order of the data."""
        found = itertools.chain(self._user_search.find(text), _find_few(self._new_users, text))
        return list(itertools.islice(found, offset, offset + limit))

    def find_items(self, text: str, *, limit: int, offset: int = 0) -> list[Named]:
        """Returns items whose id or title has `text` in it, whatever the case, in the order of the data.

        Removed ones are not among them.
        """
        rows = itertools.chain(self._item_search.find(text), _find_few(self._new_items, text))
        found = (named for named in rows if named.id not in self._removed)
        return list(itertools.islice(found, offset, offset + limit))


class _Search:
    """Substring search over many short texts: one text with a line a row, which the C library searches."""

    def __init__(self, ids: Sequence[str], titles: Sequence[str]):
        self._ids, self._titles = ids, titles
        lines = [_line(*pair) for pair in zip(ids, titles, strict=True)]
        self._text = "\n".join(lines)
        self._starts = list(itertools.accumulate((len(line) + 1 for line in lines[:-1]), initial=0))

    def find(self, text: str) -> Iterable[Named]:
        """Yields the rows that hold `text`."""
        if not self._ids:
            return
        text, position = _line(text, "").rstrip("\t"), 0
        while (position := self._text.find(text, position)) >= 0:
            row = bisect.bisect_right(self._starts, position) - 1
            yield Named(self._ids[row], self._titles[row])
            if row + 1 == len(self._starts):
                return
            position = self._starts[row + 1]


def _line(name: str, title: str) -> str:
    return f"{name}\t{title}".casefold().replace("\n", " ")


def _find_few(names: dict[str, str], text: str) -> Iterable[Named]:
    wanted = text.casefold()
    # A copy: another thread may add one.
    return (Named(name, title) for name, title in list(names.items()) if wanted in f"{name}\t{title}".casefold())
