"""`Recommender`: a finished run as an object that applications hold. Read `Recommender.load` and `recommend`."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from tokenrec_jax.config import Config, MeshConfig
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.evaluation.evaluator import ScoreFunction, score_with_index
from tokenrec_jax.models.tokenrec import TokenRec
from tokenrec_jax.numerics import round_up
from tokenrec_jax.retrieval.index import ItemIndex
from tokenrec_jax.sharding import BATCH_AXES, batch_sharding, fetch, make_mesh, put, put_batch, replicated
from tokenrec_jax.training.build import BuiltModel, build_model
from tokenrec_jax.training.checkpoint import FINAL, CheckpointStore
from tokenrec_jax.training.query import make_item_vectors, make_query_function
from tokenrec_jax.training.state import Params, abstract_model
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import PADDING, DataError, EvaluationBatch

#: Requests are padded to a multiple of this many rows, so that few shapes are compiled.
BATCH_MULTIPLE = 32


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


class Retriever:
    """Query and index functions of a model, compiled once and used with any of its states."""

    def __init__(self, built: BuiltModel, *, mesh: Mesh):
        """Prepares the jitted functions."""
        self.built = built
        self.mesh = mesh
        self._query = make_query_function(built.definition, mesh=mesh)
        self._item_vectors = make_item_vectors(built.definition)
        self._templates = put({"seen": np.int32(0), "unseen": np.int32(built.unseen_template)}, replicated(mesh))

    def index(self, params: Params, buffers: Params) -> ItemIndex:
        """Returns the index over all items in the space of the queries."""
        vectors = self._item_vectors(params, buffers)
        return ItemIndex.build(vectors, metric="cosine", num_items=self.built.shape.num_items)

    def query(self, params: Params, buffers: Params, batch: EvaluationBatch, *, prompt: str = "seen") -> jax.Array:
        """Returns one query a row of a batch on the device; `prompt` is "seen" or "unseen"."""
        return self._query(params, buffers, batch.user, batch.history, self._templates[prompt])

    def score_function(self, params: Params, buffers: Params, *, prompt: str = "seen") -> ScoreFunction:
        """Returns what the evaluator ranks with."""
        return score_with_index(
            functools.partial(self.query, params, buffers, prompt=prompt),
            self.index(params, buffers),
            sharding=batch_sharding(self.mesh),
        )


class Recommender:
    """Recommends items to the users of a finished run, or to anybody with a history of its items."""

    def __init__(
        self,
        interactions: Interactions,
        *,
        config: Config,
        mesh: Mesh,
        retriever: Retriever,
        params: Params,
        buffers: Params,
    ):
        """Holds a trained model; `load` is the usual way to get one."""
        self.interactions = interactions
        self._config = config
        self._mesh = mesh
        self._retriever = retriever
        self._params, self._buffers = params, buffers
        self._index = retriever.index(params, buffers)
        self._users = {user: row for row, user in enumerate(interactions.user_ids)}
        self._items = {item: row for row, item in enumerate(interactions.item_ids)}

    @classmethod
    def load(cls, path: str) -> "Recommender":
        """Loads a finished run from its working directory onto all devices.

        Raises:
          ConfigError: there is no finished run.
        """
        workdir = Workdir.open_finished(path)
        config = workdir.config()
        interactions = workdir.interactions()
        mesh = make_mesh(MeshConfig())
        built = build_model(config, interactions.without_last(2), mesh=mesh, saved=workdir.language_model)
        store = CheckpointStore(workdir.path)
        model = store.restore_model(FINAL, abstract_model(built.definition, mesh))
        store.close()
        return cls(
            interactions,
            config=config,
            mesh=mesh,
            retriever=Retriever(built, mesh=mesh),
            params=model["params"],
            buffers=model["buffers"],
        )

    @property
    def built(self) -> BuiltModel:
        """Definition, tokenizer and vocabulary of the model."""
        return self._retriever.built

    @property
    def model(self) -> TokenRec:
        """The trained module."""
        return self.built.definition.merge(self._params, self._buffers)

    @property
    def retriever(self) -> Retriever:
        """The compiled functions of the model."""
        return self._retriever

    def score_function(self, *, prompt: str = "seen") -> ScoreFunction:
        """Returns what the evaluator ranks with."""
        return self._retriever.score_function(self._params, self._buffers, prompt=prompt)

    def recommend(self, users: Sequence[str], *, k: int = 10, exclude_seen: bool = True) -> list[list[Recommendation]]:
        """Returns the k best items of each user after the user's whole history, best first.

        Args:
          users: original ids.
          k: items a user; fewer come back where the catalogue has no more.
          exclude_seen: never recommend what the user has interacted with.

        Raises:
          DataError: an id is unknown.
        """
        for user in users:
            if user not in self._users:
                raise DataError(
                    f"user {user!r}: not among the {len(self._users)} users of {self.interactions.name}; "
                    f"ids look like {self.interactions.user_ids[0]!r}"
                )
        rows = [self._users[user] for user in users]
        histories = [self.interactions.history(row) for row in rows]
        return self._recommend(np.array(rows, np.int32), histories, k=k, exclude_seen=exclude_seen)

    def _recommend(
        self, rows: Int[np.ndarray, " users"], histories: list[np.ndarray], *, k: int, exclude_seen: bool
    ) -> list[list[Recommendation]]:
        if not histories:
            return []
        parts = math.prod(self._mesh.shape[axis] for axis in BATCH_AXES)
        size = round_up(len(rows), multiple=math.lcm(BATCH_MULTIPLE, parts))
        length = self._config.data.max_history
        history = np.full((size, length), PADDING, np.int32)
        # A power of two, so that few widths are compiled.
        width = 1 << (max(len(items) for items in histories) - 1).bit_length()
        seen = np.full((size, width), PADDING, np.int32)
        for row, items in enumerate(histories):
            newest = items[-length:]
            history[row, : len(newest)] = newest
            seen[row, : len(items)] = items
        user = np.pad(rows, (0, size - len(rows)))
        target = np.full(size, PADDING, np.int32)
        batch = put_batch(EvaluationBatch(user=user, history=history, seen=seen, target=target), self._mesh)
        query = self._retriever.query(self._params, self._buffers, batch)
        found = fetch(self._index.search(query, k=k, exclude=batch.seen if exclude_seen else None))
        return [
            [self._named(item, score) for item, score in zip(ids, scores, strict=True) if item != PADDING]
            for ids, scores in zip(found.ids.tolist()[: len(rows)], found.scores.tolist(), strict=False)
        ]

    def _named(self, item: int, score: float) -> Recommendation:
        titles = self.interactions.item_titles
        return Recommendation(item=self.interactions.item_ids[item], title=titles[item] if titles else "", score=score)
