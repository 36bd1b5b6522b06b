"""Evaluators and score functions wired to the model: what `train` chooses by and what result.json reports."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jraph
import numpy as np
from absl import logging
from jax.sharding import Mesh
from jaxtyping import Int

from tokenrec_jax.baselines.dot_product import dot_product
from tokenrec_jax.config import Config
from tokenrec_jax.data.interactions import Interactions, training_part
from tokenrec_jax.evaluation.comparability import HELD_OUT_NOTICES, PROTOCOL_NOTICES, evaluated_part
from tokenrec_jax.evaluation.evaluator import EvaluationOutput, ScoreFunction, evaluate
from tokenrec_jax.evaluation.protocols import EvaluationBatches, evaluation_batches
from tokenrec_jax.numerics import normalize, round_up
from tokenrec_jax.recommender import Retriever
from tokenrec_jax.sharding import on_mesh
from tokenrec_jax.training.build import BuiltModel, place_graph
from tokenrec_jax.training.known import buffers_among
from tokenrec_jax.training.state import Evaluator, Params, TrainState
from tokenrec_jax.types import Split, Stage


def split_metrics(
    score: ScoreFunction, interactions: Interactions, split: Split, *, config: Config
) -> dict[str, float]:
    """Returns the metrics of a score function on one split of the whole data set."""
    return split_output(score, interactions, split, config=config).metrics


def held_out_splits(config: Config) -> tuple[Split, ...]:
    """Returns the splits whose targets a run has not been trained on: validation and test, test alone, or none."""
    return tuple(Split)[2 - config.evaluation.held_out :]


def ranked_splits(
    scores: Mapping[Split, ScoreFunction], interactions: Interactions, *, config: Config
) -> dict[Split, EvaluationOutput]:
    """Returns metrics and ranks of a system, which has a score function for each split, on those that are held out."""
    return {split: split_output(scores[split], interactions, split, config=config) for split in held_out_splits(config)}


def graph_part(interactions: Interactions, split: Split, *, config: Config) -> Interactions:
    """Returns the interactions that a system without further training may rest on when it ranks a split."""
    if split is Split.TEST and config.evaluation.graph == "known":
        return interactions.without_last(1)
    return training_part(interactions, config.evaluation)


def model_scores(
    retriever: Retriever,
    params: Params,
    buffers: Params,
    interactions: Interactions,
    *,
    config: Config,
    prompt: str = "seen",
) -> dict[Split, ScoreFunction]:
    """Returns the score function of a trained model on each split.

    Args:
      retriever: compiled functions of the model.
      params: of the trained model.
      buffers: its other arrays, as the training left them.
      interactions: whole histories.
      config: of the run.
      prompt: "seen" or "unseen".
    """
    known = buffers
    if config.evaluation.graph == "known":
        among = graph_part(interactions, Split.TEST, config=config)
        known = buffers_among(retriever.built, params, buffers, among, mesh=retriever.mesh)
    each = {Split.VALID: buffers, Split.TEST: known}
    return {split: retriever.score_function(params, each[split], prompt=prompt) for split in Split}


def split_output(score: ScoreFunction, interactions: Interactions, split: Split, *, config: Config) -> EvaluationOutput:
    """Returns the metrics of a score function on one split of the whole data set, and each user's rank."""
    part = evaluated_part(interactions, split, config.evaluation.protocol)
    batches = batches_of(part.interactions, part.split, config=config)
    return evaluate(score, batches, num_items=interactions.num_items, cutoffs=config.evaluation.cutoffs)


def batches_of(interactions: Interactions, split: Split, *, config: Config) -> EvaluationBatches:
    """Returns the batches of a split, as many users in each as asked for, rounded up to what all devices can share."""
    batch_size = round_up(config.evaluation.batch_size, multiple=jax.device_count())
    return evaluation_batches(interactions, split, max_history=config.data.max_history, batch_size=batch_size)


def say_protocol(config: Config) -> None:
    """Logs what has to be said of the protocol of a run, if anything."""
    if PROTOCOL_NOTICES[config.evaluation.protocol]:
        logging.warning("%s", PROTOCOL_NOTICES[config.evaluation.protocol])
    if HELD_OUT_NOTICES[config.evaluation.held_out]:
        logging.info("%s", HELD_OUT_NOTICES[config.evaluation.held_out])


def split_values(outputs: Mapping[Split, EvaluationOutput]) -> dict[str, Any]:
    """Returns the metrics of each split as result.json has them."""
    return {str(split): output.metrics for split, output in outputs.items()}


def rank_arrays(systems: Mapping[str, Mapping[Split, EvaluationOutput]]) -> dict[str, Int[np.ndarray, " users"]]:
    """Returns what `Workdir.save_result` takes as ranks: those of each system on each split, and whose they are."""
    arrays = {f"{name}/{split}": output.ranks for name, outputs in systems.items() for split, output in outputs.items()}
    users = {f"users/{split}": output.users for outputs in systems.values() for split, output in outputs.items()}
    return arrays | users


def make_evaluators(
    built: BuiltModel, retriever: Retriever, interactions: Interactions, *, config: Config
) -> dict[Stage, Evaluator]:
    """Returns the validation of each stage that ranks items: by dot product of the graph encoder, or by query.

    Empty where the validation items are trained on.
    """
    if Split.VALID not in held_out_splits(config):
        return {}
    vectors = graph_vectors(built, retriever.mesh)

    def collaborative(state: TrainState) -> dict[str, float]:
        score = _by_graph(*vectors(state, built.graph), config)
        return split_metrics(score, interactions, Split.VALID, config=config)

    def retrieval(state: TrainState) -> dict[str, float]:
        score = retriever.score_function(state.params, state.buffers)
        return split_metrics(score, interactions, Split.VALID, config=config)

    return {Stage.COLLABORATIVE: collaborative, Stage.LLM: retrieval, Stage.JOINT: retrieval}


def graph_vectors(
    built: BuiltModel, mesh: Mesh
) -> Callable[[TrainState, jraph.GraphsTuple], tuple[jax.Array, jax.Array]]:
    """Returns the function from state and graph to the vectors of users and items that the encoder propagates."""

    @jax.jit
    def propagate(params, buffers, graph) -> tuple[jax.Array, jax.Array]:
        with on_mesh(mesh):
            output = built.definition.merge(params, buffers).collaborative(graph)
        return output.users, output.items

    return lambda state, graph: propagate(state.params, state.buffers, graph)


def graph_scores(
    built: BuiltModel, state: TrainState, interactions: Interactions, *, config: Config, mesh: Mesh
) -> dict[Split, ScoreFunction]:
    """Returns the score function of the graph encoder alone, the baseline LightGCN, on each split."""
    vectors = graph_vectors(built, mesh)
    graphs = dict.fromkeys(Split, built.graph)
    if config.evaluation.graph == "known":
        graphs[Split.TEST] = place_graph(graph_part(interactions, Split.TEST, config=config), mesh)
    return {split: _by_graph(*vectors(state, graph), config) for split, graph in graphs.items()}


def _by_graph(users: jax.Array, items: jax.Array, config: Config) -> ScoreFunction:
    """Returns the scores that the graph encoder's loss compares: dot products, or cosines up to a factor a user."""
    return dot_product(users, normalize(items) if config.lightgcn.loss == "softmax" else items)
