"""What a `Recommender` answers with: plain data of original ids, no arrays."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """One recommended item.

    Attributes:
      item: original id.
      title: readable name, "" where the data has none.
      score: cosine between query and item.
    """

    item: str
    title: str
    score: float


@dataclasses.dataclass(frozen=True)
class Added:
    """What `Recommender.add_interactions` did.

    Attributes:
      interactions: rows that were new.
      duplicates: rows whose user had the item already; they changed nothing.
      users: original ids of new users, in the order of their rows.
      items: original ids of new items.
    """

    interactions: int
    duplicates: int
    users: tuple[str, ...]
    items: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """An item of a history beside a recommended one.

    Attributes:
      item: original id.
      title: readable name, "" where unknown.
      cosine: of the two items in the space of the queries.
      shared: whether both have the same code, for each book.
    """

    item: str
    title: str
    cosine: float
    shared: tuple[bool, ...]


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Why an item stands where it stands for a user.

    Attributes:
      user, item: original ids.
      title: of the item, "" where unknown.
      score: cosine between the user's query and the item.
      codes: of the item, one a book.
      nearest: items of the user's history, nearest to the item first; the item itself is not among them.
    """

    user: str
    item: str
    title: str
    score: float
    codes: tuple[int, ...]
    nearest: tuple[Neighbour, ...]
