"""T5 without PyTorch: positions, masks, dropout, growth, shapes, own checkpoints (transformers': tests/parity)."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models.checkpoints import assert_same_parameters, failure, rewrite
from tokenrec_jax.models import llm
from tokenrec_jax.models.llm.hf_weights import WEIGHTS, key_table
from tokenrec_jax.models.llm.t5_layers import Dropout, RelativeBias, relative_position_bucket
from tokenrec_jax.types import ConfigError

VOCABULARY = 40


def tiny(**overrides) -> llm.T5:
    return llm.build("scratch:tiny", vocab_size=VOCABULARY, rngs=nnx.Rngs(0), **overrides)


@pytest.fixture(scope="module")
def model() -> llm.T5:
    return tiny()


def tokens(seed: int, *shape: int) -> jax.Array:
    return jax.random.randint(jax.random.key(seed), shape, 0, VOCABULARY)


def changed(ids: jax.Array, column: int) -> jax.Array:
    return ids.at[:, column].set((ids[:, column] + 1) % VOCABULARY)


@functools.partial(jax.jit, static_argnames="graphdef")
def apply(graphdef, params, prompt, mask, answer, answer_mask, key):
    model = nnx.merge(graphdef, params)
    hidden = model.encode(model.embed(prompt), mask, key=key)
    decoded = model.decode(model.embed(answer), encoder_hidden=hidden, encoder_mask=mask, mask=answer_mask, key=key)
    return hidden, decoded


def run(model, *, prompt=None, mask=None, answer=None, answer_mask=None, key=None):
    """Returns encoder and decoder states; the same default shapes everywhere, for few compilations."""
    prompt = tokens(1, 2, 9) if prompt is None else prompt
    answer = tokens(2, 2, 6) if answer is None else answer
    mask = jnp.ones(prompt.shape, bool) if mask is None else mask
    answer_mask = jnp.ones(answer.shape, bool) if answer_mask is None else answer_mask
    graphdef, params = nnx.split(model, nnx.Param)
    return apply(graphdef, nnx.to_pure_dict(params), prompt, mask, answer, answer_mask, key)


def test_bucket_values_by_hand():
    # 8 buckets, causal: 0 to 3 exact, then ceilings of 4 * 2**(i) up to 16: [4, 5] [6, 7, ..] follow log2 in
    # quarters.
    distance = -np.arange(20)
    causal = relative_position_bucket(distance, bidirectional=False, num_buckets=8, max_distance=16)
    assert causal.tolist() == [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7, 7, 7, 7, 7]
    ahead = relative_position_bucket(np.arange(5), bidirectional=False, num_buckets=8, max_distance=16)
    assert ahead.tolist() == [0] * 5
    # 8 buckets, both directions: four a direction, 0 and 1 exact; positive distances start at 4.
    both = relative_position_bucket(np.arange(-4, 5), bidirectional=True, num_buckets=8, max_distance=16)
    assert both.tolist() == [2, 2, 2, 1, 0, 5, 6, 6, 6]


def test_relative_bias_looks_up_its_table():
    bias = RelativeBias(2, num_buckets=8, max_distance=16, std=1.0, rngs=nnx.Rngs(0))
    table = np.asarray(bias.embedding[...])
    both = np.asarray(bias(6, causal=False))
    assert both.shape == (1, 2, 6, 6)
    np.testing.assert_allclose(both[0, :, 2, 3], table[5], rtol=1e-6)
    np.testing.assert_allclose(both[0, :, 3, 2], table[1], rtol=1e-6)
    causal = np.asarray(bias(6, causal=True))
    np.testing.assert_allclose(causal[0, :, 5, 2], table[3], rtol=1e-6)
    assert (causal[0, :, 2, 3] < -1e8).all()


def test_decoder_is_causal(model):
    _, before = run(model)
    _, after = run(model, answer=changed(tokens(2, 2, 6), 4))
    np.testing.assert_allclose(before[:, :4], after[:, :4], atol=1e-6)
    assert jnp.abs(before[:, 4:] - after[:, 4:]).max() > 1e-3


def test_padding_changes_nothing(model):
    prompt = tokens(1, 2, 9)
    hidden, decoded = run(model, prompt=prompt, mask=jnp.arange(9)[None, :] < jnp.array([[5], [5]]))
    short_hidden, short_decoded = run(model, prompt=prompt[:, :5])
    np.testing.assert_allclose(hidden[:, :5], short_hidden, atol=1e-5)
    np.testing.assert_allclose(decoded, short_decoded, atol=1e-5)


def test_encoder_sees_both_directions(model):
    prompt = tokens(1, 2, 9)
    before, _ = run(model, prompt=prompt)
    for column, seen_from in ((8, 0), (0, 8)):
        after, _ = run(model, prompt=changed(prompt, column))
        assert jnp.abs(before[:, seen_from] - after[:, seen_from]).max() > 1e-4


def test_masked_decoder_position_is_not_seen(model):
    answer, mask = tokens(2, 2, 6), jnp.ones((2, 6), bool).at[:, 1].set(False)
    _, before = run(model, answer=answer, answer_mask=mask)
    _, after = run(model, answer=changed(answer, 1), answer_mask=mask)
    np.testing.assert_allclose(before[:, 2:], after[:, 2:], atol=1e-6)


def test_an_example_without_any_token_is_finite(model):
    hidden, decoded = run(model, mask=jnp.zeros((2, 9), bool))
    assert jnp.isfinite(hidden).all()
    assert jnp.isfinite(decoded).all()


def test_few_and_many_positions_attend_alike(model):
    """Below head_dim decoder positions the cross-attention takes another, cheaper path (see `Attention`)."""
    answer = tokens(2, 2, 20)
    assert 6 < model.config.head_dim < 20
    _, many = run(model, answer=answer)
    _, few = run(model, answer=answer[:, :6])
    np.testing.assert_allclose(many[:, :6], few, atol=1e-5)


def test_modules_hold_parameters_only_and_a_program_serves_all_of_them(model):
    assert isinstance(model, llm.LanguageModel)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    assert not rest
    params = nnx.to_pure_dict(params)
    assert params["encoder"]["layers"][0]["self_attention"]["query"]["kernel"].shape == (32, 32)
    traces = []

    @jax.jit
    def call(params, prompt, answer):
        traces.append(1)
        return nnx.merge(graphdef, params)(prompt, decoder_input_ids=answer)

    prompt, answer = tokens(1, 2, 9), tokens(2, 2, 6)
    np.testing.assert_allclose(call(params, prompt, answer), run(model)[1], atol=1e-5)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, params)
    assert jnp.abs(call(doubled, prompt, answer) - call(params, prompt, answer)).max() > 1e-2
    assert len(traces) == 1


def test_dropout_follows_its_key(model):
    _, first = run(model, key=jax.random.key(1))
    np.testing.assert_array_equal(first, run(model, key=jax.random.key(1))[1])
    assert jnp.abs(first - run(model, key=jax.random.key(2))[1]).max() > 1e-2
    assert jnp.abs(first - run(model)[1]).max() > 1e-2


def test_dropout_keeps_the_mean():
    dropped = Dropout(0.25)(jnp.ones((4000, 3, 8)), key=jax.random.key(0))
    x = jnp.ones((2, 3, 4))
    assert Dropout(0.25)(x, key=None) is x
    assert Dropout(0.0)(x, key=jax.random.key(0)) is x
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs(float(dropped.mean()) - 1) < 0.02


def test_one_draw_serves_all_positions_or_each_has_its_own():
    ones = jnp.ones((50, 6, 40))
    shared, own = (Dropout(0.5, each_position=each)(ones, key=jax.random.key(0)) for each in (False, True))
    assert (np.asarray(shared) == np.asarray(shared[:, :1])).all()
    assert 0.4 < float((own[:, 0] == own[:, 1]).mean()) < 0.6
    shape = dataclasses.replace(llm.preset("tiny", vocab_size=VOCABULARY), dropout_rate=0.5)
    shapes = [dataclasses.replace(shape, dropout_each_position=each) for each in (False, True)]
    once, each = (llm.T5(shape, rngs=nnx.Rngs(0)) for shape in shapes)
    assert jnp.abs(run(once, key=jax.random.key(1))[1] - run(each, key=jax.random.key(1))[1]).max() > 1e-2
    np.testing.assert_array_equal(run(once)[1], run(each)[1])


def test_gradient_reaches_every_parameter(model):
    graphdef, params = nnx.split(model, nnx.Param)

    @jax.jit
    @jax.grad
    def gradient(params):
        model = nnx.merge(graphdef, params)
        hidden = model(tokens(1, 2, 9), decoder_input_ids=tokens(2, 2, 6))
        return jnp.sum(model.logits(hidden) ** 2)

    leaves = jax.tree.leaves_with_path(gradient(nnx.to_pure_dict(params)))
    assert not [jax.tree_util.keystr(path) for path, leaf in leaves if not jnp.any(leaf)]


def test_bfloat16_activations_stay_close(model):
    rough = tiny(dtype="bfloat16")
    _, decoded = run(rough)
    assert decoded.dtype == jnp.bfloat16
    assert rough.logits(decoded).dtype == jnp.float32
    assert rough.token_embedding[...].dtype == jnp.float32
    np.testing.assert_allclose(decoded.astype(jnp.float32), run(model)[1], atol=0.1)


def test_initial_weights_have_t5_scales(model):
    attention = model.encoder.layers[0].self_attention
    for array, std in (
        (model.token_embedding, 1.0),
        (attention.query.kernel, (32 * 16) ** -0.5),
        (attention.key.kernel, 32**-0.5),
        (attention.output.kernel, 32**-0.5),
        (model.decoder.layers[0].feed_forward.output.kernel, 64**-0.5),
    ):
        assert float(jnp.std(array[...])) == pytest.approx(std, rel=0.1)


def test_large_presets_have_the_published_size_and_are_never_materialised():
    sizes = {"t5-large": 737.7e6, "t5-v1_1-small": 77.0e6}
    for name, size in sizes.items():
        config = llm.preset(name, vocab_size=32128)
        model = nnx.eval_shape(lambda config=config: llm.T5(config, rngs=nnx.Rngs(0)))
        leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
        assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
        assert sum(leaf.size for leaf in leaves) == pytest.approx(size, rel=1e-3), name


@pytest.mark.parametrize("tied", [True, False])
def test_extend_vocabulary_keeps_old_rows(tied):
    config = dataclasses.replace(llm.preset("tiny", vocab_size=VOCABULARY), tied_head=tied)
    model = llm.T5(config, rngs=nnx.Rngs(0))
    old = np.asarray(model.token_embedding[...])
    vectors = jnp.full((2, config.model_dim), 3.0)
    with pytest.raises(ValueError, match="at most 88 new ones"):
        model.extend_vocabulary(50, key=jax.random.key(0), vectors=jnp.zeros((89, 32)))
    model.extend_vocabulary(100, key=jax.random.key(0), vectors=vectors)
    assert model.vocab_size == 128 == model.config.vocab_size
    new = np.asarray(model.token_embedding[...])
    assert new.shape == (128, config.model_dim)
    np.testing.assert_array_equal(new[:40], old)
    np.testing.assert_array_equal(new[40:42], vectors)
    assert new[42:].std() == pytest.approx(old.std(), rel=0.05)
    hidden = model.embed(jnp.array([[41, 127]]))
    assert model.logits(hidden).shape == (1, 2, 128)
    model.extend_vocabulary(10, key=jax.random.key(0))
    np.testing.assert_array_equal(np.asarray(model.token_embedding[...]), new)


def test_build_names_what_it_knows():
    with pytest.raises(ConfigError, match="scratch:huge: no such preset; allowed: tiny, compact, compact-wide"):
        llm.build("scratch:huge", vocab_size=8, rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match="not a preset; allowed: scratch:tiny"):
        llm.build("t5-small", vocab_size=8, rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match="dtype is 'float16'; allowed: float32, bfloat16"):
        tiny(dtype="float16")
    with pytest.raises(ConfigError, match="dropout_rate"):
        tiny(dropout_rate=1.0)


def test_config_round_trip():
    for name in llm.PRESETS:
        config = llm.preset(name, vocab_size=300)
        assert llm.T5Config.from_hf(json.loads(json.dumps(config.to_hf()))) == config


def test_config_of_the_original_t5_small():
    """The published file predates several fields; what is absent takes transformers' defaults."""
    published = {
        "model_type": "t5", "vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6,
        "num_heads": 8, "relative_attention_num_buckets": 32, "dropout_rate": 0.1, "layer_norm_epsilon": 1e-6,
        "initializer_factor": 1.0, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
        "n_positions": 512, "output_past": True, "task_specific_params": {},
    }  # fmt: skip
    assert llm.T5Config.from_hf(published) == llm.preset("t5-small", vocab_size=32128)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'; allowed: 't5'"),
        ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj is 'gated-silu'; allowed: relu, gated-gelu"),
        ({"d_model": "64"}, "d_model is '64'; allowed: an integer"),
        ({"d_model": True}, "d_model is True; allowed: an integer"),
        ({"d_ff": None}, "d_ff is missing"),
        ({"num_heads": 0}, "num_heads .* is 0; allowed: at least 1"),
        ({"dropout_rate": 1}, "dropout_rate .* is 1.0"),
        ({"tie_word_embeddings": "no"}, "must be true or false"),
    ],
)
def test_config_errors_are_one_line(change, message):
    values = {**llm.preset("tiny", vocab_size=40).to_hf(), **change}
    with pytest.raises(ConfigError, match=message) as caught:
        llm.T5Config.from_hf(values)
    assert "\n" not in str(caught.value)


@pytest.fixture
def folder(tmp_path, model):
    llm.save_hf(model, tmp_path / "saved")
    return tmp_path / "saved"


def test_saved_model_loads_bit_exact(folder, model):
    loaded = llm.load(str(folder), dropout_rate=0.3)
    assert_same_parameters(loaded, model)
    assert loaded.config.dropout_rate == 0.3
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_untied_gated_model_loads_bit_exact(tmp_path):
    shape = llm.preset("tiny", vocab_size=VOCABULARY)
    config = dataclasses.replace(shape, gated=True, tied_head=False, scale_logits=False)
    model = llm.T5(config, rngs=nnx.Rngs(1))
    llm.save_hf(model, tmp_path)
    loaded = llm.load(str(tmp_path))
    assert loaded.config == config
    assert_same_parameters(loaded, model)


def test_every_parameter_is_in_the_key_table(model):
    paths = {path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    assert set(key_table(model.config).values()) == paths


def test_half_precision_checkpoint_becomes_float32(folder, model):
    rewrite(folder, lambda t: t.update({k: v.astype(jnp.bfloat16) for k, v in t.items()}))
    loaded = llm.load(str(folder))
    assert loaded.token_embedding[...].dtype == jnp.float32
    np.testing.assert_allclose(loaded.token_embedding[...], model.token_embedding[...], rtol=1e-2)


def test_all_misfits_are_told_at_once(folder):
    def change(tensors):
        tensors["encoder.block.7.layer.0.layer_norm.weight"] = np.ones(32, np.float32)
        del tensors["decoder.final_layer_norm.weight"]
        tensors["encoder.final_layer_norm.weight"] = np.ones(31, np.float32)
        tensors["decoder.embed_tokens.weight"] = np.zeros((VOCABULARY, 32), np.float32)
        tensors["encoder.block.0.layer.1.DenseReluDense.wi.weight"][0, 0] = np.nan

    rewrite(folder, change)
    message = failure(folder)
    assert "encoder.block.7.layer.0.layer_norm.weight is unknown" in message
    assert "decoder.final_layer_norm.weight is missing" in message
    assert "encoder.final_layer_norm.weight becomes encoder/final_norm/scale of shape (31,)" in message
    assert "decoder.embed_tokens.weight differs from shared.weight" in message
    assert "encoder.block.0.layer.1.DenseReluDense.wi.weight holds NaN or infinity" in message


def test_known_duplicates_and_leftovers_are_fine(folder, model):
    def change(tensors):
        for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = tensors["shared.weight"].copy()
        unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
        tensors[unused] = np.zeros((32, 2), np.float32)

    rewrite(folder, change)
    loaded = llm.load(str(folder))
    assert loaded.lm_head is None
    assert_same_parameters(loaded, model)


def test_truncated_weights(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])
    assert "model.safetensors: truncated, or not safetensors" in failure(folder)


def test_missing_shard(folder):
    (folder / WEIGHTS).unlink()
    index = {"weight_map": {"shared.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "shards are missing: model-00001-of-00002.safetensors; download" in failure(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    assert "no weight_map" in failure(folder)


def test_pickled_weights_are_refused_with_the_way_out(folder):
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    assert "only pytorch_model.bin, a pickle" in failure(folder)
    assert "save_pretrained" in failure(folder)


def test_missing_files(tmp_path):
    assert "config.json: no such file" in failure(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type":\n oops}')
    assert "config.json:2: not JSON" in failure(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    assert "config.json: model_type is 'mamba'; allowed: gpt2, llama, qwen2, qwen3, t5" in failure(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(llm.preset("tiny", vocab_size=40).to_hf()))
    assert "no weights; allowed: model.safetensors" in failure(tmp_path)


def test_names_that_are_nowhere(monkeypatch, tmp_path):
    assert "no such folder, nor a hub id" in failure("no/such/folder")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    message = failure("google-t5/no-such-model")
    assert "not to be had from the hub" in message
    assert "HF_HOME" in message
