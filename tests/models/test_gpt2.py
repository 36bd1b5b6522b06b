"""GPT-2 without PyTorch: learned positions, dropout places, scales, config (transformers': tests/parity)."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tokenrec_jax.models import llm
from tokenrec_jax.models.llm.gpt2 import LayerNorm
from tokenrec_jax.types import ConfigError

SHAPE = dataclasses.replace(llm.preset("gpt2-tiny", vocab_size=40), num_layers=2, max_positions=16)


@pytest.fixture(scope="module")
def model() -> llm.GPT2:
    return llm.GPT2(SHAPE, rngs=nnx.Rngs(0))


def tokens(*shape: int) -> jax.Array:
    return jax.random.randint(jax.random.key(0), shape, 0, 40)


@functools.partial(jax.jit, static_argnames="graphdef")
def apply(graphdef, params, row, mask, key):
    return nnx.merge(graphdef, params)(row, mask, key=key)


def states(model, row, mask=None, key=None):
    graphdef, params = nnx.split(model, nnx.Param)
    return apply(graphdef, nnx.to_pure_dict(params), row, mask, key)


def test_layer_norm_by_hand():
    norm = LayerNorm(3, epsilon=0.0)
    norm.scale, norm.bias = nnx.Param(jnp.array([1.0, 2.0, 3.0])), nnx.Param(jnp.array([0.0, 0.0, 1.0]))
    root = 1.5**0.5
    np.testing.assert_allclose(norm(jnp.array([[[1.0, 2.0, 3.0]]]))[0, 0], [-root, 0.0, 3 * root + 1], rtol=1e-6)


def test_learned_positions_count_real_tokens(model):
    row = tokens(2, 6)
    mask = jnp.ones((2, 9), bool).at[:, :3].set(False)
    padded = jnp.concatenate([jnp.zeros((2, 3), jnp.int32), row], axis=1)
    bare = states(model, row)
    np.testing.assert_allclose(states(model, padded, mask)[:, 3:], bare, atol=1e-5)
    # The same token again is another state, because of its position alone.
    same = states(model, jnp.full((1, 4), 7))
    assert jnp.abs(same[:, 1:] - same[:, :-1]).max(axis=-1).min() > 1e-3


def test_positions_are_a_hard_limit(model):
    jax.eval_shape(model, tokens(1, 16))
    with pytest.raises(ConfigError, match=r"17 positions, 1 more than the 16 .* lower data\.max_history"):
        jax.eval_shape(model, tokens(1, 17))


def test_dropout_has_three_places_and_follows_its_key(model):
    row, key = tokens(2, 6), jax.random.key(1)
    off = {"dropout_rate": 0.0, "embedding_dropout": 0.0, "attention_dropout": 0.0}
    plain = states(model, row)
    for name in off:
        wet = llm.GPT2(dataclasses.replace(SHAPE, **off | {name: 0.4}), rngs=nnx.Rngs(0))
        first = states(wet, row, key=key)
        np.testing.assert_array_equal(first, states(wet, row, key=key))
        assert jnp.abs(first - states(wet, row, key=jax.random.key(2))).max() > 1e-3, name
        np.testing.assert_allclose(states(wet, row), plain, atol=1e-6)
    dry = llm.GPT2(SHAPE, rngs=nnx.Rngs(0), dropout_rate=0.0)
    np.testing.assert_allclose(states(dry, row, key=key), plain, atol=1e-6)


def test_initial_scales():
    wide = llm.GPT2(dataclasses.replace(SHAPE, model_dim=64, initializer_range=0.02), rngs=nnx.Rngs(0))
    layer = wide.layers[0]
    for array, std in (
        (wide.token_embedding, 0.02),
        (wide.position_embedding, 0.02),
        (layer.attention.qkv.kernel, 0.02),
        (layer.attention.output.kernel, 0.01),
        (layer.feed_forward.output.kernel, 0.01),
    ):
        assert float(jnp.std(array[...])) == pytest.approx(std, rel=0.1)
    assert not jnp.any(layer.attention.qkv.bias[...])


def test_gradient_reaches_every_parameter(model):
    graphdef, params = nnx.split(model, nnx.Param)

    @jax.jit
    @jax.grad
    def gradient(params):
        model = nnx.merge(graphdef, params)
        return jnp.sum(model.logits(model(tokens(2, 16))) ** 2)

    leaves = jax.tree.leaves_with_path(gradient(nnx.to_pure_dict(params)))
    assert not [jax.tree_util.keystr(path) for path, leaf in leaves if not jnp.any(leaf)]


def test_config_round_trip_and_defaults():
    config = dataclasses.replace(SHAPE, special_tokens=(("eos_token_id", 3),), tied_head=False)
    assert llm.GPT2Config.from_hf(json.loads(json.dumps(config.to_hf()))) == config
    published = {
        "model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024,
        "n_ctx": 1024, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "resid_pdrop": 0.1,
    }  # fmt: skip
    assert llm.GPT2Config.from_hf(published).feed_forward_dim == 3072


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "t5"}, "model_type is 't5'; allowed: 'gpt2'"),
        ({"n_embd": None}, "n_embd is missing; allowed: an integer"),
        ({"n_head": 5}, r"n_head is 5; allowed: divisors of n_embd \(32\)"),
        ({"activation_function": "relu"}, "activation_function is 'relu', which is not supported; allowed: 'gelu_new'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"attn_pdrop": 1.0}, "attention_dropout is 1.0; allowed: 0 up to"),
    ],
)
def test_config_errors_are_one_line(change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        llm.GPT2Config.from_hf({**SHAPE.to_hf(), **change})
    assert "\n" not in str(caught.value)
