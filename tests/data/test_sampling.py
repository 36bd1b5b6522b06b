import numpy as np
import pytest

from tokenrec_jax.data.interactions import Interactions
from tokenrec_jax.data.sampling import EpochOrder, NegativeSampler
from tokenrec_jax.types import DataError


def interactions(histories: list[list[int]], num_items: int) -> Interactions:
    return Interactions(
        name="made",
        indptr=np.concatenate([[0], np.cumsum([len(h) for h in histories])]),
        items=np.concatenate([np.array(h, np.int32) for h in histories]),
        user_ids=tuple(str(u) for u in range(len(histories))),
        item_ids=tuple(str(i) for i in range(num_items)),
    )


def test_each_epoch_is_a_permutation_and_epochs_differ():
    order = EpochOrder(10, seed=3)
    epochs = order.slice(0, 30).reshape(3, 10)
    assert (np.sort(epochs, axis=1) == np.arange(10)).all()
    assert not (epochs[0] == epochs[1]).all()


def test_order_has_random_access():
    order = EpochOrder(7, seed=1)
    whole = order.slice(0, 50)
    np.testing.assert_array_equal(EpochOrder(7, seed=1).slice(33, 9), whole[33:42])
    assert not (EpochOrder(7, seed=2).slice(0, 50) == whole).all()


def test_negatives_are_never_positives_and_uniform_over_the_rest():
    rng = np.random.default_rng(0)
    histories = [sorted(rng.choice(12, size=size, replace=False).tolist()) for size in (1, 5, 11, 7)]
    sampler = NegativeSampler(interactions(histories, 12))
    users = rng.integers(0, 4, size=(20_000, 2))
    drawn = sampler.sample(users, rng=rng)
    assert not sampler.is_positive(users, drawn).any()
    for user, history in enumerate(histories):
        counts = np.bincount(drawn[users == user], minlength=12)
        allowed = sorted(set(range(12)) - set(history))
        assert counts[history].sum() == 0
        share = counts[allowed] / counts.sum()
        np.testing.assert_allclose(share, 1 / len(allowed), atol=0.02)


def test_unsorted_histories_are_no_problem():
    sampler = NegativeSampler(interactions([[3, 0, 2], [1, 0]], 4))
    drawn = sampler.sample(np.zeros(50, np.int64), rng=np.random.default_rng(0))
    assert (drawn == 1).all()


def test_same_seed_same_negatives():
    sampler = NegativeSampler(interactions([[0], [1]], 50))
    users = np.array([0, 1] * 20)
    first = sampler.sample(users, rng=np.random.default_rng(5))
    np.testing.assert_array_equal(first, sampler.sample(users, rng=np.random.default_rng(5)))


def test_a_user_of_everything_is_an_error():
    with pytest.raises(DataError, match="user 1 has interacted with all 3 items"):
        NegativeSampler(interactions([[0], [0, 1, 2]], 3))
