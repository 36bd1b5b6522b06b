"""Ranks many users as fast as the devices allow: users of like length together, the next batch under way. Read `rank`.

What becomes of the result is the caller's business; the job that writes a file of it is in `job.py`.
"""

import copy
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from tokenrec_jax.config import Config
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.numerics import round_up
from tokenrec_jax.recommender import Recommender
from tokenrec_jax.retrieval.index import ItemIndex
from tokenrec_jax.retriever import Retriever
from tokenrec_jax.sharding import BATCH_AXES, fetch, put_batch
from tokenrec_jax.training.state import Params, split
from tokenrec_jax.types import PADDING, EvaluationBatch, TopK


@dataclasses.dataclass(frozen=True)
class RankedUsers:
    """Users of one batch with their best items.

    Attributes:
      users: rows of the users, in the order of the batch.
      ids: item rows, best first, `PADDING` where fewer than k items are left.
      scores: their scores, -inf where `ids` is `PADDING`.
    """

    users: Int[np.ndarray, " batch"]
    ids: Int[np.ndarray, "batch k"]
    scores: Float[np.ndarray, "batch k"]


class BulkRanker:
    """Ranks the catalogue for users of a data set after their whole histories.

    Users are sorted by the length of their history, so that a batch is padded to the shortest bucket
    (`data.history_buckets`) that holds all of it: on LastFM, where the mean history has 25 of at most 50 items, that is
    nearly half of the work. While a batch is fetched the next one is computed.
    """

    def __init__(
        self,
        retriever: Retriever,
        params: Params,
        buffers: Params,
        interactions: Interactions,
        *,
        index: ItemIndex,
        config: Config,
        allow: Bool[Array, " items"] | None = None,
        batch_size: int = 0,
    ):
        """Holds a model; `of` is the usual way to get one.

        Args:
          retriever: compiled functions of the model.
          params: its trained arrays.
          buffers: its other arrays.
          interactions: whose users are ranked.
          index: of the items.
          config: of the run.
          allow: False for items that are not to be recommended; None: all are.
          batch_size: users a batch, rounded up to what the devices can share; 0: `evaluation.batch_size`.
        """
        self.interactions = interactions
        self._retriever, self._params, self._buffers, self._index = retriever, params, buffers, index
        self._allow = allow
        parts = math.prod(retriever.mesh.shape[axis] for axis in BATCH_AXES)
        self._batch_size = round_up(batch_size or config.evaluation.batch_size, multiple=parts)
        self._buckets = np.array(config.data.history_buckets or (config.data.max_history,))

    @classmethod
    def of(cls, recommender: Recommender, *, batch_size: int = 0) -> "BulkRanker":
        """Returns the ranker of a recommender, as it stands now."""
        # As it stands now, whatever is added meanwhile.
        recommender = copy.copy(recommender)
        model, retriever = recommender.model, recommender.retriever
        params, buffers = split(model)
        return cls(
            retriever,
            params,
            buffers,
            recommender.interactions,
            index=recommender.index,
            config=model.config,
            allow=recommender.allowed,
            batch_size=batch_size,
        )

    def rank(
        self, users: Int[np.ndarray, " users"], *, k: int, exclude_seen: bool = True, prompt: str = "seen"
    ) -> Iterator[RankedUsers]:
        """Yields the users in batches, each user once, in an order of its own.

        With several processes all of them call it with the same users, and all get every batch.

        Args:
          users: rows of users; none of them has an empty history.
          k: items a user.
          exclude_seen: leave out what the user has interacted with.
          prompt: "seen" or "unseen", the template.
        """
        lengths = np.diff(self.interactions.indptr)[users]
        ordered = users[np.argsort(lengths, kind="stable")]
        ahead: tuple[np.ndarray, TopK] | None = None
        for start in range(0, len(ordered), self._batch_size):
            mine = ordered[start : start + self._batch_size]
            now = mine, self._search(mine, k=k, exclude_seen=exclude_seen, prompt=prompt)
            if ahead is not None:
                yield _fetched(*ahead)
            ahead = now
        if ahead is not None:
            yield _fetched(*ahead)

    def warm_up(self, *, k: int, exclude_seen: bool = True) -> None:
        """Compiles all shapes that users of this data set can ask for, by ranking one user of each."""
        lengths = np.diff(self.interactions.indptr)
        shapes = np.stack([self._bucket(lengths), _power_of_two(lengths)], axis=1)
        for user in np.unique(shapes, axis=0, return_index=True)[1]:
            for _ in self.rank(np.array([user]), k=k, exclude_seen=exclude_seen):
                pass

    def _search(self, users: np.ndarray, *, k: int, exclude_seen: bool, prompt: str) -> TopK:
        """Returns the result on the devices, before it is computed; filling rows repeat the last user."""
        batch = self._batch(np.pad(users, (0, self._batch_size - len(users)), mode="edge"))
        batch = put_batch(batch, self._retriever.mesh)
        queries = self._retriever.query(self._params, self._buffers, self._index, batch, prompt=prompt)
        return self._index.search(queries, k=k, exclude=batch.seen if exclude_seen else None, allow=self._allow)

    def _batch(self, users: np.ndarray) -> EvaluationBatch:
        start, end = self.interactions.indptr[users], self.interactions.indptr[users + 1]
        longest = int(np.max(end - start))
        length = int(self._bucket(longest))
        return EvaluationBatch(
            user=users.astype(np.int32),
            history=self.interactions.padded(np.maximum(start, end - length), end, width=length),
            seen=self.interactions.padded(start, end, width=int(_power_of_two(longest))),
            target=np.full(len(users), PADDING, np.int32),
        )

    def _bucket(self, length: Any) -> Any:
        """Returns the padded length of histories, the longest bucket where they are cut."""
        return self._buckets[np.minimum(np.searchsorted(self._buckets, length), len(self._buckets) - 1)]


def _power_of_two(length: Any) -> Any:
    """Returns the padded length of seen lists: few are compiled."""
    return 1 << np.ceil(np.log2(length)).astype(int)


def _fetched(users: np.ndarray, found: TopK) -> RankedUsers:
    whole: TopK = fetch(found)
    return RankedUsers(users=users, ids=whole.ids[: len(users)], scores=whole.scores[: len(users)])
