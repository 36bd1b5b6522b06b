"""A trained model among interactions that it was not trained with. Read `buffers_among`.

New users and items, which need rows of their own, are in `growth/`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jraph
from jax.sharding import Mesh

from tokenrec_jax.config import Config
from tokenrec_jax.data.graph import inverse_sqrt_degree
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.sharding import on_mesh, put, state_shardings
from tokenrec_jax.training.build import BuiltModel, place_graph
from tokenrec_jax.training.stages import follow_codes, freeze_vectors
from tokenrec_jax.training.state import ModelDefinition, Params, split


def counts_follow(config: Config) -> bool:
    """Returns whether a fold-in weighs the items of the training by their counts among new interactions, too.

    It does, as a step of the propagation, unless what an item sends was learned with the counts of the training
    (`llm.fold_in_residual`). Without everybody's last item, the last of the others the target, new counts raise NDCG@10
    by 2 % on LastFM, where nothing of that is learned, and lower it by 2 % on Beauty.
    """
    return not config.llm.fold_in_residual


def buffers_among(
    built: BuiltModel, params: Params, buffers: Params, interactions: Interactions, *, mesh: Mesh
) -> Params:
    """Returns the buffers of a trained model with the vectors and codes that its weights give among others.

    So have the counts that a fold-in weighs items by, where `counts_follow`.

    Source: TokenRec §IV-D: the graph's vectors follow new interactions, tokenizers and language model stay.

    Args:
      built: definition of the model.
      params: trained, and not changed.
      buffers: its other arrays; not changed either.
      interactions: what the graph encoder passes messages along, of the users and items of the training.
      mesh: devices.
    """

    def follow(params: Params, buffers: Params, graph: jraph.GraphsTuple, degree: jax.Array) -> Params:
        with on_mesh(mesh):
            model = built.definition.merge(params, buffers)
            if counts_follow(model.config):
                model.tables.inverse_sqrt_degree[...] = degree
            freeze_vectors(model, graph)
            follow_codes(model, graph)
        return split(model)[1]

    degree = put(inverse_sqrt_degree(interactions), buffers["tables"]["inverse_sqrt_degree"].sharding)
    return _run_once(follow, params, buffers, place_graph(interactions, mesh), degree, mesh=mesh)


def with_codes_of_all(
    definition: ModelDefinition, params: Params, buffers: Params, graph: jraph.GraphsTuple, *, mesh: Mesh
) -> Params:
    """Returns the buffers with the codes of the vectors in them, of users and of items; see `follow_codes`."""

    def follow(params: Params, buffers: Params, graph: jraph.GraphsTuple) -> Params:
        with on_mesh(mesh):
            model = definition.merge(params, buffers)
            follow_codes(model, graph)
        return split(model)[1]

    return _run_once(follow, params, buffers, graph, mesh=mesh)


def _run_once(follow: Callable[..., Params], *arguments: Any, mesh: Mesh) -> Params:
    """Returns the buffers that a function gives, in their places; compiles it."""
    result = {"buffers": jax.eval_shape(follow, *arguments)}
    return jax.jit(follow, out_shardings=state_shardings(result, mesh)["buffers"])(*arguments)
