import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenrec_jax.evaluation.evaluator import _best_positions, evaluate, score_with_index
from tokenrec_jax.evaluation.ranking import metrics
from tokenrec_jax.retrieval.index import ItemIndex
from tokenrec_jax.types import PADDING, ConfigError, DataError, EvaluationBatch

NUM_ITEMS, COLUMNS = 40, 48


def make_batches(seed=0, sizes=(8, 8, 5)):
    """Random users whose last batch is partly filled; ids count up from 100."""
    rng = np.random.default_rng(seed)
    batches, user = [], 100
    for size in sizes:
        items = np.stack([rng.permutation(NUM_ITEMS) for _ in range(8)]).astype(np.int32)
        seen = np.where(np.arange(12) < rng.integers(1, 12, 8)[:, None], items[:, :12], PADDING)
        target = items[:, 12].copy()
        ids = np.arange(user, user + 8, dtype=np.int32)
        seen[size:], target[size:], ids[size:] = PADDING, PADDING, 0
        batches.append(EvaluationBatch(user=ids, history=seen[:, :4], seen=seen, target=target))
        user += size
    return batches


def table_scores(batch):
    """Scores that depend on the user alone, to be made again in a loop; padding columns would win."""
    rows = [np.random.default_rng(int(user)).normal(size=COLUMNS) for user in batch.user]
    scores = np.stack(rows).astype(np.float32)
    scores[:, NUM_ITEMS:] = 50.0
    return scores


def test_equals_a_loop_over_users():
    batches = make_batches()
    output = evaluate(table_scores, batches, num_items=NUM_ITEMS, cutoffs=(3, 10))
    ranks, shown = [], {3: set(), 10: set()}
    for batch in batches:
        for row, score in enumerate(table_scores(batch)):
            if batch.target[row] == PADDING:
                continue
            allowed = sorted(set(range(NUM_ITEMS)) - set(batch.seen[row]), key=lambda item: -score[item])
            ranks.append(allowed.index(batch.target[row]) + 1)
            for k, items in shown.items():
                items.update(allowed[:k])
    assert output.ranks.tolist() == ranks
    assert output.users.tolist() == list(range(100, 121))
    expected = metrics(np.array(ranks), (3, 10))
    expected |= {f"coverage@{k}": len(items) / NUM_ITEMS for k, items in shown.items()} | {"users": 21.0}
    assert output.metrics == expected
    assert 0.0 < output.metrics["coverage@3"] < 1.0


def test_device_scores_give_the_same_as_host_scores():
    host = evaluate(table_scores, make_batches(), num_items=NUM_ITEMS, cutoffs=(5,))
    device = evaluate(lambda batch: jnp.asarray(table_scores(batch)), make_batches(), num_items=NUM_ITEMS, cutoffs=(5,))
    assert host.metrics == device.metrics


def test_the_same_users_in_other_batches_give_the_same():
    batches = make_batches(sizes=(8, 8))
    whole = jax.tree.map(lambda *parts: np.concatenate(parts), *batches)
    first = evaluate(table_scores, batches, num_items=NUM_ITEMS, cutoffs=(5, 10))
    second = evaluate(table_scores, [whole], num_items=NUM_ITEMS, cutoffs=(5, 10))
    assert first.metrics == second.metrics
    assert first.ranks.tolist() == second.ranks.tolist()


def test_cutoffs_beyond_the_catalogue():
    output = evaluate(table_scores, make_batches(), num_items=NUM_ITEMS, cutoffs=(NUM_ITEMS + 100,))
    assert output.metrics["hr@140"] == 1.0
    assert output.metrics["coverage@140"] == 1.0


def test_nan_scores_score_nothing():
    output = evaluate(
        lambda batch: np.full((8, NUM_ITEMS), np.nan, np.float32),
        make_batches(),
        num_items=NUM_ITEMS,
        cutoffs=(5,),
    )
    assert output.metrics["hr@5"] == 0.0
    assert output.metrics["coverage@5"] == 0.0


def test_queries_are_ranked_without_implicit_copies_and_compile_once():
    rng = np.random.default_rng(3)
    table = rng.normal(size=(128, 6)).astype(np.float32)
    vectors = rng.normal(size=(NUM_ITEMS, 6)).astype(np.float32)
    before = _best_positions._cache_size()
    with jax.transfer_guard("disallow"):
        users = jax.device_put(table)
        query = jax.jit(lambda batch: users[batch.user])
        score = score_with_index(query, ItemIndex.build(vectors, metric="cosine"))
        # Cutoff 7 is this test's own, so that no other test has compiled it.
        output = evaluate(score, make_batches(), num_items=NUM_ITEMS, cutoffs=(7,))
    assert query._cache_size() == 1
    assert _best_positions._cache_size() == before + 1
    lengths = np.linalg.norm(vectors, axis=1)
    expected = evaluate(
        lambda batch: table[batch.user] @ vectors.T / lengths,
        make_batches(),
        num_items=NUM_ITEMS,
        cutoffs=(7,),
    )
    assert output.metrics == expected.metrics


@pytest.mark.parametrize("shape", [(8, NUM_ITEMS - 1), (7, NUM_ITEMS), (8,)])
def test_scores_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"scores: got shape .* allowed is \[8, 40 or more\]"):
        evaluate(lambda batch: np.zeros(shape, np.float32), make_batches(), num_items=NUM_ITEMS, cutoffs=(5,))


def test_nothing_to_evaluate():
    with pytest.raises(DataError, match="at least one user"):
        evaluate(table_scores, [], num_items=NUM_ITEMS, cutoffs=(5,))
    with pytest.raises(ConfigError, match="cutoffs"):
        evaluate(table_scores, make_batches(), num_items=NUM_ITEMS, cutoffs=())
