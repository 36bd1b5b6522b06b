"""`Recommender`: a finished run as an object that applications hold and that grows with them.

Read `Recommender.load`, `recommend` and `add_interactions`. How additions become vectors is in `growth/`; how requests
are padded is in `requests.py`; the programs that turn histories into queries are in `retriever.py`.
"""

import dataclasses
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool

from tokenrec_jax.answers import Added, Explanation, Neighbour, Recommendation
from tokenrec_jax.config import Config, MeshConfig
from tokenrec_jax.data.interactions import Interactions, training_part
from tokenrec_jax.evaluation.evaluator import ScoreFunction
from tokenrec_jax.explaining import explanation
from tokenrec_jax.growth.catalogue import Catalogue
from tokenrec_jax.growth.rows import read_id, read_ids, read_items, read_rows
from tokenrec_jax.growth.tables import Grower, Tables
from tokenrec_jax.models.tokenrec import TokenRec
from tokenrec_jax.newcomers import Newcomers
from tokenrec_jax.requests import Searcher, Shapes, State, rows_to_explain
from tokenrec_jax.retrieval.index import ItemIndex
from tokenrec_jax.retriever import Retriever
from tokenrec_jax.sharding import fetch, put, replicated
from tokenrec_jax.training.build import BuiltModel
from tokenrec_jax.training.finished import FinishedRun
from tokenrec_jax.training.known import with_codes_of_all
from tokenrec_jax.training.state import Params
from tokenrec_jax.types import PADDING, DataError

__all__ = ["Added", "Explanation", "Neighbour", "Recommendation", "Recommender", "Retriever"]


class Recommender:
    """Recommends items to the users of a finished run, to new ones, and to anybody with a history of its items.

    All methods may be called from many threads. A request sees one state from its beginning to its end and never waits
    for an addition; additions wait for each other. A shallow copy (`copy.copy`) is what it was: to be read only.
    """

    def __init__(
        self,
        interactions: Interactions,
        *,
        config: Config,
        mesh: Mesh,
        retriever: Retriever,
        params: Params,
        buffers: Params,
        graph: Interactions | None = None,
        headroom: float = 0.25,
    ):
        """Holds a trained model; `load` is the usual way to get one.

        Args:
          interactions: of the run, held-out ones included.
          config: of the run.
          mesh: devices.
          retriever: compiled functions of the model.
          params: of the trained model.
          buffers: its other arrays.
          graph: the interactions that vectors and codes in `buffers` rest on; None: those of the training.
          headroom: share of users, items and interactions that can be added before programs are compiled again.
        """
        self._config, self._mesh, self._retriever = config, mesh, retriever
        self._grower = Grower(retriever.built, config=config, mesh=mesh, headroom=headroom)
        self._searcher = Searcher(retriever, grower=self._grower, config=config)
        self._newcomers = Newcomers(searcher=self._searcher, retriever=retriever, grower=self._grower, mesh=mesh)
        self._changes = threading.Lock()
        self._warm: set[Shapes] = set()
        catalogue = Catalogue.of_run(interactions, graph=graph or training_part(interactions, config.evaluation))
        self._state = self._make_state(catalogue, params, buffers, None)

    @classmethod
    def load(cls, path: str, *, headroom: float = 0.25, mesh: MeshConfig | None = None) -> "Recommender":
        """Loads a finished run from its working directory onto all devices.

        With `evaluation.graph=known` vectors and codes follow what the run was validated and tested with.

        Args:
          path: the directory.
          headroom: see the constructor.
          mesh: layout of the devices; None: that of the training, as far as their number allows.

        Raises:
          ConfigError: there is no finished run, or the mesh is not one of these devices.
        """
        run = FinishedRun.open(path, mesh=mesh)
        buffers, graph = run.newest()
        return cls(
            run.interactions,
            config=run.config,
            mesh=run.mesh,
            retriever=Retriever(run.built, mesh=run.mesh),
            params=run.params,
            buffers=buffers,
            graph=graph,
            headroom=headroom,
        )

    @property
    def built(self) -> BuiltModel:
        """Definition, tokenizer and vocabulary of the model; its sizes are those of the run."""
        return self._retriever.built

    @property
    def retriever(self) -> Retriever:
        """The compiled functions of the model."""
        return self._retriever

    @property
    def model(self) -> TokenRec:
        """The trained module, additions in its tables."""
        state, definition = self._state, self.built.definition
        if state.tables is None:
            return definition.merge(state.params, state.buffers)
        # Where the query does not read the users' codes, additions have left them alone.
        graph = state.tables.graph
        buffers = with_codes_of_all(definition, state.params, state.buffers, graph, mesh=self._mesh)
        return definition.merge(state.params, buffers)

    @property
    def interactions(self) -> Interactions:
        """Everything that is known, additions included; new users may have fewer than three interactions."""
        return self._state.catalogue.interactions

    @property
    def user_ids(self) -> tuple[str, ...]:
        """Original ids of all users."""
        return self.interactions.user_ids

    @property
    def item_ids(self) -> tuple[str, ...]:
        """Original ids of all items, removed ones included."""
        return self.interactions.item_ids

    def title(self, item: str) -> str:
        """Returns the readable name of an item, "" where unknown; raises DataError for an unknown item."""
        catalogue = self._state.catalogue
        return catalogue.titles[catalogue.item_rows([read_id(item, "item")])[0]]

    def history(self, user: str) -> list[str]:
        """Returns the items of a user, oldest first; raises DataError for an unknown user."""
        catalogue = self._state.catalogue
        return [catalogue.item_map.ids[row] for row in catalogue.history(catalogue.user_row(read_id(user, "user")))]

    def score_function(self, *, prompt: str = "seen") -> ScoreFunction:
        """Returns what the evaluator ranks with; users and items are rows of `interactions`."""
        state = self._state
        return self._retriever.score_function(state.params, state.buffers, prompt=prompt, index=state.index)

    def recommend(
        self,
        users: Sequence[str] | None = None,
        *,
        histories: Sequence[Sequence[str]] | None = None,
        k: int = 10,
        exclude_seen: bool = True,
        filter: Sequence[str] | None = None,
    ) -> list[list[Recommendation]]:
        """Returns the k best items after each user's whole history, or after each history of nobody in particular.

        Args:
          users: original ids.
          histories: original ids of items, oldest first; of an item that comes twice the first place counts.
          k: items a user; fewer come back where no more are allowed.
          exclude_seen: never recommend what is in the history.
          filter: the only items that may be recommended; None: all that are not removed.

        Raises:
          DataError: an id is unknown, a history is empty, k is below 1, or not exactly one of users and histories is
            given.
        """
        if (users is None) == (histories is None):
            raise DataError("recommend: give users or histories, exactly one of them")
        if not isinstance(k, int | np.integer) or k < 1:
            raise DataError(f"recommend: k is {k!r}; allowed is 1 or more")
        state = self._growable() if users is None and self._searcher.reads_users else self._state
        catalogue, codes = state.catalogue, None
        if users is not None:
            rows = [catalogue.user_row(user) for user in read_ids(users, "users", each="user")]
            read = [catalogue.history(row) for row in rows]
            if self._searcher.reads_users:
                codes = state.codes_of(rows)
        else:
            if isinstance(histories, str | bytes) or not isinstance(histories, Iterable):
                raise DataError(f"recommend: histories is {histories!r}; allowed is a list of lists of ids")
            read = [catalogue.session(items, number) for number, items in enumerate(histories)]
            if self._searcher.reads_users:
                codes = self._searcher.codes_of_sessions(state, read)
        allowed = self._allowed(state, filter)
        if not read:
            return []
        found = self._searcher.search(
            state, read, user_codes=codes, k=int(k), exclude_seen=exclude_seen, allowed=allowed
        )
        return [
            [
                Recommendation(item=catalogue.item_map.ids[item], title=catalogue.titles[item], score=score)
                for item, score in zip(ids, scores, strict=True)
                if item != PADDING
            ]
            for ids, scores in zip(found.ids.tolist(), found.scores.tolist(), strict=True)
        ]

    def add_interactions(self, table: Any) -> Added:
        """Adds interactions, with new users and new items where ids are unknown, and follows up everything read.

        Nothing is trained: vectors are those of the run's graph encoder over the grown graph, with frozen weights. What
        results depends on the added rows and their order, not on how they were cut into calls, so that a log of calls
        can be replayed; a row that is known already changes nothing. Interactions with a removed item count like all
        others, and the item stays removed.

        Args:
          table: a sequence of (user, item), (user, item, timestamp) or (user, item, timestamp, title), or a mapping of
            such columns; ids are text or whole numbers, timestamps seconds since 1970 or None, titles text or None. A
            history stays in the order of time; a row without a time is newer than those of its user before it.

        Raises:
          DataError: the table is something else. Then nothing is added.
        """
        rows = read_rows(table)
        before, after = self._grow(lambda catalogue: catalogue.with_rows(rows))
        new = len(after.items) - len(before.items)
        return Added(
            interactions=new,
            duplicates=len(rows.users) - new,
            users=tuple(after.user_map.ids[before.num_users : after.num_users]),
            items=tuple(after.item_map.ids[before.num_items : after.num_items]),
        )

    def add_items(
        self,
        items: Sequence[str],
        *,
        titles: Sequence[str | None] | None = None,
        attributes: Sequence[Sequence[str] | None] | None = None,
        texts: Sequence[str | None] | None = None,
    ) -> tuple[str, ...]:
        """Adds items that nobody has touched yet: what is known of them stands for what users would do with them.

        Their vectors and codes come from what the run has learned of categorical values (`llm.item_features`) and of
        text (`llm.item_text`); a value that it does not know says nothing. `add_interactions` may follow.

        Args:
          items: original ids; those that are known already stay as they are.
          titles: of the items.
          attributes: their categorical values, in the words of the run's data.
          texts: what the run's data says in its columns of text (`data.text_columns`).

        Returns the ids that are new.

        Raises:
          DataError: the run was trained without content, or a column is not what it should be. Nothing is added then.
        """
        if self.built.features is None and self.built.text is None:
            raise DataError("add_items: the run knows no content; allowed after llm.item_features or llm.item_text")
        given = read_items(items, titles=titles, attributes=attributes, texts=texts)
        before, after = self._grow(lambda catalogue: catalogue.with_items(given))
        new = tuple(after.item_map.ids[before.num_items : after.num_items])
        self._grower.warn_of_silent(after, new)
        return new

    def _grow(self, change: Callable[[Catalogue], Catalogue]) -> tuple[Catalogue, Catalogue]:
        """Follows up a change of the catalogue in everything that requests read; returns it before and after."""
        with self._changes:
            before, tables = self._prepared()
            catalogue = change(before.catalogue)
            if catalogue is not before.catalogue:
                try:
                    tables = self._grower.grow(tables, catalogue)
                    grown = self._make_state(catalogue, tables.params, tables.buffers, tables)
                    # Programs of requests know how many rows the item tables have, and nothing of the users'.
                    if len(grown.allowed) != len(before.allowed):
                        self._searcher.warm_up(grown, self._warm)
                    self._state = grown
                except BaseException:
                    before.catalogue.forget_later()
                    raise
        return before.catalogue, catalogue

    def remove_items(self, ids: Iterable[str]) -> None:
        """Never recommends some items again. They stay in histories and in the graph: what happened, happened.

        Interactions that are added later do not bring them back; `restore_items` does. So it does not matter whether a
        removal or an interaction comes first.

        Raises:
          DataError: an id is unknown. Then none is removed.
        """
        self._mark(ids, removed=True)

    def restore_items(self, ids: Iterable[str]) -> None:
        """Undoes `remove_items`; items that were not removed stay as they are. Raises DataError for an unknown id."""
        self._mark(ids, removed=False)

    def explain(self, user: str, item: str) -> Explanation:
        """Returns how an item relates to what a user has interacted with, and how it scores.

        Raises:
          DataError: an id is unknown.
        """
        state = self._state
        row = state.catalogue.user_row(read_id(user, "user"))
        (target,) = state.catalogue.item_rows([read_id(item, "item")]).tolist()
        codes = state.codes_of([row])(0, 1) if self._searcher.reads_users else None
        history = state.catalogue.history(row)
        queries = fetch(self._searcher.query(state, [history], user_codes=codes, size=self._searcher.sizes[0]))
        rows = rows_to_explain(target, history)
        vectors, codes, *weights = fetch(self._retriever.look_up(state.buffers, state.index, rows))
        weight = float(weights[0][0]) if weights else 1.0
        return explanation(state.catalogue, row, target, query=queries[0], vectors=vectors, codes=codes, weight=weight)

    def warm_up(self, *, batch_sizes: Sequence[int] = (1,), k: int = 10, longest: int = 1) -> None:
        """Compiles what requests, explanations and additions will run, so that the first ones are not slow.

        After that no request of these numbers of users, for k items, with a history of up to `longest` items or as many
        as a user has, compiles anything. What serves k serves less, down to the power of two below it. An addition that
        the headroom does not suffice for compiles all of that again, for every call, before requests see what it added.
        """
        asked = Shapes(tuple(batch_sizes), k, longest)
        self._growable()
        self._grower.warm_up()
        with self._changes:
            # From here on larger tables come with their programs.
            self._warm.add(asked)
            state = self._state
        self._searcher.warm_up(state, {asked})

    @property
    def index(self) -> ItemIndex:
        """What is searched: all items in the space of the queries."""
        return self._state.index

    @property
    def allowed(self) -> Bool[Array, " rows"]:
        """Which rows of the item table may be recommended: those of items that are not removed."""
        return self._state.allowed

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Numbers of users that requests are padded to; larger requests are cut."""
        return self._searcher.sizes

    def _make_state(self, catalogue: Catalogue, params: Params, buffers: Params, tables: Tables | None) -> State:
        """Returns what requests see of a catalogue and its tables."""
        return State(
            catalogue=catalogue,
            params=params,
            buffers=buffers,
            index=self._newcomers.index(catalogue, params, buffers),
            allowed=self._place(~catalogue.removed, buffers),
            user_codes=fetch(buffers["tables"]["user_codes"]) if self._searcher.reads_users else None,
            tables=tables,
        )

    def _place(self, allowed: Bool[np.ndarray, " items"], buffers: Params) -> Bool[Array, " rows"]:
        """Returns a mask over items as one over the rows of the item table, on the devices."""
        rows = len(buffers["tables"]["item_vectors"])
        return put(np.pad(allowed, (0, rows - len(allowed))), replicated(self._mesh))

    def _allowed(self, state: State, items: Sequence[str] | None) -> Bool[Array, " rows"]:
        """Returns which rows may be recommended: those of some original ids, or all, without the removed ones."""
        if items is None:
            return state.allowed
        chosen = np.zeros(state.catalogue.num_items, bool)
        chosen[state.catalogue.item_rows(read_ids(items, "filter", each="filter: item"))] = True
        return self._place(chosen & ~state.catalogue.removed, state.buffers)

    def _growable(self) -> State:
        """Returns the present state, its tables ready for additions; only the first call ever waits."""
        state = self._state
        if state.tables is None:
            with self._changes:
                state, _ = self._prepared()
        return state

    def _prepared(self) -> tuple[State, Tables]:
        """Returns the present state and its tables, made ready for additions if need be; for the holder of the lock."""
        state, tables = self._state, self._state.tables
        if tables is None:
            tables = self._grower.start(state.catalogue, params=state.params, buffers=state.buffers)
            state = self._make_state(state.catalogue, tables.params, tables.buffers, tables)
            self._newcomers.measure(state)
            self._state = state = self._make_state(state.catalogue, tables.params, tables.buffers, tables)
        return state, tables

    def _mark(self, ids: Iterable[str], *, removed: bool) -> None:
        names = read_ids(ids, "items", each="item")
        with self._changes:
            state = self._state
            catalogue = state.catalogue.with_removed(state.catalogue.item_rows(names), removed=removed)
            allowed = self._place(~catalogue.removed, state.buffers)
            self._state = dataclasses.replace(state, catalogue=catalogue, allowed=allowed)
