"""Users of like length go together, and everybody gets the same as alone."""

import numpy as np

from tests.untrained import small_config, untrained_recommender
from tokenrec_jax.bulk.ranking import BulkRanker


def test_every_user_once_in_few_shapes(tmp_path, monkeypatch):
    recommender = untrained_recommender(small_config(tmp_path))
    ranker = BulkRanker.of(recommender, batch_size=16)
    real, shapes = recommender.retriever.query, []

    def query(params, buffers, index, batch, **options):
        shapes.append(batch.history.shape)
        return real(params, buffers, index, batch, **options)

    monkeypatch.setattr(recommender.retriever, "query", query)
    users = np.random.default_rng(0).permutation(60)[:50]
    batches = list(ranker.rank(users, k=5))
    assert sorted(np.concatenate([batch.users for batch in batches])) == sorted(users)
    # The buckets of the config; short histories first.
    assert shapes == sorted(shapes) and set(shapes) <= {(16, 6), (16, 12)} and len(shapes) == 4
    lengths = np.diff(recommender.interactions.indptr)
    assert np.all(np.diff(np.concatenate([lengths[batch.users] for batch in batches])) >= 0)
    for batch in (batches[0], batches[-1]):
        expected = [recommender.recommend([recommender.user_ids[user]], k=5)[0] for user in batch.users]
        found = [[recommender.item_ids[item] for item in row] for row in batch.ids]
        assert found == [[each.item for each in row] for row in expected]
        np.testing.assert_allclose(batch.scores, [[each.score for each in row] for row in expected], atol=1e-5)


def test_removed_items_are_left_out(tmp_path):
    recommender = untrained_recommender(small_config(tmp_path))
    best = [each.item for each in recommender.recommend(["user-1"], k=4)[0]]
    recommender.remove_items(best[:3])
    ranker = BulkRanker.of(recommender)
    (batch,) = ranker.rank(np.array([1]), k=4)
    assert recommender.item_ids[batch.ids[0, 0]] == best[3]


def test_the_unseen_prompt_asks_otherwise(tmp_path):
    recommender = untrained_recommender(small_config(tmp_path))
    ranker = BulkRanker.of(recommender)
    seen, unseen = (next(ranker.rank(np.arange(4), k=5, prompt=prompt)) for prompt in ("seen", "unseen"))
    assert np.any(seen.scores != unseen.scores)
