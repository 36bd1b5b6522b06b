import numpy as np
import pytest

from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.evaluation.protocols import SEEN_MULTIPLE, evaluation_batches
from tokenrec_jax.types import PADDING, ConfigError, Split


def make(histories, num_items=100):
    return Interactions(
        name="handmade",
        indptr=np.cumsum([0, *map(len, histories)]),
        items=np.array([item for history in histories for item in history], np.int64),
        user_ids=tuple(str(user) for user in range(len(histories))),
        item_ids=tuple(str(item) for item in range(num_items)),
    )


HANDMADE = make([[1, 2, 3], [10, 11, 12, 13, 14, 15], [4, 5], [], [7, 8, 9, 6]])


def unpadded(rows):
    return [row[row != PADDING].tolist() for row in rows]


@pytest.mark.parametrize(
    ("split", "targets", "seen"),
    [
        (Split.TEST, [3, 15, 6], [[1, 2], [10, 11, 12, 13, 14], [7, 8, 9]]),
        (Split.VALID, [2, 14, 9], [[1], [10, 11, 12, 13], [7, 8]]),
    ],
)
def test_targets_histories_and_seen_lists(split, targets, seen):
    batches = evaluation_batches(HANDMADE, split, max_history=3, batch_size=2)
    assert len(batches) == 2
    assert np.concatenate([batch.user for batch in batches]).tolist() == [0, 1, 4, 0]
    assert np.concatenate([batch.target for batch in batches]).tolist() == [*targets, PADDING]
    assert unpadded(row for batch in batches for row in batch.seen) == [*seen, []]
    # The newest three of them, oldest first.
    assert unpadded(row for batch in batches for row in batch.history) == [*(s[-3:] for s in seen), []]
    assert batches.users.tolist() == [0, 1, 4]


def test_all_batches_of_both_splits_have_one_shape_and_type():
    # 65 items before the last one: one more than fits the first multiple.
    data = make([np.arange(length) for length in (3, SEEN_MULTIPLE + 2, 20, 4, 7)])
    shapes = {
        tuple((array.shape, str(array.dtype)) for array in (batch.user, batch.history, batch.seen, batch.target))
        for split in Split
        for batch in evaluation_batches(data, split, max_history=20, batch_size=2)
    }
    expected = ((2,), (2, 20), (2, 2 * SEEN_MULTIPLE), (2,))
    assert shapes == {tuple((shape, "int32") for shape in expected)}


def test_padding_stands_on_the_right():
    (batch,) = evaluation_batches(HANDMADE, Split.TEST, max_history=4, batch_size=3)
    assert batch.history[0].tolist() == [1, 2, PADDING, PADDING]
    assert batch.seen[0, :3].tolist() == [1, 2, PADDING]


def test_equals_a_loop_over_users():
    rng = np.random.default_rng(1)
    data = make([rng.integers(0, 100, length) for length in rng.integers(0, 40, 101)])
    for split, held_out in ((Split.TEST, 1), (Split.VALID, 2)):
        rows = {}
        for batch in evaluation_batches(data, split, max_history=10, batch_size=16):
            for user, history, seen, target in zip(
                batch.user, unpadded(batch.history), unpadded(batch.seen), batch.target, strict=True
            ):
                if target != PADDING:
                    assert user not in rows
                    rows[user] = (history, seen, target)
        expected = {}
        for user in range(data.num_users):
            history = data.history(user).tolist()
            if len(history) >= 3:
                before = history[:-held_out]
                expected[user] = (before[-10:], before, history[-held_out])
        assert rows == expected


def test_batches_can_be_read_again_and_indexed():
    batches = evaluation_batches(HANDMADE, Split.TEST, max_history=3, batch_size=1)
    assert [int(batch.user[0]) for batch in batches] == [0, 1, 4]
    assert [int(batch.user[0]) for batch in batches] == [0, 1, 4]
    assert batches[-1].user.tolist() == [4]
    assert [batch.user.tolist() for batch in batches[1:]] == [[1], [4]]
    with pytest.raises(IndexError):
        batches[3]


def test_no_user_is_long_enough():
    assert len(evaluation_batches(make([[1, 2], [3]]), Split.TEST, max_history=3, batch_size=2)) == 0


@pytest.mark.parametrize("sizes", [{"max_history": 0, "batch_size": 1}, {"max_history": 1, "batch_size": 0}])
def test_sizes_below_one(sizes):
    with pytest.raises(ConfigError, match="got 0; allowed is 1 or more"):
        evaluation_batches(HANDMADE, Split.TEST, **sizes)
