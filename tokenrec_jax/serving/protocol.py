"""What the server asks of a recommender; `recommender.Recommender` has it, and so have the tests' fakes."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from tokenrec_jax.answers import Explanation, Recommendation


@runtime_checkable
class Recommends(Protocol):
    """A recommender that may be called from several threads at once. Unknown ids raise DataError."""

    @property
    def user_ids(self) -> Sequence[str]:
        """Original ids of all users."""
        ...

    @property
    def item_ids(self) -> Sequence[str]:
        """Original ids of all items, removed ones included."""
        ...

    def title(self, item: str) -> str:
        """Returns the readable name of an item, "" where the data has none."""
        ...

    def history(self, user: str) -> Sequence[str]:
        """Returns the items of a user, oldest first."""
        ...

    def recommend(
        self,
        users: Sequence[str] | None = None,
        *,
        histories: Sequence[Sequence[str]] | None = None,
        k: int = 10,
        exclude_seen: bool = True,
        filter: Sequence[str] | None = None,
    ) -> Sequence[Sequence[Recommendation]]:
        """Returns the best items of each user or of each history, best first; `filter` names all that are allowed."""
        ...

    def explain(self, user: str, item: str) -> Explanation:
        """Returns how an item relates to what a user did."""
        ...

    def add_interactions(self, table: Mapping[str, Sequence[Any]]) -> Any:
        """Takes columns of new interactions; those that it has already change nothing."""
        ...

    def add_items(
        self,
        items: Sequence[str],
        *,
        titles: Sequence[str | None] | None = None,
        attributes: Sequence[Sequence[str] | None] | None = None,
        texts: Sequence[str | None] | None = None,
    ) -> Any:
        """Takes new items and what is said of them; those that it has already stay as they are."""
        ...

    def remove_items(self, ids: Sequence[str]) -> Any:
        """Recommends these items never again; they stay known. Those that are removed already change nothing."""
        ...

    def restore_items(self, ids: Sequence[str]) -> Any:
        """Undoes `remove_items`. Items that were not removed change nothing."""
        ...
