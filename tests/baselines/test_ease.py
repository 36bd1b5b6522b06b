import numpy as np
import pytest

from tests.baselines.test_item_knn import random_interactions
from tokenrec_jax.baselines.ease import ease, ease_weights, score_with_weights
from tokenrec_jax.baselines.item_knn import interaction_matrix
from tokenrec_jax.evaluation.protocols import evaluation_batches
from tokenrec_jax.types import PADDING, ConfigError, Split


def test_weights_are_those_of_the_constrained_regression():
    """Column by column: ridge regression on all other items, which is what the closed form solves at once."""
    train = random_interactions().without_last(2)
    matrix = interaction_matrix(train).toarray()
    weights = ease_weights(train, l2=3.0)
    for item in range(train.num_items):
        others = np.delete(np.arange(train.num_items), item)
        rest = matrix[:, others]
        expected = np.linalg.solve(rest.T @ rest + 3.0 * np.eye(len(others)), rest.T @ matrix[:, item])
        np.testing.assert_allclose(weights[others, item], expected, atol=1e-5)
    assert not weights.diagonal().any()


def test_scores_sum_over_distinct_seen_items():
    data = random_interactions()
    train = data.without_last(2)
    weights, score = ease_weights(train, l2=3.0), ease(train, l2=3.0)
    for batch in evaluation_batches(data, Split.TEST, max_history=2, batch_size=16):
        scores = score(batch)
        assert scores.dtype == np.float32
        for row, seen in enumerate(batch.seen):
            expected = weights[sorted(set(seen[seen != PADDING].tolist()))].sum(axis=0)
            np.testing.assert_allclose(scores[row], expected, rtol=1e-4, atol=1e-6)


def test_newer_items_count_more():
    data = random_interactions()
    weights = ease_weights(data.without_last(2), l2=3.0)
    batch = evaluation_batches(data, Split.TEST, max_history=2, batch_size=16)[0]
    scores = score_with_weights(weights, recency=0.5)(batch)
    for row, seen in enumerate(batch.seen):
        history = seen[seen != PADDING].tolist()
        newest = {item: 0.5 ** (len(history) - 1 - place) for place, item in enumerate(history)}
        expected = sum(weight * weights[item] for item, weight in newest.items())
        np.testing.assert_allclose(scores[row], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("l2", [0.0, -1.0, float("nan")])
def test_l2_must_be_positive(l2):
    with pytest.raises(ConfigError, match="l2"):
        ease(random_interactions().without_last(2), l2=l2)
