import numpy as np
import pytest
import scipy.sparse

from tests.baselines.conftest import make_interactions
from tokenrec_jax.baselines.item_knn import (
    ItemKNN,
    cosine_similarity,
    history_matrix,
    item_knn,
    keep_largest,
)
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
    plain = item_knn(train)(batch)
    np.testing.assert_allclose(plain, item_knn(train, ItemKNN(neighbours=30))(batch), rtol=1e-6)
    assert not np.allclose(plain, item_knn(train, ItemKNN(neighbours=2))(batch))


def test_settings_against_a_loop():
    # 1, 2, 3 are together with 0 twice, once, never; user 3 tells how much two users of 1 and 2 weigh.
    data = make_interactions([[0, 1, 4, 4], [0, 1, 5, 5], [0, 2, 6, 6], [3, 0, 1, 7]], num_items=8)
    train = data.without_last(2)
    counts = {0: 4, 1: 2, 2: 1, 3: 1}
    together = {(0, 1): 2, (0, 2): 1, (0, 3): 1}
    batch = evaluation_batches(data, Split.VALID, max_history=4, batch_size=4)[0]

    def similarity(item, other):
        n = together.get((min(item, other), max(item, other)), 0)
        return n / (np.sqrt(counts[item] * counts[other]) + 3.0)

    scores = item_knn(train, ItemKNN(shrinkage=3.0, recency=0.5))(batch)
    for row, (older, newer) in enumerate([(0, 1), (0, 1), (0, 2), (3, 0)]):
        for item in range(4):
            voices = {other: weight for other, weight in ((newer, 1.0), (older, 0.5)) if other != item}
            expected = sum(weight * similarity(item, other) for other, weight in voices.items())
            assert scores[row, item] == pytest.approx(expected)
    # Item 0 hears its nearest alone, which is 1; 2 and 3 know none but 0.
    nearest = item_knn(train, ItemKNN(neighbours=1))(batch)
    assert nearest[2, 0] == nearest[3, 0] == 0.0 < nearest[0, 0]
    assert nearest[2, 3] == pytest.approx(0.5)


def test_history_matrix_ignores_padding_and_repeats():
    lists = np.array([[1, 1, 0], [PADDING] * 3, [2, PADDING, PADDING]])
    np.testing.assert_array_equal(
        history_matrix(lists, num_items=4).toarray(), [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]
    )
    weighted = history_matrix(np.array([[1, 2, 1, 0, 3], [2, 3, PADDING, PADDING, PADDING]]), num_items=4, recency=0.5)
    np.testing.assert_array_equal(weighted.toarray(), [[0.5, 0.25, 0.125, 1.0], [0.0, 0.0, 0.5, 1.0]])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"neighbours": -1}, "neighbours: got -1"),
        ({"shrinkage": -1.0}, "shrinkage: got -1"),
        ({"recency": 0.0}, "recency: got 0"),
    ],
)
def test_settings_out_of_range(wrong, message):
    with pytest.raises(ConfigError, match=message):
        item_knn(random_interactions(), ItemKNN(**wrong))


def test_lastfm(lastfm, evaluate_split):
    # Regression values of this definition: change them only together with it.
    train = lastfm.without_last(2)
    result = evaluate_split(item_knn(train), lastfm, Split.TEST)
    assert result["hr@10"] == pytest.approx(0.0771, abs=5e-5)
    assert result["ndcg@10"] == pytest.approx(0.0393, abs=5e-5)


@pytest.mark.slow
def test_beauty_is_strong(beauty, evaluate_split):
    chosen = ItemKNN(shrinkage=10.0, recency=0.7)
    result = evaluate_split(item_knn(beauty.without_last(2), chosen), beauty, Split.TEST)
    assert result["hr@10"] == pytest.approx(0.0718, abs=5e-5)
    assert result["ndcg@10"] == pytest.approx(0.0428, abs=5e-5)
