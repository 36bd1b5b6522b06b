"""A recommender without a model: the most popular items that a user does not have; slow, and failing, when asked."""

import threading
import time

from tokenrec_jax.answers import Explanation, Neighbour, Recommendation
from tokenrec_jax.types import ConfigError, DataError


class FakeRecommender:
    """Keeps to `protocol.Recommends`; `calls` has what each `recommend` was given, `said` the content of new items."""

    def __init__(self, *, num_users: int = 20, num_items: int = 40, seconds: float = 0.0):
        self.seconds = seconds
        self.calls: list[dict] = []
        self.additions = 0
        self.said: list[tuple] = []
        self._titles = {f"i{n}": f"Thing {n} of Ångström" for n in range(num_items)}
        self._removed: set[str] = set()
        self._histories = {f"u{n}": [f"i{(n + step) % num_items}" for step in range(3)] for n in range(num_users)}
        self._lock = threading.Lock()

    @property
    def user_ids(self):
        return list(self._histories)

    @property
    def item_ids(self):
        return list(self._titles)

    def title(self, item):
        return self._titles[self._known(item, self._titles)]

    def history(self, user):
        return list(self._histories[self._known(user, self._histories)])

    def recommend(self, users=None, *, histories=None, k=10, exclude_seen=True, filter=None):
        self.calls.append({"users": users, "histories": histories, "k": k, "seen": exclude_seen, "filter": filter})
        if (users is None) == (histories is None):
            raise TypeError("exactly one of users and histories")
        time.sleep(self.seconds)
        with self._lock:
            for item in (*(filter or ()), *(item for history in histories or () for item in history)):
                self._known(item, self._titles)
            of_each = [self.history(user) for user in users] if histories is None else histories
            return [self._best(history if exclude_seen else (), k=k, allowed=filter) for history in of_each]

    def _best(self, seen, *, k, allowed):
        counts = {item: 0 for item in allowed or self._titles if item not in self._removed and item not in seen}
        for history in self._histories.values():
            for item in history:
                if item in counts:
                    counts[item] += 1
        best = sorted(counts, key=counts.get, reverse=True)[:k]
        return [Recommendation(item, self._titles[item], float(counts[item])) for item in best]

    def explain(self, user, item):
        near = [Neighbour(each, self._titles[each], 0.5, (True, False)) for each in self.history(user)]
        return Explanation(user, item, self.title(item), 0.75, (3, 7), tuple(near))

    def add_interactions(self, table):
        rows = list(zip(table["user"], table["item"], table["title"], strict=True))
        if any(user == "refused" for user, _, _ in rows):
            raise DataError("row 0: user 'refused' is refused")
        with self._lock:
            self.additions += 1
            for user, item, title in rows:
                self._titles[item] = self._titles.get(item) or title or ""
                history = self._histories.setdefault(user, [])
                if item not in history:
                    history.append(item)

    def add_items(self, items, *, titles, attributes, texts):
        if "refused" in items:
            raise DataError("add_items: item 'refused' is refused")
        if "unread" in items:
            raise ConfigError("llm.item_text=gone: no such model")
        with self._lock:
            self.said += zip(items, attributes, texts, strict=True)
            for item, title in zip(items, titles, strict=True):
                self._titles.setdefault(item, title or "")

    def remove_items(self, ids):
        with self._lock:
            for item in ids:
                self._known(item, self._titles)
            self._removed |= set(ids)

    def restore_items(self, ids):
        with self._lock:
            for item in ids:
                self._known(item, self._titles)
            self._removed -= set(ids)

    def _known(self, name, among):
        if name not in among:
            raise DataError(f"{name!r}: not known")
        return name
