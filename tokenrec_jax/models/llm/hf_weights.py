"""Hugging Face checkpoints of T5 as our modules and back: files, key tables, transposition, strict checks.

Only safetensors is read: no pickle, no code from a checkpoint. A loader that skips what it does not know
yields models that are quietly wrong, so each tensor must find its parameter and each parameter its tensor;
what does not fit is told at once, all of it. Read `load_hf` first, then `key_table`.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx
from huggingface_hub.errors import HFValidationError

from tokenrec_jax.models.llm.t5 import T5
from tokenrec_jax.models.llm.t5_config import T5Config
from tokenrec_jax.types import ConfigError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
#: What is fetched from the hub: weights, configs and tokenizers; no pickles and no code.
HUB_PATTERNS = ("*.json", "*.safetensors", "*.model")
#: Other names of the token embedding; a checkpoint may hold it under several, with the same values.
ALIASES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
#: Left in the original checkpoints by mistake: T5 has no relative bias between decoder and encoder.
UNUSED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)

_ATTENTION = {"q": "query", "k": "key", "v": "value", "o": "output"}
_EMBEDDING = "shared.weight"
_HEAD = "lm_head.weight"

_Path = tuple[str | int, ...]


def key_table(config: T5Config) -> dict[str, _Path]:
    """Returns for each Hugging Face tensor the path of our parameter.

    A path that ends in "kernel" holds the transposed tensor, as PyTorch's linear layers are [out, in] and
    ours [in, out]; all others hold the tensor as it is.
    """
    if config.gated:
        feed_forward = {"wi_0": "gate", "wi_1": "input", "wo": "output"}
    else:
        feed_forward = {"wi": "input", "wo": "output"}
    table: dict[str, _Path] = {_EMBEDDING: ("token_embedding",)}
    if not config.tied_head:
        table[_HEAD] = ("lm_head",)
    for stack, num_layers in (("encoder", config.num_encoder_layers), ("decoder", config.num_decoder_layers)):
        parts = [
            ("SelfAttention", "self_attention", _ATTENTION),
            ("DenseReluDense", "feed_forward", feed_forward),
        ]
        if stack == "decoder":
            parts.insert(1, ("EncDecAttention", "cross_attention", _ATTENTION))
        for layer in range(num_layers):
            for place, (theirs, ours, matrices) in enumerate(parts):
                prefix = f"{stack}.block.{layer}.layer.{place}"
                table[f"{prefix}.layer_norm.weight"] = (stack, "layers", layer, f"{ours}_norm", "scale")
                for their_matrix, our_matrix in matrices.items():
                    path = (stack, "layers", layer, ours, our_matrix, "kernel")
                    table[f"{prefix}.{theirs}.{their_matrix}.weight"] = path
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        table[bias] = (stack, "relative_bias", "embedding")
        table[f"{stack}.final_layer_norm.weight"] = (stack, "final_norm", "scale")
    return table


def load_hf(name_or_path: str, *, dtype: Any = jnp.float32, dropout_rate: float | None = None) -> T5:
    """Loads a T5 from a local folder or, through the cache of huggingface_hub, from a hub id.

    Parameters become float32 arrays on JAX's default device, whatever type the checkpoint has.

    Args:
      name_or_path: folder with config.json and model.safetensors (or its shards and their index), or a hub
        id.
      dtype: type of activations.
      dropout_rate: replaces the checkpoint's own; None keeps it.

    Raises:
      ConfigError: files are missing, damaged, of another family, not finite or do not fit each other.
    """
    folder = find_folder(name_or_path)
    config = read_config(folder)
    # An untied table, because a head may be there against the word of the config.
    table = key_table(dataclasses.replace(config, tied_head=False))
    loaded: dict[str, jax.Array] = {}
    problems: list[str] = []
    for key, tensor in read_tensors(folder):
        if key in UNUSED:
            continue
        if key not in table and key not in ALIASES:
            problems.append(f"{key} is unknown")
            continue
        if not np.isfinite(tensor).all():
            problems.append(f"{key} holds NaN or infinity")
        loaded[key] = jnp.asarray(tensor.T if key in table and table[key][-1] == "kernel" else tensor)
    problems += _resolve_aliases(loaded)
    if config.tied_head and _HEAD in loaded:
        if _EMBEDDING in loaded and np.array_equal(loaded[_HEAD], loaded[_EMBEDDING]):
            del loaded[_HEAD]
        else:
            # transformers 5 writes tie_word_embeddings = true for every T5 and unties where the values
            # differ.
            config = dataclasses.replace(config, tied_head=False)

    model = nnx.eval_shape(lambda: T5(config, rngs=nnx.Rngs(0), dtype=dtype, dropout_rate=dropout_rate))
    graphdef, abstract = nnx.split(model)
    shapes = {path: leaf.shape for path, leaf in nnx.to_flat_state(abstract)}
    values: dict[_Path, jax.Array] = {}
    for key, path in key_table(config).items():
        if key not in loaded:
            problems.append(f"{key} is missing")
        elif loaded[key].shape != shapes[path]:
            ours = "/".join(map(str, path))
            problems.append(f"{key} becomes {ours} of shape {loaded[key].shape}, but {shapes[path]} is needed")
        else:
            values[path] = loaded[key]
    if problems:
        raise ConfigError(f"{folder}: weights do not fit {CONFIG}: {'; '.join(problems)}")
    return nnx.merge(graphdef, nnx.from_flat_state(list(values.items())))


def save_hf(model: T5, folder: str | os.PathLike[str]) -> None:
    """Writes config.json and model.safetensors, from which transformers loads the same model.

    Other files of the folder stay. Each file appears whole or not at all.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    flat = {path: np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    tensors = {
        key: np.ascontiguousarray(flat[path].T if path[-1] == "kernel" else flat[path])
        for key, path in key_table(model.config).items()
    }
    partial = folder / f".{WEIGHTS}.partial"
    safetensors.numpy.save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(folder / WEIGHTS)
    partial = folder / f".{CONFIG}.partial"
    partial.write_text(json.dumps(model.config.to_hf(), indent=2, sort_keys=True) + "\n")
    partial.replace(folder / CONFIG)


def find_folder(name_or_path: str) -> pathlib.Path:
    """Returns the local folder of a checkpoint, fetched into huggingface_hub's cache if it is a hub id.

    Raises:
      ConfigError: neither an existing folder nor a hub id that is cached or can be reached.
    """
    folder = pathlib.Path(name_or_path).expanduser()
    if folder.is_dir():
        return folder
    try:
        return pathlib.Path(huggingface_hub.snapshot_download(name_or_path, allow_patterns=list(HUB_PATTERNS)))
    except HFValidationError:
        raise ConfigError(
            f"{name_or_path}: no such folder, nor a hub id; allowed: a folder with {CONFIG} and {WEIGHTS}, "
            "or an id such as google-t5/t5-small"
        ) from None
    except Exception as error:
        # The hub's client lets errors of several libraries through: offline, unknown id, no permission.
        raise ConfigError(
            f"{name_or_path}: no such folder, and not to be had from the hub ({type(error).__name__}); give "
            f"a folder with {CONFIG} and {WEIGHTS}, or fill the cache (HF_HOME) where there is a network"
        ) from None


def read_config(folder: pathlib.Path) -> T5Config:
    """Returns the shape that a checkpoint's config.json tells.

    Raises:
      ConfigError: there is none, it is not JSON, or `T5Config.from_hf` refuses it.
    """
    path = folder / CONFIG
    values = _read_json(path)
    try:
        return T5Config.from_hf(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_tensors(folder: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yields name and float32 values of each tensor of model.safetensors or of its shards.

    One at a time, so that a large model is never in memory twice.

    Raises:
      ConfigError: files are missing or damaged.
    """
    if (folder / WEIGHTS).is_file():
        names = [WEIGHTS]
    elif (folder / INDEX).is_file():
        weight_map = _read_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise ConfigError(f"{folder / INDEX}: no weight_map; allowed: a map of tensor names to file names")
        names = sorted(set(weight_map.values()))
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise ConfigError(f"{folder}: shards are missing: {', '.join(absent)}; download the model again")
    elif (folder / "pytorch_model.bin").is_file() or (folder / "pytorch_model.bin.index.json").is_file():
        raise ConfigError(
            f"{folder}: only pytorch_model.bin, a pickle, which is not read; convert it where you trust it: "
            "transformers' T5ForConditionalGeneration.from_pretrained(folder).save_pretrained(folder)"
        )
    else:
        raise ConfigError(f"{folder}: no weights; allowed: {WEIGHTS}, or {INDEX} with its shards")
    for name in names:
        try:
            with safetensors.safe_open(folder / name, framework="numpy") as file:
                for key in file.keys():  # noqa: SIM118 - not a dict
                    # Also turns bfloat16, which is no type of numpy's own, into float32.
                    yield key, np.asarray(file.get_tensor(key), np.float32)
        except safetensors.SafetensorError as error:
            raise ConfigError(f"{folder / name}: truncated, or not safetensors ({error}); download it again") from None


def _resolve_aliases(loaded: dict[str, jax.Array]) -> list[str]:
    """Merges, in place, the names of the token embedding into one; returns what does not agree."""
    problems = []
    for alias in ALIASES:
        if alias in loaded:
            tensor = loaded.pop(alias)
            if not np.array_equal(loaded.setdefault(_EMBEDDING, tensor), tensor):
                problems.append(f"{alias} differs from {_EMBEDDING}")
    return problems


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns the object that a JSON file holds, or raises `ConfigError`."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; allowed: a folder in Hugging Face's layout") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not JSON: not UTF-8") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}:1: {type(values).__name__} where an object is allowed")
    return values
