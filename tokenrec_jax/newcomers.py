"""How much items that a run was not trained with weigh in a search. Read `Newcomers`.

The softmax pushes each item of the training away from the queries that ask for others. An item that comes later was
never pushed: it lies where its neighbours' queries meet, and would take many times its share of all recommendations.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Bool, Float, Int

from tokenrec_jax.growth.catalogue import Catalogue
from tokenrec_jax.growth.tables import Grower
from tokenrec_jax.numerics import normalize
from tokenrec_jax.partitioned import ROWS
from tokenrec_jax.requests import Searcher, State
from tokenrec_jax.retrieval.index import ItemIndex
from tokenrec_jax.retriever import Retriever
from tokenrec_jax.sharding import fetch, put, replicated
from tokenrec_jax.training.state import Params

#: One item of so many stands for those that will come, at most `MOST_ITEMS`; and so many users ask at most.
EVERY, MOST_ITEMS, MOST_USERS = 10, 32_768, 512
#: Users that ask at once.
AT_ONCE = 64
#: Places of a recommendation that count.
PLACES = 10


class Weights(NamedTuple):
    """What scores of new items are multiplied by.

    Attributes:
      touched: of items that somebody has interacted with.
      untouched: of items that only their content speaks for.
    """

    touched: float
    untouched: float


class Newcomers:
    """The index of a catalogue in which new items have weights, which follow from the run alone."""

    def __init__(self, *, searcher: Searcher, retriever: Retriever, grower: Grower, mesh: Mesh):
        """Knows no weights yet.

        Args:
          searcher: makes the queries.
          retriever: makes the vectors of the items.
          grower: knows where new items stand.
          mesh: devices.
        """
        self._searcher, self._retriever, self._grower, self._mesh = searcher, retriever, grower, mesh
        self._weights: Weights | None = None

    def index(self, catalogue: Catalogue, params: Params, buffers: Params) -> ItemIndex:
        """Returns the index of all items; before `measure` there are no new ones."""
        weights = None
        if self._weights is not None:
            found = item_weights(catalogue, self._weights, rows=len(buffers["tables"]["item_vectors"]))
            weights = put(found, NamedSharding(self._mesh, ROWS))
        return self._retriever.index(params, buffers, num_items=catalogue.num_items, weights=weights)

    def measure(self, state: State) -> Weights:
        """Finds the weights with which new items get as many places as items of the training.

        Some items of the run are put where they would stand if they had been added. The weight is that with which they
        have as many of the first `PLACES` places of its users as they have where they were trained to, at most 1.

        Args:
          state: of the run, nothing added, its tables ready for additions.
        """
        catalogue = state.catalogue
        some = np.zeros(len(state.allowed), bool)
        some[_evenly(catalogue.num_items, min(max(catalogue.num_items // EVERY, 1), MOST_ITEMS))] = True
        # Removed ones among them: what is removed when this is measured changes nothing.
        others = (np.arange(len(some)) < catalogue.num_items) & ~some
        others = dataclasses.replace(state, allowed=put(others, replicated(self._mesh)))
        queries, least, seen = _ask(others, some, searcher=self._searcher)
        rows = np.flatnonzero(some).astype(np.int32)

        def scores(params: Params, buffers: Params) -> Float[np.ndarray, "queries items"]:
            index = self._retriever.index(params, buffers, num_items=catalogue.num_items)
            vectors, *_ = fetch(self._retriever.look_up(buffers, index, rows))
            return np.where(seen, -np.inf, queries @ vectors.T)

        def weight(*, untouched: bool) -> float:
            assert state.tables is not None
            new = scores(*self._grower.forget(state.tables, some, untouched=untouched))
            return fair_weight(new, own, least=least)

        own, built = scores(state.params, state.buffers), self._retriever.built
        has_content = built.features is not None or built.text is not None
        self._weights = Weights(weight(untouched=False), weight(untouched=True) if has_content else 1.0)
        logging.info(
            "scores of new items are multiplied by %.3f, by %.3f before anybody has touched them", *self._weights
        )
        return self._weights


def _ask(
    state: State, some: Bool[np.ndarray, " rows"], *, searcher: Searcher
) -> tuple[Float[np.ndarray, "queries emb"], Float[np.ndarray, " queries"], Bool[np.ndarray, "queries items"]]:
    """Returns unit queries of users, the score of the last of their places, and which of some items they have seen."""
    catalogue = state.catalogue
    users = np.flatnonzero(np.diff(catalogue.indptr))
    users = users[_evenly(len(users), min(len(users), MOST_USERS))]
    queries, least, seen = [], [], []
    for start in range(0, len(users), AT_ONCE):
        # Filled up, so that there is one program.
        asking = users[np.minimum(np.arange(start, start + AT_ONCE), len(users) - 1)]
        histories = [catalogue.history(user) for user in asking.tolist()]
        codes = state.codes_of(asking.tolist()) if searcher.reads_users else None
        ((_, size),) = searcher.parts(AT_ONCE)
        read = None if codes is None else codes(0, AT_ONCE)
        queries.append(fetch(normalize(searcher.query(state, histories, user_codes=read, size=size)))[:AT_ONCE])
        found = searcher.search(state, histories, user_codes=codes, k=PLACES, exclude_seen=True, allowed=state.allowed)
        least.append(found.scores[:, -1])
        marks = np.zeros((AT_ONCE, len(some)), bool)
        for row, history in enumerate(histories):
            marks[row, history] = True
        seen.append(marks[:, some])
    one, two, three = (np.concatenate(each)[: len(users)] for each in (queries, least, seen))
    return one, two, three


def _evenly(count: int, some: int) -> Int[np.ndarray, " some"]:
    """Returns as many of the first numbers, at equal distances."""
    return np.arange(some) * count // max(some, 1)


def fair_weight(
    new: Float[np.ndarray, "queries items"],
    own: Float[np.ndarray, "queries items"],
    *,
    least: Float[np.ndarray, " queries"],
) -> float:
    """Returns what scores of new items are multiplied by so that as many are above the least ones as own scores are.

    Args:
      new: scores of items as new ones, -inf where they do not count.
      own: of the same items as they were trained to.
      least: what a score of the query must be above.

    Returns:
      A weight above 0 and at most 1; 1 where no own score is above. Where the least score is not above zero no weight
      decides, and the query does not count.
    """
    counts = least > 0
    new, own, least = new[counts], own[counts], least[counts][:, None]
    places = int((own > least).sum())
    # The weight that a score above zero must have more than.
    enough = np.sort(np.divide(least, new, out=np.full_like(new, np.inf), where=new > 0), axis=None)
    return min(1.0, float(enough[places])) if 0 < places < enough.size else 1.0


def item_weights(catalogue: Catalogue, weights: Weights, *, rows: int) -> Float[np.ndarray, " rows"]:
    """Returns the weight of each row of a table of items: 1 of those that the run was trained with."""
    first, count = catalogue.run.num_items, catalogue.num_items
    found = np.ones(rows, np.float32)
    touched = np.bincount(catalogue.edge_items, minlength=count)[first:count] > 0
    found[first:count] = np.where(touched, weights.touched, weights.untouched)
    return found
