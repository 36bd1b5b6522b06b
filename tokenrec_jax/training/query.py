"""Inference with a trained state: queries of histories, and the vectors that they are matched against.

Read `make_query_function`. Ranking is in `evaluation/`, search in `retrieval/`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from tokenrec_jax.models.prompting import history_lengths
from tokenrec_jax.models.tokenrec import TokenRec
from tokenrec_jax.sharding import batch_sharding, on_mesh, replicated
from tokenrec_jax.training.state import ModelDefinition, Params

QueryFunction = Callable[..., Float[Array, "batch emb"]]


def make_query_function(definition: ModelDefinition, *, mesh: Mesh) -> QueryFunction:
    """Returns the jitted map (params, buffers, user, history, template) -> one query a row, see `last_queries`.

    `template` is the index of a prompt template, as an int32 scalar on the device.
    """

    def query(
        params: Params,
        buffers: Params,
        user: Int[Array, " batch"],
        history: Int[Array, "batch history"],
        template: Int[Array, ""],
    ) -> Float[Array, "batch emb"]:
        with on_mesh(mesh):
            return last_queries(definition.merge(params, buffers), user=user, history=history, template=template[None])

    rows = batch_sharding(mesh)
    return jax.jit(query, in_shardings=(None, None, rows, rows, replicated(mesh)), out_shardings=rows)


def last_queries(
    model: TokenRec,
    *,
    user: Int[Array, " batch"],
    history: Int[Array, "batch history"],
    template: Int[Array, " template"],
) -> Float[Array, "batch emb"]:
    """Returns the query after each history, none of which may be empty; arguments as of `TokenRec.queries`.

    The dense objective has one after every item, of which the last one's is taken.
    """
    queries = model.queries(user=user, history=history, template=template, key=None)
    last = jnp.minimum(jnp.maximum(history_lengths(history) - 1, 0), queries.shape[1] - 1)
    return jnp.take_along_axis(queries, last[:, None, None], axis=1)[:, 0]


def make_item_vectors(definition: ModelDefinition) -> Callable[[Any, Any], Float[Array, "items emb"]]:
    """Returns the jitted map (params, buffers) -> unit vectors of all (padded) items in the space of the queries."""

    def item_vectors(params: Params, buffers: Params) -> Float[Array, "items emb"]:
        model = definition.merge(params, buffers)
        return model.item_space(model.tables.item_vectors[...])

    return jax.jit(item_vectors)
