"""Requests of any size as a few compiled shapes: rows, history lengths and seen lists are padded.

Read `Searcher.search`. What a request may see is a `State`, which never changes; `recommender.py` makes the next one.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, Int

from tokenrec_jax.config import Config
from tokenrec_jax.growth.catalogue import Catalogue
from tokenrec_jax.growth.tables import Grower, Tables
from tokenrec_jax.numerics import round_up
from tokenrec_jax.partitioned import ROWS
from tokenrec_jax.retrieval.index import ItemIndex
from tokenrec_jax.retriever import Retriever
from tokenrec_jax.sharding import BATCH_AXES, ROW_AXES, fetch, put, put_batch
from tokenrec_jax.training.state import Params
from tokenrec_jax.types import PADDING, EvaluationBatch, TopK

#: Requests are cut into parts that are padded to one of these numbers of rows, at most half of it padding.
BATCH_SIZES = (1, 4, 16, 64, 256)

#: Seen lists are padded to this length, or this length times a power of four.
SHORTEST_SEEN = 64

#: So many items are searched for, or this times a power of two.
FEWEST_ITEMS = 16


#: Returns the codes of the users of a request from one position to another.
UserCodes = Callable[[int, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class State:
    """What one request sees from its beginning to its end.

    Attributes:
      catalogue: ids and histories.
      params, buffers: of the model.
      index: of the items.
      allowed: which rows of the item table may be recommended.
      user_codes: of all users, where the model reads learned ones; else None.
      tables: what additions work on; None until there is need.
    """

    catalogue: Catalogue
    params: Params
    buffers: Params
    index: ItemIndex
    allowed: Bool[Array, " items"]
    user_codes: Int[np.ndarray, "users book"] | None
    tables: Tables | None

    def codes_of(self, rows: Sequence[int]) -> UserCodes:
        """Returns what a searcher asks for the codes of known users."""
        codes = self.user_codes
        assert codes is not None
        return lambda start, end: codes[rows[start:end]]


class Shapes(NamedTuple):
    """Requests that are compiled ahead: numbers of users, how many items, items of the longest history."""

    batch_sizes: tuple[int, ...]
    k: int
    longest: int


class Searcher:
    """Runs padded requests against states of one model."""

    def __init__(self, retriever: Retriever, *, grower: Grower, config: Config):
        """Prepares requests for a model, whose tables `grower` keeps.

        Attributes:
          sizes: numbers of users that requests are padded to.
          reads_users: whether the model reads codes of learned user vectors.
        """
        self._retriever, self._grower, self._mesh = retriever, grower, retriever.mesh
        self.reads_users = config.llm.user_tokens == "learned"
        self._lengths = config.data.history_buckets or (config.data.max_history,)
        parts = math.prod(self._mesh.shape[axis] for axis in BATCH_AXES)
        self.sizes = tuple(dict.fromkeys(round_up(size, multiple=parts) for size in BATCH_SIZES))

    def search(
        self,
        state: State,
        histories: Sequence[Int[np.ndarray, " _"]],
        *,
        user_codes: UserCodes | None,
        k: int,
        exclude_seen: bool,
        allowed: Bool[Array, " items"],
    ) -> TopK:
        """Returns the k best items of each history, on the host.

        Args:
          state: what is known.
          histories: item rows, oldest first, none empty.
          user_codes: returns the codes of the users from one position to another; None where the model reads none.
          k: items to find.
          exclude_seen: leave out what is in the history.
          allowed: which rows of the item table may be recommended.
        """
        found = []
        # As many as there can be before the table grows: what was compiled ahead serves until then.
        width = search_width(min(k, len(allowed)))
        for start, size in self.parts(len(histories)):
            some = histories[start : start + size]
            codes = None if user_codes is None else user_codes(start, start + len(some))
            query = self.query(state, some, user_codes=codes, size=size)
            exclude = put_batch(_padded(some if exclude_seen else [], size, seen_width(some)), self._mesh)
            found.append((len(some), state.index.search(query, k=width, exclude=exclude, allow=allowed)))
        best = [(rows, fetch(each)) for rows, each in found]
        return TopK(
            ids=np.concatenate([each.ids[:rows, :k] for rows, each in best]),
            scores=np.concatenate([each.scores[:rows, :k] for rows, each in best]),
        )

    def query(
        self,
        state: State,
        histories: Sequence[Int[np.ndarray, " _"]],
        *,
        user_codes: Int[np.ndarray, "given book"] | None,
        size: int,
    ) -> Float[Array, "batch emb"]:
        """Returns a query for each history on the devices, `size` rows, those that only fill it last."""
        history = self.newest(histories, size)
        buffers, user = state.buffers, np.zeros(size, np.int32)
        if user_codes is not None:
            # The codes of these users alone: the program does not depend on how many others there are.
            rows = round_up(size, multiple=math.prod(self._mesh.shape[axis] for axis in ROW_AXES))
            codes = np.pad(user_codes, ((0, rows - len(user_codes)), (0, 0)))
            placed = put(codes, NamedSharding(self._mesh, ROWS))
            buffers, user = {**buffers, "tables": {**buffers["tables"], "user_codes": placed}}, np.arange(size)
        # What the query does not read has the least shape.
        nothing = np.full((size, 1), PADDING, np.int32)
        arrays = {"user": user.astype(np.int32), "history": history, "seen": nothing, "target": nothing[:, 0]}
        batch = put_batch(EvaluationBatch(**arrays), self._mesh)
        return self._retriever.query(state.params, buffers, state.index, batch)

    def codes_of_sessions(self, state: State, histories: Sequence[Int[np.ndarray, " _"]]) -> UserCodes:
        """Returns what `search` asks for the codes of users that only a history is known of."""
        tables = state.tables
        assert tables is not None

        def encode(start: int, end: int) -> Int[np.ndarray, "batch book"]:
            (_, size), *_ = self.parts(end - start)
            history = self.newest(histories[start:end], max(size, end - start))
            return self._grower.encode_sessions(tables, history)[: end - start]

        return encode

    def warm_up(self, state: State, asked: Iterable[Shapes]) -> None:
        """Compiles requests of some shapes, and explanations, of a state; see `Recommender.warm_up`."""
        for shapes in asked:
            self._warm_up(state, *shapes)

    def _warm_up(self, state: State, batch_sizes: Sequence[int], k: int, longest: int) -> None:
        for length in self.shapes(max(longest, int(np.diff(state.catalogue.indptr).max()))):
            history = np.arange(length, dtype=np.int32) % state.catalogue.num_items
            self._retriever.look_up(state.buffers, state.index, rows_to_explain(0, history))
            for count in batch_sizes:
                read, codes = [history] * count, None
                if self.reads_users:
                    codes = state.codes_of([0] * count)
                    for start, size in self.parts(count):
                        self.codes_of_sessions(state, read)(start, min(start + size, count))
                self.search(state, read, user_codes=codes, k=k, exclude_seen=True, allowed=state.allowed)

    def newest(self, histories: Sequence[Int[np.ndarray, " _"]], size: int) -> Int[np.ndarray, "batch history"]:
        """Returns the newest items of each history that the model can read, padded to one of few lengths."""
        longest = min(max(map(len, histories)), self._lengths[-1])
        length = next(each for each in self._lengths if each >= longest)
        return _padded([items[-length:] for items in histories], size, length)

    def parts(self, count: int) -> list[tuple[int, int]]:
        """Returns (first row, padded size) of the parts that a request is cut into."""
        parts, start = [], 0
        while start < count:
            left = count - start
            size = next((size for size in self.sizes if size >= left), self.sizes[-1])
            if 2 * left <= size:
                # Half empty: a smaller part first.
                size = max((each for each in self.sizes if each <= left), default=size)
            parts.append((start, size))
            start += size
        return parts

    def shapes(self, longest: int) -> list[int]:
        """Returns histories, by their lengths, that between them have all shapes of those of up to `longest` items."""
        return sorted({*self._lengths, *seen_widths(longest)})


def seen_width(histories: Sequence[Int[np.ndarray, " _"]]) -> int:
    """Returns the padded length of the seen lists of some histories."""
    return seen_widths(max(map(len, histories)))[-1]


def rows_to_explain(item: int, history: Int[np.ndarray, " history"]) -> Int[np.ndarray, " rows"]:
    """Returns the rows of an item, of a history, and of the item again, as many as a request has a shape for."""
    rows = np.full(1 + seen_width([history]), item, np.int32)
    rows[1 : 1 + len(history)] = history
    return rows


def seen_widths(longest: int) -> list[int]:
    """Returns the padded lengths up to that of a seen list."""
    widths = [SHORTEST_SEEN]
    while widths[-1] < longest:
        widths.append(widths[-1] * 4)
    return widths


def search_width(k: int) -> int:
    """Returns how many items are searched for where k are wanted."""
    width = FEWEST_ITEMS
    while width < k:
        width *= 2
    return width


def _padded(histories: Sequence[Int[np.ndarray, " _"]], size: int, width: int) -> Int[np.ndarray, "batch width"]:
    """Returns rows right-padded with `PADDING`, and rows of padding up to `size`."""
    table = np.full((size, width), PADDING, np.int32)
    for row, items in enumerate(histories):
        table[row, : len(items)] = items
    return table
