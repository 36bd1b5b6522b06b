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
from tokenrec_jax.sharding import batch_sharding, on_mesh, replicated
from tokenrec_jax.training.state import ModelDefinition, Params

QueryFunction = Callable[..., Float[Array, "batch emb"]]


def make_query_function(definition: ModelDefinition, *, mesh: Mesh) -> QueryFunction:
    """Returns the jitted map (params, buffers, user, history, template) -> one query a row.

    `template` is the index of a prompt template, as an int32 scalar on the device. The dense objective's query is the
    one after the last item of the history. A history must not be empty.
    """

    def query(
        params: Params,
        buffers: Params,
        user: Int[Array, " batch"],
        history: Int[Array, "batch history"],
        template: Int[Array, ""],
    ) -> Float[Array, "batch emb"]:
        model = definition.merge(params, buffers)
        with on_mesh(mesh):
            queries = model.queries(user=user, history=history, template=template[None], key=None)
        last = jnp.minimum(jnp.maximum(history_lengths(history) - 1, 0), queries.shape[1] - 1)
        return jnp.take_along_axis(queries, last[:, None, None], axis=1)[:, 0]

    rows = batch_sharding(mesh)
    return jax.jit(query, in_shardings=(None, None, rows, rows, replicated(mesh)), out_shardings=rows)


def make_item_vectors(definition: ModelDefinition) -> Callable[[Any, Any], Float[Array, "items emb"]]:
    """Returns the jitted map (params, buffers) -> unit vectors of all (padded) items in the space of the queries."""

    def item_vectors(params: Params, buffers: Params) -> Float[Array, "items emb"]:
        model = definition.merge(params, buffers)
        return model.head.item_space(model.tables.item_vectors[...])

    return jax.jit(item_vectors)
