"""Recommender, log, batchers and catalogue as one object; the only place where something changes.

Reads and writes are gathered apart, each with one thread. A write is first done to the recommender, which may refuse
it, then appended to the log together with the others of its batch, then acknowledged: so the log holds nothing that
cannot be replayed, and whoever has an acknowledgement finds it in the next answer and after any crash. Where the log
could not take a batch (a full disk), it takes that one before any other, for the recommender knows it already.
Read `Engine._record`. HTTP is in `app.py`.
"""

import dataclasses
import hashlib
import itertools
import time
from collections.abc import Sequence
from typing import Any

from absl import logging

from tokenrec_jax.answers import Recommendation
from tokenrec_jax.serving.batcher import Batcher, Full, Limits
from tokenrec_jax.serving.catalogue import Catalogue
from tokenrec_jax.serving.log import Add, AddItem, Event, InteractionLog, LogError, Remove, Restore
from tokenrec_jax.serving.metrics import Metrics
from tokenrec_jax.serving.protocol import Recommends
from tokenrec_jax.types import ConfigError, DataError

#: What k is rounded up to, so that few shapes are compiled and more requests share a batch.
K_STEPS = (16, 64, 256)
#: Events that are replayed in one call.
REPLAY_BATCH = 20_000
#: Waiting requests with events; each holds up to `wire.MAX_INTERACTIONS` or `wire.MAX_ITEMS`.
MAX_PENDING_WRITES = 256


@dataclasses.dataclass(frozen=True)
class Query:
    """One request for recommendations: exactly one of `user` and `history`.

    Attributes:
      user: a known user.
      history: known items, oldest first.
      k: how many items.
      exclude_seen: leave out the history.
      filter: the only items that may be recommended, None: all may.
    """

    user: str | None = None
    history: tuple[str, ...] | None = None
    k: int = 10
    exclude_seen: bool = True
    filter: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class _Shape:
    """What the queries of one batch have in common."""

    of_users: bool
    k: int
    exclude_seen: bool
    filter: tuple[str, ...] | None


class Engine:
    """What a server does, without HTTP. `start`, `close`, `recommend` and `record` belong to one event loop."""

    def __init__(self, recommender: Recommends, log: InteractionLog, *, limits: Limits, metrics: Metrics):
        """Brings the recommender to the state of the log.

        Raises:
          DataError: an event of the log does not fit the recommender.
          ConfigError: the language model that should read a text is not there.
        """
        self.catalogue = Catalogue(recommender)
        self.recommender = recommender
        self.log = log
        self.metrics = metrics
        self._unwritten: list[Event] = []
        self._replay()
        self._reads = Batcher[_Shape, Query, Sequence[Recommendation]](self._recommend, limits=limits, name="recommend")
        # The time of the fsync before is what gathers them.
        writes = Limits(batch=MAX_PENDING_WRITES, wait=0.0, pending=MAX_PENDING_WRITES)
        self._writes = Batcher[None, Sequence[Event], int](self._record, limits=writes, name="record")
        metrics.watch("queued_recommendations", "Requests that wait for recommendations.", lambda: self._reads.pending)
        metrics.watch("queued_writes", "Requests that wait to be written.", lambda: self._writes.pending)
        metrics.watch("users", "Known users.", lambda: self.catalogue.num_users)
        metrics.watch("items", "Items that may be recommended.", lambda: self.catalogue.num_items)
        metrics.watch("log_sequence", "Number of the last line of the log.", lambda: log.sequence)
        metrics.watch("log_bytes", "Size of the log.", lambda: log.size)

    def start(self) -> None:
        """Begins to work in the running event loop."""
        self._reads.start()
        self._writes.start()

    async def close(self) -> None:
        """Answers all that was taken, then closes the log."""
        await self._reads.close()
        await self._writes.close()
        if self._unwritten:
            try:
                self._write_down()
            except LogError as error:
                logging.error("%s; %d events that were never acknowledged are lost", error, len(self._unwritten))
        self.log.close()

    async def recommend(self, query: Query) -> Sequence[Recommendation]:
        """Returns at most k items, best first.

        Raises:
          DataError: an id is unknown.
          Full, Closed: try again later.
        """
        self.require(user=query.user, items=(*(query.history or ()), *(query.filter or ())))
        k = next(step for step in K_STEPS if step >= query.k)
        shape = _Shape(query.user is not None, k, query.exclude_seen, query.filter)
        try:
            found = await self._reads.submit(shape, query)
        except Full:
            self.metrics.refused.labels("recommend").inc()
            raise
        return found[: query.k]

    async def record(self, events: Sequence[Event]) -> int:
        """Takes events and returns the number of their line in the log once they are on the disk and in use.

        Raises:
          DataError: the recommender refuses them; none of them counts.
          ConfigError: the language model that should read a text is not there; none of them counts.
          LogError: they are not on the disk yet; tried again, they count once.
          Full, Closed: they are not taken; try again later.
        """
        try:
            return await self._writes.submit(None, events)
        except Full:
            self.metrics.refused.labels("record").inc()
            raise

    def require(self, *, user: str | None = None, items: Sequence[str] = ()) -> None:
        """Checks ids.

        Raises:
          DataError: one is unknown.
        """
        if user is not None and not self.catalogue.has_user(user):
            raise DataError(f"user {user!r}: not known")
        for item in items:
            if not self.catalogue.has_item(item):
                raise DataError(f"item {item!r}: not known")

    def _replay(self) -> None:
        started, count = time.perf_counter(), 0
        for events in self.log.batches(size=REPLAY_BATCH):
            try:
                self._apply(events, done=[])
            except (DataError, ConfigError) as error:
                raise type(error)(
                    f"{self.log.path}: {error}; one of events {count + 1} to {count + len(events)} does not fit the run"
                ) from None
            count += len(events)
        if count:
            logging.info("replayed %d events of %s in %.1f s", count, self.log.path, time.perf_counter() - started)

    def _recommend(self, shape: _Shape, queries: list[Query]) -> Sequence[Sequence[Recommendation] | Exception]:
        """Answers the queries of one batch, in the thread of the reads."""
        started = time.perf_counter()
        options: dict[str, Any] = {"k": shape.k, "exclude_seen": shape.exclude_seen, "filter": shape.filter}
        if shape.of_users:
            options["users"] = [query.user for query in queries]
        else:
            options["histories"] = [query.history for query in queries]
        try:
            found = self.recommender.recommend(**options)
        except DataError as error:
            # The recommender knows better than the check before; whose fault it is is found out one by one.
            if len(queries) == 1:
                return [error]
            return [self._recommend(shape, [query])[0] for query in queries]
        self.metrics.batch_size.labels("recommend").observe(len(queries))
        self.metrics.batch_seconds.labels("recommend").observe(time.perf_counter() - started)
        return found

    def _record(self, _: None, requests: list[Sequence[Event]]) -> list[int | Exception]:
        """Does, then writes down, the events of one batch, in the thread of the writes."""
        started = time.perf_counter()
        try:
            self._write_down()
        except LogError as error:
            return [error for _ in requests]
        refused = self._apply_requests(requests)
        outcome: int | Exception
        try:
            outcome = self._write_down()
        except LogError as error:
            logging.error("%s", error)
            outcome = error
        self.metrics.batch_size.labels("record").observe(len(requests))
        self.metrics.batch_seconds.labels("record").observe(time.perf_counter() - started)
        return [refused.get(number, outcome) for number in range(len(requests))]

    def _write_down(self) -> int:
        """Appends what was done but not written yet, and returns the number of the last line.

        Raises:
          LogError: the log does not take it, now or ever.
        """
        if self.log.broken:
            raise LogError(self.log.broken)
        if self._unwritten:
            self.log.append(self._unwritten)
            for kind, name in ((Add, "add"), (AddItem, "item"), (Remove, "remove"), (Restore, "restore")):
                self.metrics.events.labels(name).inc(sum(isinstance(event, kind) for event in self._unwritten))
            self._unwritten = []
        return self.log.sequence

    def _apply_requests(self, requests: list[Sequence[Event]]) -> dict[int, Exception]:
        """Does the events of requests and returns the errors of those that are refused or fail, by number."""
        try:
            self._apply([event for events in requests for event in events], done=self._unwritten)
            return {}
        except Exception as error:
            if len(requests) == 1:
                return {0: error}
        self._unwritten.clear()
        # Whose it was is found out one by one, from the start: what is done already changes nothing the second time,
        # but a removal and its restoration must come in their order.
        refused: dict[int, Exception] = {}
        for number, events in enumerate(requests):
            try:
                self._apply(events, done=self._unwritten)
            except Exception as error:
                refused[number] = error
        return refused

    def _apply(self, events: Sequence[Event], *, done: list[Event]) -> None:
        """Does events in order: neighbours of one kind in one call, all of them or none.

        Args:
          events: what to do.
          done: takes what was done, whatever comes after it: the recommender knows it from then on.

        Raises:
          DataError, ConfigError: the recommender refuses one, or cannot read it; those of earlier calls are done.
        """
        for kind, group in itertools.groupby(events, key=type):
            same = list(group)
            if kind is Add:
                self.recommender.add_interactions(_columns(same, "user", "item", "timestamp", "title"))
            elif kind is AddItem:
                ids, titles, attributes, texts = _columns(same, "item", "title", "attributes", "text").values()
                self.recommender.add_items(ids, titles=titles, attributes=attributes, texts=texts)
            elif kind is Remove:
                self.recommender.remove_items([event.item for event in same])
            else:
                self.recommender.restore_items([event.item for event in same])
            done += same
            self.catalogue.update(same)


def fingerprint(recommender: Recommends) -> str:
    """Returns what tells a run from others: a hash of its users and items, taken before anything is added."""
    state = hashlib.sha256()
    for ids in (recommender.user_ids, recommender.item_ids):
        state.update("\n".join(ids).encode("utf-8", "surrogatepass") + b"\0")
    return state.hexdigest()[:32]


def _columns(events: Sequence[Any], *names: str) -> dict[str, list[Any]]:
    return {name: [getattr(event, name) for event in events] for name in names}
