"""`Retriever`: query and index functions of a model, compiled once and used with any of its states."""

import functools

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from tokenrec_jax.evaluation.evaluator import ScoreFunction, score_with_index
from tokenrec_jax.retrieval.index import ItemIndex
from tokenrec_jax.sharding import batch_sharding, put, replicated
from tokenrec_jax.training.build import BuiltModel
from tokenrec_jax.training.query import make_item_vectors, make_query_function
from tokenrec_jax.training.state import Params
from tokenrec_jax.types import EvaluationBatch


class Retriever:
    """Query and index functions of a model, compiled once and used with any of its states."""

    def __init__(self, built: BuiltModel, *, mesh: Mesh):
        """Prepares the jitted functions."""
        self.built = built
        self.mesh = mesh
        self._query = make_query_function(built.definition, mesh=mesh)
        self._item_vectors = make_item_vectors(built.definition)
        self._look_up = jax.jit(self._vectors_and_codes)
        self._templates = put({"seen": np.int32(0), "unseen": np.int32(built.unseen_template)}, replicated(mesh))

    def look_up(self, params: Params, buffers: Params, rows: Int[np.ndarray, " rows"]) -> tuple[jax.Array, jax.Array]:
        """Returns the unit vectors in the space of the queries, and the codes, of some items."""
        return self._look_up(params, buffers, put(rows, replicated(self.mesh)))

    def index(self, params: Params, buffers: Params, *, num_items: int | None = None) -> ItemIndex:
        """Returns the index over the items in the space of the queries; `num_items` None: those of the training."""
        count = self.built.shape.num_items if num_items is None else num_items
        return ItemIndex.build(self._item_vectors(params, buffers), metric="cosine", num_items=count)

    def query(self, params: Params, buffers: Params, batch: EvaluationBatch, *, prompt: str = "seen") -> jax.Array:
        """Returns one query a row of a batch on the device; `prompt` is "seen" or "unseen"."""
        return self._query(params, buffers, batch.user, batch.history, self._templates[prompt])

    def score_function(
        self, params: Params, buffers: Params, *, prompt: str = "seen", num_items: int | None = None
    ) -> ScoreFunction:
        """Returns what the evaluator ranks with; `num_items` as for `index`."""
        return score_with_index(
            functools.partial(self.query, params, buffers, prompt=prompt),
            self.index(params, buffers, num_items=num_items),
            sharding=batch_sharding(self.mesh),
        )

    def _vectors_and_codes(self, params: Params, buffers: Params, rows: Int[Array, " rows"]):
        return self._item_vectors(params, buffers)[rows], buffers["tables"]["item_codes"][rows]
