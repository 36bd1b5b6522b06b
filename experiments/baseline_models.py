"""The trained baselines wired to their losses, and the codes that a generator writes. Read `make_baseline`."""

import jax
import numpy as np
from absl import logging
from flax import nnx
from jaxtyping import Array, Int

from experiments.baseline_config import SYSTEMS, BaselineConfig, SASRecRun, TigerRun
from experiments.baseline_training import Baseline
from tokenrec_jax.baselines.sasrec import SASRec
from tokenrec_jax.baselines.semantic_ids import SemanticIds, distinct, spectral_codes
from tokenrec_jax.baselines.tiger import Tiger
from tokenrec_jax.config import EvaluationConfig
from tokenrec_jax.data.interactions import Interactions, training_part
from tokenrec_jax.retrieval.tiles import similarities
from tokenrec_jax.sharding import fetch
from tokenrec_jax.training.finished import FinishedRun
from tokenrec_jax.training.losses import softmax_retrieval
from tokenrec_jax.types import ConfigError, EvaluationBatch, HistoryBatch, Stage


def make_baseline(config: BaselineConfig, interactions: Interactions) -> Baseline:
    """Returns the model that a config describes.

    Raises:
      ConfigError: a setting is not allowed, or the codes are those of other items.
    """
    if isinstance(config, SASRecRun):
        return _sasrec(config, interactions)
    if isinstance(config, TigerRun):
        return _tiger(config, interactions)
    raise ConfigError(f"config: got a {type(config).__name__}; allowed: {', '.join(SYSTEMS)}")


def _sasrec(config: SASRecRun, interactions: Interactions) -> Baseline:
    num_items = interactions.num_items

    def build(key: jax.Array) -> SASRec:
        return SASRec(config.model, num_items=num_items, max_history=config.data.max_history, rngs=nnx.Rngs(key))

    def loss(model: SASRec, batch: HistoryBatch, key: jax.Array) -> Array:
        queries = model.queries(batch.history, key=key)
        return softmax_retrieval(queries, model.items(), target=batch.target, num_items=num_items)

    def scores(model: SASRec, batch: EvaluationBatch) -> Array:
        return similarities(model.last_query(batch.history), model.items())

    return Baseline(name="sasrec", build=build, loss=loss, scores=scores)


def _tiger(config: TigerRun, interactions: Interactions) -> Baseline:
    ids = semantic_ids(config, interactions)

    def build(key: jax.Array) -> Tiger:
        return Tiger(config.model, ids, rngs=nnx.Rngs(key))

    def loss(model: Tiger, batch: HistoryBatch, key: jax.Array) -> Array:
        return model.loss(batch, key=key)

    def scores(model: Tiger, batch: EvaluationBatch) -> Array:
        return model.scores(batch)

    return Baseline(name="tiger", build=build, loss=loss, scores=scores)


def semantic_ids(config: TigerRun, interactions: Interactions) -> SemanticIds:
    """Returns the sequences of all items: codes of a finished run, or of k-means; told apart where they are the same.

    Raises:
      ConfigError: the run has not finished, is about other items, or was trained on what is held out here.
    """
    if config.codes:
        codes, book_size = _codes_of_run(config.codes, interactions, config.evaluation)
    else:
        settings, book_size = config.model, config.model.book_size
        codes = spectral_codes(
            training_part(interactions, config.evaluation),
            dim=settings.vector_dim,
            num_books=settings.num_books,
            book_size=book_size,
            iterations=settings.kmeans_iterations,
            seed=config.seed,
        )
    ids = distinct(codes, book_size=book_size)
    sharing = int(np.sum(ids.codes[:, -1] > 0)) if ids.codes.shape[1] > codes.shape[1] else 0
    logging.info(
        "%d items as %d tokens of %s codes; %d are told from others by the last one",
        len(codes), len(ids.sizes), ids.sizes, sharing,
    )  # fmt: skip
    return ids


def _codes_of_run(
    path: str, interactions: Interactions, evaluation: EvaluationConfig
) -> tuple[Int[np.ndarray, "items book"], int]:
    """Returns the codes of the items that a finished run was trained to, and how many codes a book has.

    Not those of `Recommender.load`, which may rest on the held-out items that the baseline is to be ranked on.
    """
    run = FinishedRun.open(path, flag="--codes", trained=Stage.TOKENIZER)
    if run.interactions.item_ids != interactions.item_ids:
        raise ConfigError(f"--codes={path}: a run on other items; give one on {interactions.name}, with the same items")
    theirs = training_part(run.interactions, run.config.evaluation)
    if not _begins(training_part(interactions, evaluation), theirs):
        raise ConfigError(
            f"--codes={path}: trained on interactions that are not trained on here, maybe on items that are held out; "
            "give a run of the same data and protocol, and of the same seed where that shuffles ties"
        )
    return fetch(run.buffers["tables"]["item_codes"])[: interactions.num_items], run.config.tokenizer.book_size


def _begins(whole: Interactions, part: Interactions) -> bool:
    """Returns whether every user's history in `part` is what the same user's history in `whole` begins with."""
    lengths = np.diff(part.indptr)
    if whole.user_ids != part.user_ids or np.any(lengths > np.diff(whole.indptr)):
        return False
    places = np.arange(len(part.items)) + np.repeat(whole.indptr[:-1] - part.indptr[:-1], lengths)
    return np.array_equal(whole.items[places], part.items)
