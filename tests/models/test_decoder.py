"""Llama, Qwen2 and Qwen3 without PyTorch: positions, masks, cache, dropout, configs (transformers': tests/parity)."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tokenrec_jax.models import llm
from tokenrec_jax.models.llm.decoder import attend
from tokenrec_jax.models.llm.rope import Llama3Scaling, RopeConfig, inverse_frequencies, rotate, rotation
from tokenrec_jax.models.llm.t5_layers import Dropout
from tokenrec_jax.models.llm.vocabulary_rows import check_vocabulary
from tokenrec_jax.types import ConfigError

VOCABULARY = 40
#: Of `scratch:llama-tiny`, which has one layer: what is done to all layers but the last is seen only with two.
SHAPE = dataclasses.replace(llm.preset("llama-tiny", vocab_size=VOCABULARY), num_layers=2)


@pytest.fixture(scope="module")
def model() -> llm.Llama:
    return llm.Llama(SHAPE, rngs=nnx.Rngs(0))


def tokens(seed: int, *shape: int) -> jax.Array:
    return jax.random.randint(jax.random.key(seed), shape, 0, VOCABULARY)


@functools.partial(jax.jit, static_argnames="graphdef")
def apply(graphdef, params, prompt, mask, queries, key):
    model = nnx.merge(graphdef, params)
    return model.hidden_states(model.embed(prompt), mask, query_embeds=model.embed(queries), key=key)


def states(model, *, prompt=None, mask=None, queries=None, key=None):
    """Returns states at the queries; the same default shapes everywhere, for few compilations."""
    prompt = tokens(1, 2, 9) if prompt is None else prompt
    queries = tokens(2, 2, 4) if queries is None else queries
    mask = jnp.ones(prompt.shape, bool) if mask is None else mask
    graphdef, params = nnx.split(model, nnx.Param)
    return apply(graphdef, nnx.to_pure_dict(params), prompt, mask, queries, key)


@functools.partial(jax.jit, static_argnames="graphdef")
def apply_to_row(graphdef, params, row, mask):
    return nnx.merge(graphdef, params)(row, mask)


def row_states(model, row, mask=None):
    """Returns the state of each token of a row."""
    graphdef, params = nnx.split(model, nnx.Param)
    return apply_to_row(graphdef, nnx.to_pure_dict(params), row, mask)


def changed(ids, column):
    return ids.at[:, column].set((ids[:, column] + 1) % VOCABULARY)


def test_rotation_depends_on_distance_only():
    frequencies = inverse_frequencies(RopeConfig(theta=100.0), head_dim=8)
    assert frequencies.tolist() == pytest.approx([100.0 ** (-i / 4) for i in range(4)])
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))

    def score(at: int, attended: int):
        turns = [rotation(jnp.full((1, 1), place), frequencies=frequencies) for place in (at, attended)]
        return jnp.sum(rotate(query, turns[0]) * rotate(key, turns[1]))

    assert float(score(7, 3)) == pytest.approx(float(score(104, 100)), abs=1e-4)
    assert abs(float(score(7, 3) - score(7, 4))) > 1e-3
    np.testing.assert_array_equal(rotate(query, rotation(jnp.zeros((1, 1), jnp.int32), frequencies=frequencies)), query)


def test_llama3_keeps_fast_waves_and_stretches_slow_ones():
    scaling = Llama3Scaling(factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_max_positions=64)
    plain = inverse_frequencies(RopeConfig(theta=10000.0), head_dim=16)
    stretched = inverse_frequencies(RopeConfig(theta=10000.0, scaling=scaling), head_dim=16)
    ratio = plain / stretched
    wave_length = 2 * np.pi / plain
    assert ratio[wave_length < 16].tolist() == pytest.approx([1.0] * int((wave_length < 16).sum()))
    assert ratio[wave_length > 64].tolist() == pytest.approx([8.0] * int((wave_length > 64).sum()))
    between = ratio[(wave_length > 16) & (wave_length < 64)]
    assert len(between) and ((between > 1.01) & (between < 7.99)).all()


def test_attention_with_dropout_is_attention_without_it_on_average():
    query = jax.random.normal(jax.random.key(0), (2, 3, 4, 8))
    keys, values = jax.random.normal(jax.random.key(1), (2, 2, 5, 2, 8))
    visible = jnp.arange(5)[None, None, :] <= jnp.arange(3)[None, :, None] + jnp.array([0, 2])[:, None, None]
    plain = jax.jit(attend)(query, keys, values, visible=visible)
    # By hand: head 3 of the queries shares head 1 of the keys.
    scores = np.where(visible[1], query[1, :, 3] @ keys[1, :, 1].T / 8**0.5, -np.inf)
    weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(plain[1, :, 3], weights @ values[1, :, 1], atol=1e-5)
    many = jax.jit(jax.vmap(lambda key: attend(query, keys, values, visible=visible, dropout=Dropout(0.3), key=key)))
    dropped = many(jax.random.split(jax.random.key(2), 4000))
    assert float(dropped.std(axis=0).min()) > 0.01
    np.testing.assert_allclose(dropped.mean(axis=0), plain, atol=0.08)


def test_queries_are_causal_and_see_the_prompt(model):
    queries = tokens(2, 2, 4)
    before, after = states(model), states(model, queries=changed(queries, 2))
    np.testing.assert_allclose(before[:, :2], after[:, :2], atol=1e-6)
    assert jnp.abs(before[:, 2:] - after[:, 2:]).max(axis=(0, 2)).min() > 1e-3
    for column in (0, 8):
        other = states(model, prompt=changed(tokens(1, 2, 9), column))
        assert jnp.abs(before - other).max(axis=(0, 2)).min() > 1e-3


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(model, side):
    prompt = tokens(1, 2, 9)
    kept = slice(4, 9) if side == "left" else slice(0, 5)
    mask = jnp.zeros((2, 9), bool).at[:, kept].set(True)
    expected = states(model, prompt=prompt[:, kept])
    np.testing.assert_allclose(states(model, prompt=prompt, mask=mask), expected, atol=1e-5)
    np.testing.assert_allclose(states(model, prompt=jnp.where(mask, prompt, 0), mask=mask), expected, atol=1e-5)


def test_states_are_those_of_the_whole_row(model):
    """The last layer computes only the queries' states, `__call__` all of them."""
    row = jnp.concatenate([tokens(1, 2, 9), tokens(2, 2, 4)], axis=1)
    np.testing.assert_allclose(states(model), row_states(model, row)[:, -4:], atol=1e-5)


def test_an_example_without_any_token_is_finite(model):
    mask = jnp.zeros((2, 9), bool)
    assert jnp.isfinite(states(model, mask=mask)).all()
    assert jnp.isfinite(row_states(model, tokens(1, 2, 9), mask)).all()


def test_cache_under_scan_equals_the_full_pass(model):
    row = tokens(3, 2, 7)
    graphdef, params = nnx.split(model)

    @jax.jit
    def generate(params):
        model = nnx.merge(graphdef, params)

        def step(cache, token):
            hidden, cache = model.decode(model.embed(token[:, None]), cache)
            return cache, hidden[:, 0]

        return jnp.swapaxes(jax.lax.scan(step, model.init_cache(2, 10), row.T)[1], 0, 1)

    np.testing.assert_allclose(generate(params), row_states(model, row), atol=1e-5)
    with pytest.raises(ValueError, match="7 tokens for a cache of 3 slots"):
        model.decode(model.embed(row), model.init_cache(2, 3))


def test_too_long_a_prompt_is_told_while_tracing(model):
    short = llm.Llama(dataclasses.replace(SHAPE, max_positions=12), rngs=nnx.Rngs(0))
    message = "prompts take 13 positions, 1 more than the 12 of the language model; lower data.max_history"
    with pytest.raises(ConfigError, match=message):
        jax.eval_shape(lambda: states(short))
    with pytest.raises(ConfigError, match=r"lower data\.max_history"):
        short.init_cache(2, 13)
    short.init_cache(2, 12)


def test_dropout_only_if_asked_for(model):
    key = jax.random.key(1)
    np.testing.assert_array_equal(states(model, key=key), states(model))
    wet = llm.Llama(SHAPE, rngs=nnx.Rngs(0), dropout_rate=0.3)
    assert wet.config.dropout_rate == 0.3
    first = states(wet, key=key)
    np.testing.assert_array_equal(first, states(wet, key=key))
    assert jnp.abs(first - states(wet, key=jax.random.key(2))).max() > 1e-2
    np.testing.assert_array_equal(states(wet), states(model))


def test_gradient_reaches_every_parameter():
    config = dataclasses.replace(SHAPE, qkv_bias=True, qk_norm=True, tied_head=False)
    graphdef, params = nnx.split(llm.Llama(config, rngs=nnx.Rngs(0)), nnx.Param)

    @jax.jit
    @jax.grad
    def gradient(params):
        model = nnx.merge(graphdef, params)
        return jnp.sum(model.logits(model(tokens(1, 2, 9))) ** 2)

    leaves = jax.tree.leaves_with_path(gradient(nnx.to_pure_dict(params)))
    assert not [jax.tree_util.keystr(path) for path, leaf in leaves if not jnp.any(leaf)]


def test_bfloat16_activations_stay_close(model):
    rough = llm.Llama(SHAPE, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
    hidden = states(rough)
    assert hidden.dtype == jnp.bfloat16
    assert rough.logits(hidden).dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(rough, nnx.Param))} == {jnp.dtype("float32")}
    assert jax.tree.leaves(rough.init_cache(1, 4).layers)[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(hidden.astype(jnp.float32), states(model), atol=0.1)


@pytest.mark.parametrize("tied", [True, False])
def test_extend_vocabulary_keeps_old_rows(tied):
    model = llm.Llama(dataclasses.replace(SHAPE, tied_head=tied), rngs=nnx.Rngs(0))
    old = np.asarray(model.token_embedding[...])
    vectors = jnp.full((2, 32), 3.0)
    model.extend_vocabulary(100, key=jax.random.key(0), vectors=vectors)
    assert model.vocab_size == 128 == model.config.vocab_size
    np.testing.assert_array_equal(model.token_embedding[...][:42], np.concatenate([old, vectors]))
    assert model.logits(model.embed(jnp.array([[41, 127]]))).shape == (1, 2, 128)
    check_vocabulary(128, model.vocab_size)
    with pytest.raises(ConfigError, match=r"llm\.tokenizer has 129 tokens, llm\.name has rows for 128"):
        check_vocabulary(129, model.vocab_size)


def test_presets():
    for name, kind in {"llama-tiny": llm.Llama, "llama-compact": llm.Llama, "gpt2-tiny": llm.GPT2}.items():
        model = nnx.eval_shape(lambda name=name: llm.build(f"scratch:{name}", vocab_size=300, rngs=nnx.Rngs(0)))
        assert type(model) is kind
        assert isinstance(model, llm.LanguageModel)
        assert model.token_embedding.shape == (300, model.hidden_size)
    assert llm.preset("llama-compact", vocab_size=8).model_dim == 64


def test_config_round_trip():
    scaling = Llama3Scaling(8.0, 1.0, 4.0, 8192)
    base = dataclasses.replace(SHAPE, special_tokens=(("bos_token_id", 1), ("eos_token_id", (2, 3))))
    for config in (
        base,
        dataclasses.replace(base, rope=RopeConfig(5e5, scaling), num_kv_heads=2, tied_head=False),
        dataclasses.replace(base, model_type="qwen2", qkv_bias=True),
        dataclasses.replace(base, model_type="qwen3", qk_norm=True, head_dim=6),
    ):
        assert llm.LlamaConfig.from_hf(json.loads(json.dumps(config.to_hf()))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen3_moe"}, "model_type is 'qwen3_moe'; allowed: llama, qwen2, qwen3"),
        ({"hidden_size": None}, "hidden_size is missing; allowed: an integer"),
        ({"hidden_size": "32"}, "hidden_size is '32'; allowed: an integer"),
        ({"num_attention_heads": 0}, "num_heads is 0; allowed: at least 1"),
        ({"num_attention_heads": 3, "num_key_value_heads": 2}, "num_key_value_heads is 2; allowed: divisors of the 3"),
        ({"head_dim": 7}, "head_dim is 7; allowed: even numbers"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', which is not supported; allowed: 'silu'"),
        ({"attention_bias": True}, "attention_bias is True, which is not supported"),
        ({"attention_dropout": 0.1}, "attention_dropout is 0.1, which is not supported; allowed: 0"),
        ({"num_local_experts": 8}, "num_local_experts is 8, which is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is .* not supported; allowed: nothing"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'; allowed: true or false"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'; allowed: default, llama3"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2}}, "rope_type is 'linear'"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "factor is missing"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5; allowed: 1.0"),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_theta is 0.0; allowed: more than 1"),
        ({"rope_parameters": 3}, "rope parameters are 3; allowed: an object"),
    ],
)
def test_config_errors_are_one_line(change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        llm.LlamaConfig.from_hf({**SHAPE.to_hf(), **change})
    assert "\n" not in str(caught.value)


def test_sliding_window_counts_only_if_it_is_in_use():
    values = dataclasses.replace(SHAPE, model_type="qwen2", qkv_bias=True).to_hf()
    in_use = {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}
    for change in (
        {"sliding_window": 64},
        in_use | {"max_window_layers": 2},
        in_use | {"sliding_window": 4096},
        in_use | {"layer_types": ["full_attention"] * 2},
    ):
        llm.LlamaConfig.from_hf(values | change)
    for change in (in_use, {"sliding_window": 64, "layer_types": ["full_attention", "sliding_attention"]}):
        with pytest.raises(ConfigError, match="sliding_window is 64 and in use"):
            llm.LlamaConfig.from_hf(values | change)
