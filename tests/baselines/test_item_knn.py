import numpy as np
import pytest
import scipy.sparse

from tests.baselines.conftest import make_interactions
from tokenrec_jax.baselines.item_knn import binary_matrix, cosine_similarity, item_knn, keep_largest
from tokenrec_jax.evaluation.protocols import evaluation_batches
from tokenrec_jax.types import PADDING, ConfigError, Split


def random_interactions(seed=0):
    rng = np.random.default_rng(seed)
    # With repeated items, and item 29 unknown to training.
    return make_interactions([rng.integers(0, 29, length) for length in rng.integers(3, 12, 40)], num_items=30)


def dense_similarity(train):
    matrix = np.zeros((train.num_users, train.num_items))
    for user in range(train.num_users):
        matrix[user, train.history(user)] = 1.0
    norm = np.linalg.norm(matrix, axis=0)
    norm[norm == 0] = 1.0
    similarity = matrix.T @ matrix / norm[:, None] / norm[None, :]
    np.fill_diagonal(similarity, 0.0)
    return similarity


def test_similarity_is_the_cosine_of_binary_columns():
    train = random_interactions().without_last(2)
    np.testing.assert_allclose(cosine_similarity(train).toarray(), dense_similarity(train), atol=1e-12)


def test_scores_sum_over_distinct_seen_items():
    data = random_interactions()
    train = data.without_last(2)
    similarity = dense_similarity(train)
    score = item_knn(train)
    for batch in evaluation_batches(data, Split.TEST, max_history=2, batch_size=16):
        scores = score(batch)
        for row, seen in enumerate(batch.seen):
            expected = similarity[sorted(set(seen[seen != PADDING].tolist()))].sum(axis=0)
            np.testing.assert_allclose(scores[row], expected, rtol=1e-6)


def test_only_the_nearest_neighbours_vote():
    matrix = scipy.sparse.csr_array(
        np.array([[0.0, 0.5, 0.9, 0.5], [0.1, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.3, 0.2, 0.1, 0.0]])
    )
    expected = [[0.0, 0.5, 0.9, 0.0], [0.1, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.3, 0.2, 0.0, 0.0]]
    np.testing.assert_array_equal(keep_largest(matrix, 2).toarray(), expected)


def test_as_many_neighbours_as_items_is_all_of_them():
    data = random_interactions()
    train = data.without_last(2)
    (batch,) = evaluation_batches(data, Split.VALID, max_history=2, batch_size=64)
    np.testing.assert_array_equal(item_knn(train)(batch), item_knn(train, neighbours=30)(batch))
    assert not np.array_equal(item_knn(train)(batch), item_knn(train, neighbours=2)(batch))


def test_binary_matrix_ignores_padding_and_repeats():
    matrix = binary_matrix(np.array([[1, 1, 0], [PADDING] * 3, [2, PADDING, PADDING]]), num_items=4)
    np.testing.assert_array_equal(matrix.toarray(), [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]])


def test_negative_neighbours():
    with pytest.raises(ConfigError, match="neighbours: got -1"):
        item_knn(random_interactions(), neighbours=-1)


def test_lastfm(lastfm, evaluate_split):
    # Regression values of this definition: change them only together with it.
    result = evaluate_split(item_knn(lastfm.without_last(2)), lastfm, Split.TEST)
    assert result["hr@10"] == pytest.approx(0.0771, abs=5e-5)
    assert result["ndcg@10"] == pytest.approx(0.0393, abs=5e-5)
