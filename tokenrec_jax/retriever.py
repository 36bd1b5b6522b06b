"""`Retriever`: query and index functions of a model, compiled once and used with any of its states."""

import functools

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from tokenrec_jax.evaluation.evaluator import ScoreFunction, score_with_index
from tokenrec_jax.retrieval.index import ItemIndex
from tokenrec_jax.sharding import batch_sharding, put, replicated
from tokenrec_jax.training.build import BuiltModel
from tokenrec_jax.training.query import make_item_vectors, make_query_function, make_unread_empty
from tokenrec_jax.training.state import Params
from tokenrec_jax.types import EvaluationBatch


class Retriever:
    """Query and index functions of a model, compiled once and used with any of its states."""

    def __init__(self, built: BuiltModel, *, mesh: Mesh):
        """Prepares the jitted functions."""
        self.built = built
        self.mesh = mesh
        learned = built.config.llm.user_tokens == "learned"
        self._read_by_queries = make_unread_empty(built.config, user_codes=learned, mesh=mesh)
        self._read_of_items = make_unread_empty(built.config, mesh=mesh)
        self._query = make_query_function(built.definition, mesh=mesh)
        self._item_vectors = make_item_vectors(built.definition, mesh=mesh)
        self._rows = jax.jit(lambda tables, rows: [table[rows] for table in tables])
        self._templates = put({"seen": np.int32(0), "unseen": np.int32(built.unseen_template)}, replicated(mesh))

    def look_up(self, buffers: Params, index: ItemIndex, rows: Int[np.ndarray, " rows"]) -> list[jax.Array]:
        """Returns the unit vectors in the space of the queries, the codes and, if any has one, the weights of items."""
        tables = [index.vectors, buffers["tables"]["item_codes"], *([] if index.scale is None else [index.scale])]
        return self._rows(tables, put(rows, replicated(self.mesh)))

    def index(
        self,
        params: Params,
        buffers: Params,
        *,
        num_items: int | None = None,
        weights: Float[Array, " items"] | None = None,
    ) -> ItemIndex:
        """Returns the index over the items in the space of the queries.

        Args:
          params: of the model.
          buffers: its other arrays.
          num_items: how many rows are items; None: those of the training.
          weights: of each item in the search, see `ItemIndex.build`.
        """
        count = self.built.shape.num_items if num_items is None else num_items
        vectors = self._item_vectors(*self._read_of_items(params, buffers))
        return ItemIndex.build(vectors, metric="cosine", num_items=count, weights=weights)

    def query(
        self, params: Params, buffers: Params, index: ItemIndex, batch: EvaluationBatch, *, prompt: str = "seen"
    ) -> jax.Array:
        """Returns one query a row of a batch on the device.

        Args:
          params: of the model.
          buffers: its other arrays.
          index: what `index` made of them: a history is read in the item space.
          batch: on the devices.
          prompt: "seen" or "unseen".
        """
        read = self._read_by_queries(params, buffers)
        return self._query(*read, index.vectors, batch.user, batch.history, self._templates[prompt])

    def score_function(
        self, params: Params, buffers: Params, *, prompt: str = "seen", index: ItemIndex | None = None
    ) -> ScoreFunction:
        """Returns what the evaluator ranks with; `index` None: that of the items of the training."""
        index = self.index(params, buffers) if index is None else index
        query = functools.partial(self.query, params, buffers, index, prompt=prompt)
        return score_with_index(query, index, sharding=batch_sharding(self.mesh))
