import numpy as np
import pytest

from tests.baselines.conftest import make_interactions
from tokenrec_jax.baselines.popularity import popularity
from tokenrec_jax.evaluation.protocols import evaluation_batches
from tokenrec_jax.types import Split


def test_scores_are_training_counts():
    data = make_interactions([[0, 1, 2, 3], [0, 2, 4, 1], [0, 3, 3, 3, 1]], num_items=6)
    (batch,) = evaluation_batches(data, Split.TEST, max_history=2, batch_size=4)
    scores = popularity(data.without_last(2))(batch)
    np.testing.assert_array_equal(scores, np.tile([3, 1, 1, 2, 0, 0], (4, 1)))


def test_lastfm(lastfm, evaluate_split):
    result = evaluate_split(popularity(lastfm.without_last(2)), lastfm, Split.TEST)
    assert result["users"] == 1090
    assert result["hr@10"] == pytest.approx(0.0385, abs=5e-5)
    assert result["ndcg@10"] == pytest.approx(0.0180, abs=5e-5)


def test_beauty(beauty, evaluate_split):
    # Many items share a count: ties in our favour would give 0.0120 and 0.0056.
    result = evaluate_split(popularity(beauty.without_last(2)), beauty, Split.TEST)
    assert result["users"] == 22363
    assert result["hr@10"] == pytest.approx(0.0110, abs=5e-5)
    assert result["ndcg@10"] == pytest.approx(0.0053, abs=5e-5)
