"""Evaluators and baselines wired to the model: what `train` chooses by and what result.json reports."""

import functools

import jax
from jax.sharding import Mesh

from tokenrec_jax.baselines.dot_product import dot_product
from tokenrec_jax.baselines.item_knn import item_knn
from tokenrec_jax.baselines.popularity import popularity
from tokenrec_jax.config import Config
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.evaluation.evaluator import ScoreFunction, evaluate
from tokenrec_jax.evaluation.protocols import evaluation_batches
from tokenrec_jax.recommender import Retriever
from tokenrec_jax.sharding import on_mesh
from tokenrec_jax.training.build import BuiltModel
from tokenrec_jax.training.state import Evaluator, TrainState
from tokenrec_jax.types import Split, Stage


def split_metrics(
    score: ScoreFunction, interactions: Interactions, split: Split, *, config: Config
) -> dict[str, float]:
    """Returns the metrics of a score function on one split of the whole data set."""
    batches = evaluation_batches(
        interactions,
        split,
        max_history=config.data.max_history,
        batch_size=config.evaluation.batch_size,
    )
    output = evaluate(score, batches, num_items=interactions.num_items, cutoffs=config.evaluation.cutoffs)
    return output.metrics


def make_evaluators(
    built: BuiltModel, retriever: Retriever, interactions: Interactions, *, config: Config
) -> dict[Stage, Evaluator]:
    """Returns the validation of each stage that ranks items: by dot product of the graph encoder, or by query."""
    propagate = jax.jit(functools.partial(_collaborative, built, retriever.mesh))

    def collaborative(state: TrainState) -> dict[str, float]:
        users, items = propagate(state.params, state.buffers, built.graph)
        return split_metrics(dot_product(users, items), interactions, Split.VALID, config=config)

    def retrieval(state: TrainState) -> dict[str, float]:
        score = retriever.score_function(state.params, state.buffers)
        return split_metrics(score, interactions, Split.VALID, config=config)

    return {Stage.COLLABORATIVE: collaborative, Stage.LLM: retrieval, Stage.JOINT: retrieval}


def _collaborative(built: BuiltModel, mesh: Mesh, params, buffers, graph) -> tuple[jax.Array, jax.Array]:
    with on_mesh(mesh):
        output = built.definition.merge(params, buffers).collaborative(graph)
    return output.users, output.items


def baselines(state: TrainState, interactions: Interactions, *, config: Config) -> dict[str, dict[str, dict]]:
    """Returns metrics of the baselines on both splits; LightGCN is the one that this run trained."""
    training = interactions.without_last(2)
    tables = state.buffers["tables"]
    scores = {
        "popularity": popularity(training),
        "item_knn": item_knn(training, neighbours=config.evaluation.item_knn_neighbours),
        "lightgcn": dot_product(tables["user_vectors"], tables["item_vectors"]),
    }
    return {
        name: {str(split): split_metrics(score, interactions, split, config=config) for split in Split}
        for name, score in scores.items()
    }
