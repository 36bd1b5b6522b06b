"""Checkpoints of all families: published shapes, placement, bytes read, memory, export; misfits of T5: test_t5.py."""

import dataclasses
import json
import math
import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from jax.sharding import AbstractMesh

from tests.models.checkpoints import assert_same_parameters, failure, parameters, rewrite
from tests.subprocesses import run_python
from tokenrec_jax.data.vocabulary import make_vocabulary, word_tokenizer
from tokenrec_jax.models import llm
from tokenrec_jax.models.llm import hf_weights
from tokenrec_jax.models.llm.families import config_from_hf
from tokenrec_jax.models.llm.hf_files import INDEX, WEIGHTS
from tokenrec_jax.models.llm.vocabulary_rows import VOCABULARY_MULTIPLE
from tokenrec_jax.sharding import state_shardings
from tokenrec_jax.types import ConfigError

SHAPES = {
    "t5": llm.preset("tiny", vocab_size=128),
    "llama": llm.preset("llama-tiny", vocab_size=128),
    "qwen2": dataclasses.replace(llm.preset("llama-tiny", vocab_size=128), model_type="qwen2", qkv_bias=True),
    "qwen3": dataclasses.replace(
        llm.preset("llama-tiny", vocab_size=128), model_type="qwen3", qk_norm=True, tied_head=False
    ),
    "gpt2": llm.preset("gpt2-tiny", vocab_size=128),
}

#: Published config.json files, less what we do not read, and the number of parameters in millions.
PUBLISHED = {
    "Llama-3.1-8B": (8030, {
        "model_type": "llama", "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 128000,
        "eos_token_id": 128001, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
        "intermediate_size": 14336, "max_position_embeddings": 131072, "mlp_bias": False, "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 128256,
    }),
    "Qwen3-8B": (8191, {
        "model_type": "qwen3", "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
        "intermediate_size": 12288, "max_position_embeddings": 40960, "max_window_layers": 36,
        "num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
        "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "use_sliding_window": False, "vocab_size": 151936,
    }),
    "Qwen2.5-0.5B": (494, {
        "model_type": "qwen2", "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 896,
        "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24,
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True, "use_mrope": False,
        "use_sliding_window": False, "vocab_size": 151936,
    }),
    "SmolLM2-135M": (134.5, {
        "model_type": "llama", "attention_bias": False, "hidden_act": "silu", "hidden_size": 576,
        "intermediate_size": 1536, "is_llama_config": True, "max_position_embeddings": 8192, "mlp_bias": False,
        "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3, "rms_norm_eps": 1e-05,
        "rope_interleaved": False, "rope_scaling": None, "rope_theta": 100000, "tie_word_embeddings": True,
        "vocab_size": 49152,
    }),
    "gpt2": (124.4, {
        "model_type": "gpt2", "activation_function": "gelu_new", "attn_pdrop": 0.1, "embd_pdrop": 0.1,
        "layer_norm_epsilon": 1e-05, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
        "resid_pdrop": 0.1, "vocab_size": 50257,
    }),
    "t5-11b": (11307, {
        "model_type": "t5", "d_ff": 65536, "d_kv": 128, "d_model": 1024, "dropout_rate": 0.1, "num_heads": 128,
        "num_layers": 24, "relative_attention_num_buckets": 32, "vocab_size": 32128, "n_positions": 512,
    }),
}  # fmt: skip


@pytest.fixture(params=SHAPES)
def saved(request, tmp_path):
    """A model of each family and the folder where it is saved."""
    model = llm.make_model(SHAPES[request.param], rngs=nnx.Rngs(0))
    llm.save_hf(model, tmp_path)
    return model, tmp_path


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_size_and_a_rule_for_every_parameter(name):
    millions, values = PUBLISHED[name]
    config = config_from_hf(values)
    # As `extend_vocabulary` pads it, so that every vocabulary can be cut.
    rows = -(-config.vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    padded = dataclasses.replace(config, vocab_size=rows)
    shapes = parameters(nnx.eval_shape(lambda: llm.make_model(padded, rngs=nnx.Rngs(0))))
    leaves = jax.tree.leaves(shapes)
    added = (rows - config.vocab_size) * config.model_dim * (1 if config.tied_head else 2)
    assert sum(leaf.size for leaf in leaves) - added == pytest.approx(millions * 1e6, rel=1e-3)
    assert len(hf_weights.key_table(config)) == len(leaves)
    # `state_shardings` raises where not exactly one rule matches.
    mesh = AbstractMesh((1, 32, 1 if config.model_dim % 128 else 4), ("data", "fsdp", "tensor"))
    shardings = state_shardings({"llm": shapes}, mesh)["llm"]
    split = jax.tree.map(lambda leaf, place: leaf.size / np.prod(place.shard_shape(leaf.shape)), shapes, shardings)
    # Only small things are whole on each device.
    whole = [leaf.size for leaf, parts in zip(*map(jax.tree.leaves, (shapes, split)), strict=True) if parts == 1]
    assert max(whole) <= 4 * config.model_dim


def test_saved_model_loads_bit_exact(saved):
    model, folder = saved
    loaded = llm.load(str(folder))
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    assert_same_parameters(loaded, model)


def test_every_parameter_is_in_the_key_table(saved):
    model, _ = saved
    paths = {path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    assert set(hf_weights.key_table(model.config).values()) == paths


def test_several_files(saved, monkeypatch):
    model, folder = saved
    monkeypatch.setattr(hf_weights, "SHARD_BYTES", 10_000)
    llm.save_hf(model, folder)
    assert not (folder / WEIGHTS).exists()
    index = json.loads((folder / INDEX).read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert index["metadata"]["total_size"] == sum(leaf.nbytes for leaf in jax.tree.leaves(parameters(model)))
    assert_same_parameters(llm.load(str(folder)), model)
    # Back to one file: the index of before must not be read, nor its files stay.
    monkeypatch.undo()
    llm.save_hf(model, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", WEIGHTS]


def test_all_misfits_of_a_decoder_are_told_at_once(tmp_path):
    llm.save_hf(llm.make_model(SHAPES["qwen3"], rngs=nnx.Rngs(0)), tmp_path)

    def change(tensors):
        tensors["model.layers.7.mlp.up_proj.weight"] = np.ones((2, 2), np.float32)
        tensors["score.weight"] = np.ones(2, np.float32)
        tensors["model.norm.weight"] = np.ones(31, np.float32)
        tensors["model.layers.0.self_attn.q_norm.weight"][0] = np.inf
        del tensors["lm_head.weight"], tensors["model.layers.0.self_attn.k_norm.weight"]

    rewrite(tmp_path, change)
    assert failure(tmp_path).removeprefix(f"{tmp_path}: weights do not fit config.json: ").split("; ") == [
        "model.layers.0.self_attn.q_norm.weight holds NaN or infinity",
        "model.layers.7.mlp.up_proj.weight is unknown",
        "model.norm.weight becomes final_norm/scale of shape (31,), but (32,) is needed",
        "score.weight is unknown",
        "lm_head.weight is missing",
        "model.layers.0.self_attn.k_norm.weight is missing",
    ]


def test_names_without_prefix_buffers_and_a_tied_copy_are_fine(tmp_path):
    for name, leftover in (("gpt2", "h.0.attn.bias"), ("llama", "layers.0.self_attn.rotary_emb.inv_freq")):
        model = llm.make_model(SHAPES[name], rngs=nnx.Rngs(0))
        llm.save_hf(model, tmp_path)

        def change(tensors, leftover=leftover):
            bare = {key.partition(".")[2]: value for key, value in tensors.items()}
            tensors.clear()
            tensors.update(bare)
            embedding = next(value for key, value in bare.items() if key in ("wte.weight", "embed_tokens.weight"))
            tensors["lm_head.weight"] = embedding.copy()
            tensors[leftover] = np.zeros(4, np.float32)

        rewrite(tmp_path, change)
        loaded = llm.load(str(tmp_path))
        assert loaded.lm_head is None
        assert_same_parameters(loaded, model)


def test_head_that_differs_is_not_tied(tmp_path):
    llm.save_hf(llm.make_model(SHAPES["llama"], rngs=nnx.Rngs(0)), tmp_path)
    head = np.arange(128 * 32, dtype=np.float32).reshape(128, 32)
    rewrite(tmp_path, lambda tensors: tensors.update({"lm_head.weight": head}))
    loaded = llm.load(str(tmp_path))
    assert not loaded.config.tied_head
    np.testing.assert_array_equal(loaded.lm_head[...], head)


def test_unknown_family_names_the_known_ones(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "mixtral"}')
    assert failure(tmp_path).endswith("model_type is 'mixtral'; allowed: gpt2, llama, qwen2, qwen3, t5")


def test_tokenizer_is_saved_with_its_added_tokens(tmp_path):
    import transformers

    tokenizer = word_tokenizer(["one two three"])
    vocabulary = make_vocabulary(tokenizer, num_books=2, book_size=4)
    tokenizer.add_tokens(vocabulary.code_token_names())
    model = llm.make_model(SHAPES["llama"], rngs=nnx.Rngs(0))
    llm.save_hf(model, tmp_path, tokenizer)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(again) == vocabulary.size
    assert again.convert_tokens_to_ids("<item_1_3>") == vocabulary.size - 1
    tokenizer.add_tokens([f"<{number}>" for number in range(200)])
    with pytest.raises(ConfigError, match="rows for 128"):
        llm.save_hf(model, tmp_path, tokenizer)


SHARDED_LOAD = """
import json, pathlib, sys
import jax, numpy as np
from flax import nnx
from tokenrec_jax.config import MeshConfig
from tokenrec_jax.models import llm
from tokenrec_jax.models.llm.hf_files import StoredTensor, find_tensors
from tokenrec_jax.sharding import make_mesh, state_shardings

mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
plain_read, reads = StoredTensor.read, []

def counting_read(stored, index):
    part = plain_read(stored, index)
    reads.append((stored.key, tuple((s.start, s.stop) for s in index), part.size))
    return part

@jax.jit
def states(model_state, ids):
    model = nnx.merge(*model_state)
    queries = model.embed(ids[:, :2])
    return model.hidden_states(model.embed(ids), ids > 9, query_embeds=queries)

ids = np.arange(4 * 6).reshape(4, 6)

for folder in sys.argv[1:]:
    plain_model = llm.load(folder)
    plain = nnx.to_pure_dict(nnx.state(plain_model, nnx.Param))
    reads.clear()
    StoredTensor.read = counting_read
    places = lambda shapes: state_shardings({"llm": shapes}, mesh)["llm"]
    model = llm.load(folder, shardings=places)
    loaded = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    StoredTensor.read = plain_read
    jax.tree.map(np.testing.assert_array_equal, loaded, plain)
    expected = state_shardings({"llm": loaded}, mesh)["llm"]
    assert jax.tree.all(jax.tree.map(lambda leaf, place: leaf.sharding == place, loaded, expected))
    assert len(reads) == len(set(reads)), "a slice was read twice"
    # Slices of a sharding are equal or disjoint, so that no byte was read twice if the sums agree.
    total = sum(int(np.prod(stored.shape)) for stored in find_tensors(pathlib.Path(folder)))
    assert sum(size for _, _, size in reads) == total, (sum(size for _, _, size in reads), total)
    kernels = [size for key, _, size in reads if "mlp" in key or "DenseReluDense" in key]
    print(pathlib.Path(folder).name, len(reads), max(kernels))
    outputs = [states(nnx.split(each), ids) for each in (model, plain_model)]
    np.testing.assert_allclose(*outputs, atol=1e-5)
    # The tree of places may be given instead of a function.
    again = llm.load(folder, shardings=expected)
    assert again.token_embedding[...].sharding == expected["token_embedding"]
    # More rows than the file has, so that devices of the last ones read nothing.
    rows = plain["token_embedding"].shape[0]
    padded = llm.load(folder, shardings=places, vocabulary_multiple=1024)
    np.testing.assert_array_equal(padded.token_embedding[...][:rows], plain["token_embedding"])
    assert padded.vocab_size == 1024 and not padded.token_embedding[...][rows:].any()
    assert len(padded.token_embedding[...].sharding.device_set) == 8
"""


def test_each_byte_is_read_once_and_lands_on_its_device(tmp_path):
    folders = []
    for name in ("t5", "qwen3", "gpt2"):
        folders.append(str(tmp_path / name))
        llm.save_hf(llm.make_model(SHAPES[name], rngs=nnx.Rngs(0)), folders[-1])
    lines = run_python(SHARDED_LOAD, *folders).splitlines()
    # A quarter of the largest kernel of the feed-forward is the largest piece: its data-parallel copies share it.
    assert [int(line.split()[2]) for line in lines] == [32 * 64 // 4, 32 * 64 // 4, 32 * 128 // 4]


MEMORY = """
import re, sys
import jax
from tokenrec_jax.config import MeshConfig
from tokenrec_jax.models import llm
from tokenrec_jax.sharding import make_mesh, state_shardings

def peak():
    # Not getrusage: its ru_maxrss starts at the parent's, as it survives exec.
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])

mesh = make_mesh(MeshConfig(fsdp=jax.device_count()))
places = (lambda shapes: state_shardings({"llm": shapes}, mesh)["llm"]) if jax.device_count() > 1 else None
llm.load(sys.argv[1], shardings=places)
before = peak()
model = llm.load(sys.argv[2], shardings=places)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("devices", [1, 8])
def test_a_large_model_is_never_in_memory_twice(tmp_path, devices):
    config = dataclasses.replace(
        SHAPES["llama"], model_dim=1024, feed_forward_dim=4096, num_heads=64, num_kv_heads=64, num_layers=15
    )
    shapes = hf_weights.abstract_params(config)
    transposed = {path: leaf.shape[::-1] if path[-1] == "kernel" else leaf.shape for path, leaf in shapes.items()}
    files: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, path in hf_weights.key_table(config).items():
        files.setdefault(f"model-{path[1] if path[0] == 'layers' else 'rest'}.safetensors", {})[key] = transposed[path]
    block, size = np.random.default_rng(0).standard_normal(2**22, np.float32), 0
    (tmp_path / "large").mkdir()
    for name, tensors in files.items():
        values = {key: block[: math.prod(shape)].reshape(shape) for key, shape in tensors.items()}
        size += sum(value.nbytes for value in values.values())
        safetensors.numpy.save_file(values, tmp_path / "large" / name)
    weight_map = {key: name for name, tensors in files.items() for key in tensors}
    (tmp_path / "large" / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "large" / "config.json").write_text(json.dumps(config.to_hf()))
    assert size > 1e9
    llm.save_hf(llm.make_model(SHAPES["llama"], rngs=nnx.Rngs(0)), tmp_path / "small")
    growth = int(run_python(MEMORY, str(tmp_path / "small"), str(tmp_path / "large"), devices=devices))
    assert 0.9 * size < growth < 1.3 * size, growth / size
