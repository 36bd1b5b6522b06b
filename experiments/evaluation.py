"""Evaluators and baselines wired to the model: what `train` chooses by and what result.json reports."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jraph
import numpy as np
from absl import logging
from jax.sharding import Mesh
from jaxtyping import Int

from tokenrec_jax.baselines.dot_product import dot_product
from tokenrec_jax.baselines.ease import ease, ease_weights, score_with_weights
from tokenrec_jax.baselines.item_knn import VARIANTS, ItemKNN, item_knn, knn_votes, score_with_votes
from tokenrec_jax.baselines.popularity import popularity
from tokenrec_jax.config import Config
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.evaluation.comparability import PROTOCOL_NOTICES, evaluated_part, training_part
from tokenrec_jax.evaluation.evaluator import EvaluationOutput, ScoreFunction, evaluate
from tokenrec_jax.evaluation.protocols import evaluation_batches
from tokenrec_jax.numerics import normalize
from tokenrec_jax.recommender import Retriever
from tokenrec_jax.sharding import on_mesh
from tokenrec_jax.training.build import BuiltModel, place_graph
from tokenrec_jax.training.known import buffers_among
from tokenrec_jax.training.loop import SELECTION_METRIC
from tokenrec_jax.training.state import Evaluator, Params, TrainState
from tokenrec_jax.types import Split, Stage

#: Weights of EASE that are tried, and ways to read a history.
EASE_WEIGHTS = (30.0, 100.0, 300.0, 1000.0)
EASE_RECENCIES = (1.0, 0.9, 0.7)
#: Its table of pairs then takes 900 MB: the best one's, and twice that while the next is made.
MOST_ITEMS_OF_EASE = 15_000


def split_metrics(
    score: ScoreFunction, interactions: Interactions, split: Split, *, config: Config
) -> dict[str, float]:
    """Returns the metrics of a score function on one split of the whole data set."""
    return split_output(score, interactions, split, config=config).metrics


def both_splits(
    scores: Mapping[Split, ScoreFunction], interactions: Interactions, *, config: Config
) -> dict[Split, EvaluationOutput]:
    """Returns metrics and ranks of a system on both splits, for each of which it has a score function."""
    return {split: split_output(scores[split], interactions, split, config=config) for split in Split}


def graph_part(interactions: Interactions, split: Split, *, config: Config) -> Interactions:
    """Returns the interactions that a system without further training may rest on when it ranks a split."""
    if split is Split.TEST and config.evaluation.graph == "known":
        return interactions.without_last(1)
    return training_part(interactions, config.evaluation.protocol)


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
    batches = evaluation_batches(
        part.interactions,
        part.split,
        max_history=config.data.max_history,
        batch_size=config.evaluation.batch_size,
    )
    return evaluate(score, batches, num_items=interactions.num_items, cutoffs=config.evaluation.cutoffs)


def say_protocol(config: Config) -> None:
    """Logs what has to be said of the protocol of a run, if anything."""
    if PROTOCOL_NOTICES[config.evaluation.protocol]:
        logging.warning("%s", PROTOCOL_NOTICES[config.evaluation.protocol])


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
    """Returns the validation of each stage that ranks items: by dot product of the graph encoder, or by query."""
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


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A baseline on both splits.

    Attributes:
      outputs: metrics and ranks.
      settings: those that validation chose, for result.json.
    """

    outputs: Mapping[Split, EvaluationOutput]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def values(self) -> dict[str, Any]:
        """What result.json has of it."""
        return split_values(self.outputs) | dict(self.settings)


def baselines(
    lightgcn: Mapping[Split, ScoreFunction], interactions: Interactions, *, config: Config
) -> dict[str, Baseline]:
    """Returns the baselines on both splits, by name. Settings are chosen on validation.

    EASE is left out where its table of all pairs would be too large; all but LightGCN, where the config says so.

    Args:
      lightgcn: of the graph encoder that this run trained, see `graph_scores`.
      interactions: whole histories.
      config: of the run.
    """
    found = {"lightgcn": Baseline(both_splits(lightgcn, interactions, config=config))}
    if not config.evaluation.baselines:
        return found
    choose = functools.partial(_best, interactions=interactions, config=config)
    training = graph_part(interactions, Split.VALID, config=config)
    found["popularity"] = choose([({}, popularity(training))], popularity)
    found["item_knn"] = choose(_neighbours(training), lambda part, **chosen: item_knn(part, ItemKNN(**chosen)))
    if training.num_items <= MOST_ITEMS_OF_EASE:
        found["ease"] = choose(_eases(training), ease)
    return found


def _neighbours(training: Interactions) -> Iterator[tuple[dict[str, float], ScoreFunction]]:
    """Yields item-kNN with each kind of similarity, and with each way to read a history."""
    for _, alike in itertools.groupby(VARIANTS, key=lambda one: (one.shrinkage, one.neighbours)):
        first, *others = alike
        votes = knn_votes(training, first)
        for one in (first, *others):
            yield dataclasses.asdict(one), score_with_votes(votes, recency=one.recency)


def _eases(training: Interactions) -> Iterator[tuple[dict[str, float], ScoreFunction]]:
    """Yields EASE with each weight, and with each way to read a history."""
    for l2 in EASE_WEIGHTS:
        weights = ease_weights(training, l2=l2)
        for recency in EASE_RECENCIES:
            yield {"l2": l2, "recency": recency}, score_with_weights(weights, recency=recency)


def _best(
    tried: Iterable[tuple[dict[str, Any], ScoreFunction]],
    make: Callable[..., ScoreFunction],
    *,
    interactions: Interactions,
    config: Config,
) -> Baseline:
    """Returns the best of some settings by validation, which alone is ranked on test too.

    Score functions are made one after another, as some hold a table of all pairs of items.

    Args:
      tried: settings, and the score function that they make of the training.
      make: what makes a score function of interactions with settings, for a test that rests on more than the training.
      interactions: whole histories.
      config: of the run.
    """
    best: tuple[dict[str, Any], ScoreFunction, EvaluationOutput] | None = None
    for settings, score in tried:
        valid = split_output(score, interactions, Split.VALID, config=config)
        if best is None or valid.metrics[SELECTION_METRIC] > best[2].metrics[SELECTION_METRIC]:
            best = settings, score, valid
    if best is None:
        raise ValueError("tried: got nothing; one setting is needed")
    settings, score, valid = best
    if config.evaluation.graph == "known":
        score = make(graph_part(interactions, Split.TEST, config=config), **settings)
    test = split_output(score, interactions, Split.TEST, config=config)
    return Baseline({Split.VALID: valid, Split.TEST: test}, settings)
