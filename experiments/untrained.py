"""Baselines beside a run that need no training of their own, their settings chosen on validation. Read `baselines`.

A setting is chosen by climbing a ladder of values, on while there is something better within two steps: validation is
noisy, so one worse value is no peak passed, and unlike a small grid there is no edge within reach.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging

from experiments.evaluation import graph_part, ranked_splits, split_output, split_values
from tokenrec_jax.baselines.ease import ease, ease_weights, score_with_weights
from tokenrec_jax.baselines.item_knn import ItemKNN, item_knn, knn_votes, most_pairs, score_with_votes
from tokenrec_jax.baselines.popularity import popularity
from tokenrec_jax.config import Config
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.evaluation.evaluator import EvaluationOutput, ScoreFunction
from tokenrec_jax.training.loop import SELECTION_METRIC
from tokenrec_jax.types import Split

#: Values that are tried, in order, and the first of them.
EASE_WEIGHTS, FIRST_WEIGHT = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4), 300.0
SHRINKAGES, FIRST_SHRINKAGE = (0.0, 3.0, 10.0, 30.0, 100.0, 300.0), 3.0
RECENCIES, FIRST_RECENCY = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1), 0.8
#: Values in a row that are no better, which end a climb.
PATIENCE = 2
#: All items may vote for an item, or its nearest, tried with the best of the other settings.
FEW_NEIGHBOURS = 50
#: EASE's table of pairs then takes 900 MB: the best one's, and twice that while the next is made.
MOST_ITEMS_OF_EASE = 15_000
#: Pairs of items that item-kNN may hold, forty bytes each: 8 GB at most.
MOST_PAIRS_OF_KNN = 200_000_000


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A baseline on the splits that are held out.

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


@dataclasses.dataclass(frozen=True)
class Tried:
    """Settings that were ranked on validation.

    Attributes:
      settings: by name.
      score: the score function that they make of the training.
      valid: its metrics and ranks.
    """

    settings: Mapping[str, Any]
    score: ScoreFunction
    valid: EvaluationOutput

    @property
    def value(self) -> float:
        """What settings are chosen by."""
        return self.valid.metrics[SELECTION_METRIC]


def baselines(
    lightgcn: Mapping[Split, ScoreFunction], interactions: Interactions, *, config: Config
) -> dict[str, Baseline]:
    """Returns the baselines on the splits that are held out, by name. Settings are chosen on validation.

    Item-kNN and EASE are left out where their tables of pairs would be too large; all but LightGCN, where the config
    says so.

    Args:
      lightgcn: of the graph encoder that this run trained, see `graph_scores`.
      interactions: whole histories.
      config: of the run.
    """
    found = {"lightgcn": Baseline(ranked_splits(lightgcn, interactions, config=config))}
    if not config.evaluation.baselines:
        return found
    training = graph_part(interactions, Split.VALID, config=config)
    known = training
    if config.evaluation.graph == "known":
        known = graph_part(interactions, Split.TEST, config=config)

    def ranked(name: str, settings: Mapping[str, Any], score: ScoreFunction) -> Tried:
        tried = Tried(settings, score, split_output(score, interactions, Split.VALID, config=config))
        chosen = "".join(f" {key}={value:g}" for key, value in settings.items())
        logging.info("%s%s %s=%.4g on validation", name, chosen, SELECTION_METRIC, tried.value)
        return tried

    def on_both(best: Tried, make: Callable[..., ScoreFunction]) -> Baseline:
        score = best.score if known is training else make(known, **best.settings)
        test = split_output(score, interactions, Split.TEST, config=config)
        return Baseline({Split.VALID: best.valid, Split.TEST: test}, best.settings)

    found["popularity"] = on_both(ranked("popularity", {}, popularity(training)), popularity)
    if (pairs := most_pairs(training)) <= MOST_PAIRS_OF_KNN:
        best = _best_neighbours(training, ranked)
        found["item_knn"] = on_both(best, lambda part, **chosen: item_knn(part, ItemKNN(**chosen)))
    else:
        logging.info("item-kNN is left out: up to %d pairs of items, at most %d fit", pairs, MOST_PAIRS_OF_KNN)
    if training.num_items <= MOST_ITEMS_OF_EASE:
        found["ease"] = on_both(_best_ease(training, ranked), ease)
    else:
        logging.info("EASE is left out: %d items, at most %d fit", training.num_items, MOST_ITEMS_OF_EASE)
    return found


#: Ranks on validation what settings make.
Rank = Callable[[str, Mapping[str, Any], ScoreFunction], Tried]


def _best_neighbours(training: Interactions, ranked: Rank) -> Tried:
    """Returns the best item-kNN."""

    def at(shrinkage: float) -> Tried:
        chosen = ItemKNN(shrinkage=shrinkage)
        votes = knn_votes(training, chosen)

        def read(recency: float) -> Tried:
            settings = dataclasses.asdict(dataclasses.replace(chosen, recency=recency))
            return ranked("item_knn", settings, score_with_votes(votes, recency=recency))

        return climb(RECENCIES, read, start=FIRST_RECENCY)

    best = climb(SHRINKAGES, at, start=FIRST_SHRINKAGE)
    fewer = dataclasses.replace(ItemKNN(**best.settings), neighbours=FEW_NEIGHBOURS)
    return max(
        best, ranked("item_knn", dataclasses.asdict(fewer), item_knn(training, fewer)), key=lambda one: one.value
    )


def _best_ease(training: Interactions, ranked: Rank) -> Tried:
    """Returns the best EASE."""

    def at(l2: float) -> Tried:
        weights = ease_weights(training, l2=l2)

        def read(recency: float) -> Tried:
            return ranked("ease", {"l2": l2, "recency": recency}, score_with_weights(weights, recency=recency))

        return climb(RECENCIES, read, start=FIRST_RECENCY)

    return climb(EASE_WEIGHTS, at, start=FIRST_WEIGHT)


def climb(ladder: Sequence[float], make: Callable[[float], Tried], *, start: float) -> Tried:
    """Returns the best of what a ladder's values make, up and down from one of them until two in a row are no better.

    Only the best and the newest are kept, as some hold a table of all pairs of items.
    """
    first = ladder.index(start)
    best = make(start)
    for way in (ladder[first + 1 :], ladder[:first][::-1]):
        worse = 0
        for value in way:
            tried = make(value)
            worse = 0 if tried.value > best.value else worse + 1
            if not worse:
                best = tried
            if worse == PATIENCE:
                break
    return best
