"""The two protocols beside the honest one, which exist to stand next to the figures of others. Read `PROTOCOL_NOTICES`.

  honest         nothing here: histories as they are, the last two items held out, see `protocols.py`
  ties_shuffled  interactions of one moment, whose order a data set invented, are put in random order before the split
  reference      what the reference code of TokenRec measures; flawed, and never a figure of ours

A run applies a protocol in three places: the order of the data before anything is split (`protocol_interactions`), what
may be trained on (`training_part`, beside `Interactions`), what is ranked (`evaluated_part`). For the honest protocol
all three are the plain thing.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

from tokenrec_jax.config import PROTOCOLS
from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.types import ConfigError, Split

#: What every output of a run under another protocol has to say; a run that says nothing is honest.
PROTOCOL_NOTICES: Mapping[str, str] = {
    "honest": "",
    "ties_shuffled": "protocol ties_shuffled: interactions of one moment are in random order; compare only with "
    "figures under the same protocol",
    "reference": "WARNING: protocol reference: FLAWED ON PURPOSE, only to stand beside the reference code's published "
    "figures: the targets of long histories were trained on, and the model is selected on the test targets",
}

#: Items of a history that the reference code keeps, the oldest ones, its target last among them.
REFERENCE_HISTORY = 51

#: What every output of a run has to say of the interactions that it left out of its training, by their number.
HELD_OUT_NOTICES: Mapping[int, str] = {
    2: "",
    1: "trained on everybody's validation item, too: compare with figures of systems that were, as EASE's and "
    "item-kNN's are with evaluation.graph=known",
    0: "trained on all interactions: nothing is left to measure",
}


def protocol_interactions(interactions: Interactions, protocol: str, seed: int) -> Interactions:
    """Returns whole histories in the order in which a protocol splits them.

    Only `ties_shuffled` changes them. Where there are timestamps, interactions of a user with equal ones are permuted.

    Where there are none, ties are guessed from original item ids (as numbers if all are, else as text): sorting a day's
    interactions by id, as the Amazon data has it, leaves more neighbours in a history in ascending than in descending
    order, while true order goes either way about equally often. So of the ascending neighbours as many as there are
    descending ones are taken for true, drawn at random, and the others for ties. On Beauty 0.71 of the last two items
    ascend before and 0.55 after; where ids tell nothing, next to nothing is shuffled.

    It is a guess of how many ties there are, rather too few, and not of where: some true order is lost, some invented
    order stays, and a target that changes places with an older item lets the training know what came later. Figures are
    those of another split of the data, higher or lower; compare only within this protocol.

    Args:
      interactions: whole histories, held-out items included.
      protocol: one of `config.PROTOCOLS`.
      seed: of the run: the spread over seeds then covers the order as well.

    Raises:
      ConfigError: there is no such protocol.
    """
    _check(protocol)
    if protocol != "ties_shuffled":
        return interactions
    rng = np.random.default_rng((seed, 11))
    group = _tie_groups(interactions, rng=rng)
    order = np.lexsort((rng.random(len(group)), group))
    return dataclasses.replace(interactions, items=interactions.items[order])


@dataclasses.dataclass(frozen=True)
class EvaluatedPart:
    """What `evaluation_batches` takes.

    Attributes:
      interactions: histories.
      split: whose targets are ranked.
    """

    interactions: Interactions
    split: Split


def evaluated_part(interactions: Interactions, split: Split, protocol: str) -> EvaluatedPart:
    """Returns what is ranked when a split is asked for.

    Under `reference` both splits are the test split, and the last of the first `REFERENCE_HISTORY` items is the target,
    which users with more items have in their training.

    Differs: the reference code also shuffles histories and gives seen items the score 0, which may stand before the
    target; here they are left out.
    """
    _check(protocol)
    if protocol != "reference":
        return EvaluatedPart(interactions, split)
    lengths = np.diff(interactions.indptr)
    position = np.arange(len(interactions.items)) - np.repeat(interactions.indptr[:-1], lengths)
    keep = position < REFERENCE_HISTORY
    times = interactions.timestamps
    oldest = dataclasses.replace(
        interactions,
        indptr=np.append(0, np.cumsum(np.minimum(lengths, REFERENCE_HISTORY))),
        items=interactions.items[keep],
        timestamps=None if times is None else times[keep],
    )
    return EvaluatedPart(oldest, Split.TEST)


def _tie_groups(interactions: Interactions, *, rng: np.random.Generator) -> Int[np.ndarray, " interactions"]:
    """Returns a number for each interaction, ascending, equal where the order within a user is not known."""
    starts = np.zeros(len(interactions.items), bool)
    starts[interactions.indptr[:-1][np.diff(interactions.indptr) > 0]] = True
    if interactions.timestamps is not None:
        starts[1:] |= np.diff(interactions.timestamps) != 0
        return np.cumsum(starts)
    place = _sorting_places(interactions.item_ids)[interactions.items]
    ascending = np.append(False, place[1:] > place[:-1]) & ~starts
    descending = ~ascending & ~starts
    # Beyond 1, where fewer ascend than descend, all of them are true.
    true_share = np.sum(descending) / max(np.sum(ascending), 1)
    return np.cumsum(starts | descending | (rng.random(len(starts)) < true_share))


def _sorting_places(ids: tuple[str, ...]) -> Int[np.ndarray, " items"]:
    """Returns where each id stands when all are sorted, as numbers if they are numbers."""
    key = (lambda row: int(ids[row])) if all(one.isdecimal() for one in ids) else (lambda row: ids[row])
    places = np.empty(len(ids), np.int64)
    places[sorted(range(len(ids)), key=key)] = np.arange(len(ids))
    return places


def _check(protocol: str) -> None:
    if protocol not in PROTOCOLS:
        raise ConfigError(f"evaluation.protocol is {protocol!r}; allowed: {', '.join(PROTOCOLS)}")
