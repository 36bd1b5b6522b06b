"""Which ids are known, and search in ids and titles. Not what anybody likes. Read `Catalogue.find_items`."""

import bisect
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

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
        # Titles of items of the run that had none.
        self._late_titles: dict[str, str] = {}

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
        # An item may get its title with a later interaction.
        if not self._items.get(item):
            known, title = item in self._items, self._recommender.title(item)
            self._items[item] = title
            if not known or item in self._new_items:
                self._new_items[item] = title
            elif title:
                self._late_titles[item] = title

    def find_users(self, text: str, *, limit: int, offset: int = 0) -> list[Named]:
        """Returns users whose id has `text` in it, in the order of the data, then new ones."""
        found = itertools.chain(self._user_search.find(text), _find_few(self._new_users, text))
        return [Named(user, "") for user in itertools.islice(found, offset, offset + limit)]

    def find_items(self, text: str, *, limit: int, offset: int = 0) -> list[Named]:
        """Returns items whose id or title has `text` in it, whatever the case, in the order of the data, then new ones.

        Removed ones are not among them.
        """
        wanted = text.casefold()
        # By their ids they are found already.
        late = (item for item in _find_few(self._late_titles, text) if wanted not in item.casefold())
        found = itertools.chain(self._item_search.find(text), late, _find_few(self._new_items, text))
        if self._removed:
            found = (item for item in found if item not in self._removed)
        return [Named(item, self._items[item]) for item in itertools.islice(found, offset, offset + limit)]


class _Search:
    """Substring search over many short texts: one text with a line a row, which the C library searches."""

    def __init__(self, ids: Sequence[str], titles: Sequence[str]):
        self._ids = ids
        lines = [_line(*pair) for pair in zip(ids, titles, strict=True)]
        self._text = "\n".join(lines)
        self._starts = list(itertools.accumulate((len(line) + 1 for line in lines[:-1]), initial=0))

    def find(self, text: str) -> Iterable[str]:
        """Returns the ids of the rows that hold `text`, found as they are asked for."""
        wanted = _line(text, "").rstrip("\t")
        return self._find(wanted) if wanted else self._ids

    def _find(self, wanted: str) -> Iterator[str]:
        position = 0
        while self._ids and (position := self._text.find(wanted, position)) >= 0:
            row = bisect.bisect_right(self._starts, position) - 1
            yield self._ids[row]
            if row + 1 == len(self._starts):
                return
            position = self._starts[row + 1]


def _line(name: str, title: str) -> str:
    return f"{name}\t{title}".casefold().replace("\n", " ")


def _find_few(titles: dict[str, str], text: str) -> Iterable[str]:
    """Returns the ids of those whose id or title holds `text`."""
    wanted = text.casefold()
    # A copy: another thread may add one.
    return (name for name, title in list(titles.items()) if wanted in f"{name}\t{title}".casefold())
