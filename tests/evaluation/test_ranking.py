import math

import jax.numpy as jnp
import numpy as np
import pytest

from tokenrec_jax.evaluation.ranking import metrics, ranks
from tokenrec_jax.types import PADDING, ConfigError, DataError

NAN, INF = float("nan"), float("inf")
NONE = [PADDING]


@pytest.mark.parametrize(
    ("scores", "target", "seen", "expected"),
    [
        ([4.0, 3.0, 2.0, 1.0], 0, NONE, 1),
        ([4.0, 3.0, 2.0, 1.0], 3, NONE, 4),
        # Ties count against us, all of them.
        ([1.0, 1.0, 1.0, 1.0], 0, NONE, 4),
        ([2.0, 1.0, 1.0, 0.0], 1, NONE, 3),
        ([-0.0, 0.0, -1.0, -1.0], 0, NONE, 2),
        # Seen items leave the race; the target never does.
        ([4.0, 3.0, 2.0, 1.0], 3, [0, 1], 2),
        ([4.0, 3.0, 2.0, 1.0], 3, [0, 1, 3], 2),
        ([1.0, 1.0, 1.0, 1.0], 2, [3, 3, PADDING], 3),
        # NaN stands before the target; a NaN or -inf target stands last.
        ([NAN, 3.0, 2.0, 1.0], 1, NONE, 2),
        ([NAN, 3.0, 2.0, 1.0], 0, NONE, 4),
        ([NAN, 3.0, 2.0, 1.0], 0, [1], 3),
        ([NAN, 3.0, 2.0, 1.0], 1, [0], 1),
        ([-INF, 3.0, 2.0, -INF], 0, NONE, 4),
        ([INF, 3.0, INF, 1.0], 0, NONE, 2),
        # A filling row has no rank.
        ([4.0, 3.0, 2.0, 1.0], PADDING, NONE, 0),
    ],
)
def test_ranks_by_hand(scores, target, seen, expected):
    # Two padding columns that would beat everything.
    padded = jnp.array([[*scores, 1e9, NAN]])
    rank = ranks(padded, jnp.array([target]), seen=jnp.array([seen]), num_items=4)
    assert rank.tolist() == [expected]


def test_ranks_equal_a_plain_loop():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (50, 30)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.05] = NAN
    num_items = 25
    target = rng.integers(0, num_items, 50)
    seen = rng.integers(PADDING, num_items, (50, 7))
    expected = []
    for row in range(50):
        rank = 0
        for item in range(num_items):
            allowed = item == target[row] or item not in seen[row]
            rank += bool(allowed and not scores[row, item] < scores[row, target[row]])
        expected.append(rank)
    rank = ranks(jnp.asarray(scores), jnp.asarray(target), seen=jnp.asarray(seen), num_items=num_items)
    assert rank.tolist() == expected


def test_metrics_equal_a_plain_loop():
    rank = np.random.default_rng(0).integers(1, 60, 200)
    result = metrics(rank, (1, 10, 20))
    for k in (1, 10, 20):
        hits = [r for r in rank.tolist() if r <= k]
        assert result[f"hr@{k}"] == pytest.approx(len(hits) / 200, rel=1e-12)
        assert result[f"recall@{k}"] == result[f"hr@{k}"]
        assert result[f"mrr@{k}"] == pytest.approx(sum(1 / r for r in hits) / 200, rel=1e-12)
        assert result[f"ndcg@{k}"] == pytest.approx(sum(1 / math.log2(r + 1) for r in hits) / 200, rel=1e-12)
    assert all(type(value) is float for value in result.values())


def test_metrics_ignore_filling_rows():
    assert metrics(np.array([1, 0, 3, 0]), [3]) == metrics(np.array([1, 3]), [3])


@pytest.mark.parametrize("cutoffs", [(), (0,), (10, -1)])
def test_bad_cutoffs(cutoffs):
    with pytest.raises(ConfigError, match="cutoffs: got"):
        metrics(np.array([1]), cutoffs)


def test_no_ranks():
    with pytest.raises(DataError, match="no user has a target"):
        metrics(np.array([0, 0]), (10,))
