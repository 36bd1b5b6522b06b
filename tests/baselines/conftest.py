"""Handmade and real interactions for the baselines."""

import pathlib

import numpy as np
import pytest

from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.evaluation.evaluator import evaluate
from tokenrec_jax.evaluation.protocols import evaluation_batches


def make_interactions(histories, *, num_items, name="handmade"):
    return Interactions(
        name=name,
        indptr=np.cumsum([0, *map(len, histories)]),
        items=np.concatenate([np.asarray(history, np.int64) for history in histories]),
        user_ids=tuple(str(user) for user in range(len(histories))),
        item_ids=tuple(str(item) for item in range(num_items)),
    )


def read_research_data(folder: pathlib.Path) -> Interactions:
    """Reads lines of `user item item ...` with dense ids."""
    rows = [line.split()[1:] for line in (folder / "test.txt").read_text().splitlines()]
    histories = [np.array(row, np.int64) for row in rows]
    num_items = 1 + max(int(history.max()) for history in histories)
    return make_interactions(histories, num_items=num_items, name=folder.name)


@pytest.fixture(scope="session")
def lastfm(shared_data):
    return read_research_data(shared_data / "LastFM")


@pytest.fixture(scope="session")
def beauty(shared_data):
    return read_research_data(shared_data / "Beauty")


@pytest.fixture
def evaluate_split():
    """Ranks a score function on one split of a data set and returns the metrics at 10."""

    def run(score_fn, interactions, split):
        batches = evaluation_batches(interactions, split, max_history=1, batch_size=512)
        return evaluate(score_fn, batches, num_items=interactions.num_items, cutoffs=(10,)).metrics

    return run
