"""Evaluators and baselines wired to the model: what `train` chooses by and what result.json reports."""

import functools
from typing import Any

import jax
from jax.sharding import Mesh

from tokenrec_jax.baselines.dot_product import dot_product
from tokenrec_jax.baselines.ease import ease
from tokenrec_jax.baselines.item_knn import item_knn
from tokenrec_jax.baselines.popularity import popularity
from tokenrec_jax.config import Config
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.evaluation.evaluator import ScoreFunction, evaluate
from tokenrec_jax.evaluation.protocols import evaluation_batches
from tokenrec_jax.recommender import Retriever
from tokenrec_jax.sharding import on_mesh
from tokenrec_jax.training.build import BuiltModel
from tokenrec_jax.training.loop import SELECTION_METRIC
from tokenrec_jax.training.state import Evaluator, TrainState
from tokenrec_jax.types import Split, Stage

#: Weights of EASE that are tried.
EASE_WEIGHTS = (30.0, 100.0, 300.0, 1000.0)
#: Its table of pairs then takes 900 MB, twice that while it is made.
MOST_ITEMS_OF_EASE = 15_000


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


def baselines(state: TrainState, interactions: Interactions, *, config: Config) -> dict[str, dict[str, Any]]:
    """Returns metrics of the baselines on both splits; LightGCN is the one that this run trained.

    The weight of EASE is chosen on validation. It is left out where its table of all pairs would be too large.
    """
    training = interactions.without_last(2)
    tables = state.buffers["tables"]
    scores = {
        "popularity": popularity(training),
        "item_knn": item_knn(training, neighbours=config.evaluation.item_knn_neighbours),
        "lightgcn": dot_product(tables["user_vectors"], tables["item_vectors"]),
    }
    found = {name: _on_both_splits(score, interactions, config=config) for name, score in scores.items()}
    if training.num_items <= MOST_ITEMS_OF_EASE:
        tried: list[dict[str, Any]] = [
            _on_both_splits(ease(training, l2=l2), interactions, config=config) | {"l2": l2} for l2 in EASE_WEIGHTS
        ]
        found["ease"] = max(tried, key=lambda one: one[str(Split.VALID)][SELECTION_METRIC])
    return found


def _on_both_splits(score: ScoreFunction, interactions: Interactions, *, config: Config) -> dict[str, Any]:
    return {str(split): split_metrics(score, interactions, split, config=config) for split in Split}
