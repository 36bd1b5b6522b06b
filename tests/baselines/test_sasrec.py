import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tokenrec_jax.baselines.sasrec import SASRec, SASRecConfig
from tokenrec_jax.types import PADDING, ConfigError

NUM_ITEMS = 30


def model(**settings) -> SASRec:
    config = SASRecConfig(dim=16, **settings)
    config.validate()
    return SASRec(config, num_items=NUM_ITEMS, max_history=8, rngs=nnx.Rngs(0))


def history(*rows) -> jax.Array:
    longest = max(map(len, rows))
    return jnp.asarray([[*row, *[PADDING] * (longest - len(row))] for row in rows], jnp.int32)


@pytest.fixture(params=["absolute", "relative"])
def either(request) -> SASRec:
    # Initial weights that are not tiny, so that what attention sees makes a difference.
    made = model(positions=request.param, similarity="dot", init_std=0.5)
    for layer in made.layers:
        if layer.distance_bias is not None:
            layer.distance_bias[...] = jax.random.normal(jax.random.key(1), layer.distance_bias.shape)
    return made


def test_a_query_knows_all_earlier_items_and_no_later_one(either):
    queries = either.queries(history([1, 2, 3, 4, 5], [9, 2, 3, 4, 5], [1, 2, 3, 4, 9]))
    of_one, with_another_first, with_another_last = np.asarray(queries)
    assert np.abs(of_one - with_another_first).max(axis=1).min() > 1e-4
    np.testing.assert_allclose(of_one[:4], with_another_last[:4], atol=1e-6)
    assert np.abs(of_one[4] - with_another_last[4]).max() > 1e-4


def test_the_order_of_earlier_items_counts(either):
    first, second = np.asarray(either.last_query(history([1, 2, 3, 4], [2, 1, 3, 4])))
    assert np.abs(first - second).max() > 1e-4


def test_padding_changes_nothing(either):
    short = either.queries(history([1, 2, 3]))
    long = either.queries(history([1, 2, 3], [1, 2, 3, 4, 5, 6, 7, 8]))
    np.testing.assert_allclose(short[0], long[0, :3], atol=1e-5)
    last = either.last_query(history([1, 2, 3], [1, 2, 3, 4, 5, 6, 7, 8]))
    np.testing.assert_allclose(last, np.stack([long[0, 2], long[1, 7]]), atol=1e-6)


def test_logits_of_cosine_are_cosines_over_the_temperature():
    made = model(similarity="cosine", temperature=0.1)
    queries = np.asarray(made.last_query(history([1, 2, 3])))
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 10.0, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(made.items(), axis=1), 1.0, rtol=1e-5)


def test_items_at_the_input_and_at_the_output_are_the_same_parameters():
    made = model(similarity="dot", positions="absolute")
    assert made.items() is made.item_embedding[...]
    names = ["/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(made, nnx.Param))]
    assert sum("embedding" in name for name in names) == 2


def test_dropout_needs_a_key():
    made = model(dropout=0.5)
    rows = history([1, 2, 3])
    without = made.queries(rows)
    np.testing.assert_array_equal(without, made.queries(rows))
    one, same, other = (made.queries(rows, key=jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(np.asarray(one) - np.asarray(other)).max() > 1e-3
    assert np.abs(np.asarray(one) - np.asarray(without)).max() > 1e-3


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_layers", 0, "model.num_layers is 0; allowed is 1 or more"),
        ("num_heads", 3, "model.num_heads is 3; allowed are divisors of dim = 64"),
        ("dropout", 1.0, "model.dropout is 1.0; allowed is 0 or more and below 1"),
        ("positions", "none", "model.positions is 'none'; allowed: absolute, relative"),
        ("similarity", "l2", "model.similarity is 'l2'; allowed: dot, cosine"),
        ("temperature", 0.0, "model.temperature is 0.0; allowed is above 0"),
    ],
)
def test_bad_settings_are_named(field, value, message):
    config = SASRecConfig()
    setattr(config, field, value)
    with pytest.raises(ConfigError, match=message):
        config.validate()
