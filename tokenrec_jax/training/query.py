"""Inference with a trained state: queries of histories, and the vectors that they are matched against.

Read `make_query_function`. Ranking is in `evaluation/`, search in `retrieval/`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from tokenrec_jax.config import Config
from tokenrec_jax.models.prompting import history_lengths
from tokenrec_jax.models.tokenrec import TokenRec
from tokenrec_jax.sharding import batch_sharding, on_mesh, put, replicated
from tokenrec_jax.training.state import ModelDefinition, Params

QueryFunction = Callable[..., Float[Array, "batch emb"]]


def make_query_function(definition: ModelDefinition, *, mesh: Mesh) -> QueryFunction:
    """Returns the jitted map (params, buffers, items, user, history, template) -> one query a row, see `last_queries`.

    `items` are what `make_item_vectors` gives, or None; `template` is the index of a prompt template, as an int32
    scalar on the device.
    """

    def query(
        params: Params,
        buffers: Params,
        items: Float[Array, "items emb"] | None,
        user: Int[Array, " batch"],
        history: Int[Array, "batch history"],
        template: Int[Array, ""],
    ) -> Float[Array, "batch emb"]:
        with on_mesh(mesh):
            model = definition.merge(params, buffers)
            return last_queries(model, user=user, history=history, template=template[None], items=items)

    rows = batch_sharding(mesh)
    return jax.jit(query, in_shardings=(None, None, None, rows, rows, replicated(mesh)), out_shardings=rows)


def last_queries(
    model: TokenRec,
    *,
    user: Int[Array, " batch"],
    history: Int[Array, "batch history"],
    template: Int[Array, " template"],
    items: Float[Array, "items emb"] | None = None,
) -> Float[Array, "batch emb"]:
    """Returns the query after each history, none of which may be empty; arguments as of `TokenRec.queries`.

    The dense objective has one after every item, of which the last one's is taken.
    """
    queries = model.queries(user=user, history=history, template=template, item_space=items, key=None)
    last = jnp.minimum(jnp.maximum(history_lengths(history) - 1, 0), queries.shape[1] - 1)
    return jnp.take_along_axis(queries, last[:, None, None], axis=1)[:, 0]


def make_item_vectors(
    definition: ModelDefinition, *, mesh: Mesh
) -> Callable[[Params, Params], Float[Array, "items emb"]]:
    """Returns the jitted map (params, buffers) -> unit vectors of all (padded) items in the space of the queries."""

    def item_vectors(params: Params, buffers: Params) -> Float[Array, "items emb"]:
        with on_mesh(mesh):
            model = definition.merge(params, buffers)
            return model.item_space(model.tables.item_vectors[...])

    return jax.jit(item_vectors)


def make_unread_empty(
    config: Config, *, user_codes: bool = False, mesh: Mesh
) -> Callable[[Params, Params], tuple[Params, Params]]:
    """Returns the map (params, buffers) -> the same without rows in the tables that neither function above reads.

    What is left grows with items alone, so no other program is compiled for more users.

    Args:
      config: of the run.
      user_codes: whether to leave those, which queries read where user tokens are learned.
      mesh: devices.
    """
    dim, books = config.lightgcn.embedding_dim, config.tokenizer.num_books
    vectors, codes = put((np.zeros((0, dim), np.float32), np.zeros((0, books), np.int32)), replicated(mesh))
    tables = {"user_vectors": vectors}
    if not user_codes:
        tables["user_codes"] = codes

    def unread_empty(params: Params, buffers: Params) -> tuple[Params, Params]:
        embeddings = dict.fromkeys(params["collaborative"], vectors)
        return {**params, "collaborative": embeddings}, {**buffers, "tables": {**buffers["tables"], **tables}}

    return unread_empty
