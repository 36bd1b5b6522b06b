import numpy as np
import pytest

from tests.data.helpers import assert_same
from tokenrec_jax.data.synthetic import synthetic_interactions
from tokenrec_jax.types import ConfigError


def make(num_users=600, num_items=120, seed=0):
    return synthetic_interactions(name="synthetic", num_users=num_users, num_items=num_items, seed=seed)


def hit_rate(scores, data, k=10):
    """Returns how often the last item of a user is among the k best that the user has not seen."""
    hits = 0
    for user in range(data.num_users):
        history = data.history(user)
        mine = scores[user].copy()
        mine[history[:-1]] = -np.inf
        hits += np.sum(mine >= mine[history[-1]]) <= k
    return hits / data.num_users


def test_it_depends_on_the_arguments_only():
    assert_same(make(), make())
    assert not np.array_equal(make(seed=1).items, make().items)


@pytest.mark.parametrize(("num_users", "num_items"), [(1, 24), (5000, 40), (300, 2000)])
def test_every_size_is_sound(num_users, num_items):
    data = make(num_users, num_items)  # Validated inside.
    assert (data.num_users, data.num_items) == (num_users, num_items)
    lengths = np.diff(data.indptr)
    assert lengths.min() >= 6
    assert lengths.max() <= 24


def test_items_say_their_group():
    data = make()
    assert data.item_titles[17] == f"Item 17 of {data.item_attributes[17][0]}"
    assert len(set(data.item_attributes)) == 10


def test_collaborative_and_sequential_models_beat_popularity():
    data = make()
    train = data.without_last(1)
    user = np.repeat(np.arange(data.num_users), np.diff(train.indptr))
    seen = np.zeros((data.num_users, data.num_items))
    seen[user, train.items] = 1
    popularity = np.tile(seen.sum(0), (data.num_users, 1))
    together = seen.T @ seen
    neighbours = seen @ (together / np.sqrt(np.outer(np.diag(together), np.diag(together)) + 1))
    follows = np.zeros((data.num_items, data.num_items))
    inside = user[1:] == user[:-1]
    np.add.at(follows, (train.items[:-1][inside], train.items[1:][inside]), 1)
    last = train.items[train.indptr[1:] - 1]
    rates = [hit_rate(scores, data) for scores in (popularity, neighbours, follows[last])]
    assert rates[0] < 0.3
    assert rates[1] > rates[0] + 0.15
    assert rates[2] > rates[1] + 0.15
    # Popularity is skewed: a tenth of the items has much more than a tenth of the interactions.
    counts = np.sort(seen.sum(0))[::-1]
    assert counts[:12].sum() > 0.2 * counts.sum()


@pytest.mark.parametrize("wrong", [{"num_users": 0}, {"num_items": 23}, {"seed": -1}])
def test_sizes_that_are_too_small_are_refused(wrong):
    with pytest.raises(ConfigError, match="at least 1, 24 and 0 are due"):
        make(**wrong)
