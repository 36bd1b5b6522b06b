"""Hugging Face checkpoints as our models and back: strict checks, placement on devices, export.

A loader that skips what it does not know yields models that are quietly wrong, so each tensor must find its
parameter and each parameter its tensor; what does not fit is told at once, all of it. The names are in
`families.py`, the files in `hf_files.py`. Read `load_hf` first.
"""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from tokenrec_jax.array_files import save_arrays
from tokenrec_jax.models.llm.families import HEAD, Family, Path, config_from_hf, family_of, key_table
from tokenrec_jax.models.llm.hf_files import (
    CONFIG,
    INDEX,
    WEIGHTS,
    StoredTensor,
    find_folder,
    find_tensors,
    read_json,
)
from tokenrec_jax.models.llm.layer_calls import UNROLLED, LayerCalls
from tokenrec_jax.models.llm.vocabulary_rows import check_vocabulary
from tokenrec_jax.numerics import round_up
from tokenrec_jax.types import ConfigError

__all__ = ["WEIGHTS", "key_table", "load_hf", "make_model", "read_config", "save_hf"]

#: Weights of more bytes than this are saved in several files, which bounds the memory that saving takes.
SHARD_BYTES = 4 * 2**30

#: Parameters with a row for each token.
VOCABULARY_PATHS: tuple[Path, ...] = (("token_embedding",), ("lm_head",))

#: Tree of shardings like the model's parameters, or a function that makes it from the tree of their shapes.
Shardings = dict[str, Any] | Callable[[dict[str, Any]], dict[str, Any]]


def make_model(
    config: Any,
    *,
    rngs: nnx.Rngs,
    dtype: Any = jnp.float32,
    dropout_rate: float | None = None,
    calls: LayerCalls = UNROLLED,
) -> Any:
    """Returns a model of this shape, of whatever family, with random weights. Works under `jax.eval_shape`."""
    return family_of(config).model_class(config, rngs=rngs, dtype=dtype, dropout_rate=dropout_rate, calls=calls)


def load_hf(
    name_or_path: str,
    *,
    dtype: Any = jnp.float32,
    dropout_rate: float | None = None,
    shardings: Shardings | None = None,
    num_tokens: int = 0,
    vocabulary_multiple: int = 1,
) -> Any:
    """Loads a model from a local folder or, through the cache of huggingface_hub, from a hub id.

    Parameters become float32, whatever type the checkpoint has. One tensor at a time is in host memory, and of it
    only what the devices of this host hold; no byte is read twice.

    Args:
      name_or_path: folder with config.json and model.safetensors (or its shards and their index), or a hub id.
      dtype: type of activations.
      dropout_rate: replaces the checkpoint's own; None keeps it.
      shardings: where the parameters lie, a tree or a function such as
        `lambda shapes: state_shardings({"llm": shapes}, mesh)["llm"]`, whose argument always has an `lm_head`.
        None: whole on JAX's default device.
      num_tokens: ids that the tokenizer makes, checked before any tensor is read.
      vocabulary_multiple: rows of zeros are added below the token embedding and an untied head up to a multiple of
        this, so that they can be sharded; no file has as many rows as GPT-2 (50,257) on a power of two of devices.

    Raises:
      ConfigError: files are missing, damaged, of an unknown family, not finite or do not fit each other, or there are
        more `num_tokens` than rows for them.
    """
    folder = find_folder(name_or_path)
    config = read_config(folder)
    check_vocabulary(num_tokens, config.vocab_size)
    family = family_of(config)
    # An untied table, because a head may be there against the word of the config.
    untied = dataclasses.replace(config, tied_head=False)
    shapes = abstract_params(untied)
    rows = round_up(config.vocab_size, multiple=vocabulary_multiple)
    padded = abstract_params(dataclasses.replace(untied, vocab_size=rows))
    places = place_of_each(padded, shardings)
    table = key_table(untied)
    table |= dict.fromkeys(family.aliases, table[family.embedding])

    loaded: dict[str, jax.Array] = {}
    misfits: set[str] = set()
    problems: list[str] = []
    for stored in find_tensors(folder):
        if re.fullmatch(family.unused, stored.key):
            continue
        key = stored.key if stored.key in table else family.prefix + stored.key
        if key not in table:
            problems.append(f"{stored.key} is unknown")
            continue
        path = table[key]
        transposed = family.transposed and path[-1] == "kernel"
        shape = stored.shape[::-1] if transposed else stored.shape
        if shape != shapes[path].shape:
            misfits.add(key)
            ours = "/".join(map(str, path))
            problems.append(f"{key} becomes {ours} of shape {shape}, but {shapes[path].shape} is needed")
            continue
        loaded[key], finite = _place(stored, shape=padded[path].shape, transposed=transposed, sharding=places.get(path))
        if not finite:
            problems.append(f"{key} holds NaN or infinity")
    problems += _resolve_aliases(loaded, family)
    if config.tied_head and HEAD in loaded and family.embedding not in loaded and family.embedding not in misfits:
        # Writers that drop copies keep either name of the one table.
        loaded[family.embedding] = loaded.pop(HEAD)
    if config.tied_head and HEAD in loaded:
        if family.embedding in loaded and jnp.array_equal(loaded[HEAD], loaded[family.embedding]):
            del loaded[HEAD]
        else:
            # transformers 5 writes tie_word_embeddings = true for every T5 and unties where the values differ.
            config = dataclasses.replace(config, tied_head=False)
    needed = key_table(config)
    problems += [f"{key} is missing" for key in needed if key not in loaded and key not in misfits]
    if problems:
        raise ConfigError(f"{folder}: weights do not fit {CONFIG}: {'; '.join(problems)}")

    config = dataclasses.replace(config, vocab_size=rows)
    model = nnx.eval_shape(lambda: make_model(config, rngs=nnx.Rngs(0), dtype=dtype, dropout_rate=dropout_rate))
    graphdef, _ = nnx.split(model)
    return nnx.merge(graphdef, nnx.from_flat_state([(path, loaded[key]) for key, path in needed.items()]))


def save_hf(model: Any, folder: str | os.PathLike[str], tokenizer: Any = None) -> None:
    """Writes config.json and model.safetensors, from which transformers loads the same model.

    Files of the folder that are no weights stay. Each file appears whole or not at all. Weights of more than
    `SHARD_BYTES` become several files with an index.

    Args:
      model: of any of our families.
      folder: is made if it is not there.
      tokenizer: tokenizer of transformers, saved beside the model with its added tokens.

    Raises:
      ConfigError: the tokenizer has more tokens than the model rows for them.
    """
    if tokenizer is not None:
        check_vocabulary(len(tokenizer), model.vocab_size)
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    params = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    table = key_table(model.config)
    transposed = family_of(model.config).transposed

    def tensor(key: str) -> np.ndarray:
        array = np.asarray(params[table[key]][...])
        return np.ascontiguousarray(array.T if transposed and table[key][-1] == "kernel" else array)

    shards = _split_shards({key: params[path][...].nbytes for key, path in table.items()})
    names = [WEIGHTS]
    if len(shards) > 1:
        names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for name, keys in zip(names, shards, strict=True):
        partial = folder / f".{name}.partial"
        save_arrays(partial, {key: tensor(key) for key in keys}, metadata={"format": "pt"})
        partial.replace(folder / name)
    if len(shards) > 1:
        weight_map = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
        size = sum(params[path][...].nbytes for path in table.values())
        _write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})
        names.append(INDEX)
    # Weights of an earlier save in another number of files would be read instead, or lie there for nothing.
    for old in (folder / WEIGHTS, folder / INDEX, *folder.glob("model-*-of-*.safetensors")):
        if old.name not in names:
            old.unlink(missing_ok=True)
    _write_json(folder / CONFIG, model.config.to_hf())
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def read_config(folder: pathlib.Path) -> Any:
    """Returns the shape that a checkpoint's config.json tells, of whatever family.

    Raises:
      ConfigError: there is none, it is not JSON, or its family is unknown or refuses it.
    """
    path = folder / CONFIG
    values = read_json(path)
    try:
        return config_from_hf(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def abstract_params(config: Any) -> dict[Path, jax.ShapeDtypeStruct]:
    """Returns the shape of each parameter."""
    model = nnx.eval_shape(lambda: make_model(config, rngs=nnx.Rngs(0)))
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    return {tuple(key.key for key in path): leaf for path, leaf in leaves}


def place_of_each(
    shapes: dict[Path, jax.ShapeDtypeStruct], shardings: Shardings | None
) -> dict[Path, jax.sharding.Sharding]:
    """Returns the sharding of each parameter; nothing if there is none."""
    if shardings is None:
        return {}
    if callable(shardings):
        shardings = shardings(nnx.to_pure_dict(nnx.from_flat_state(list(shapes.items()))))
    leaves = jax.tree_util.tree_leaves_with_path(shardings)
    places = {tuple(key.key for key in path): sharding for path, sharding in leaves}
    # A tree for a tied model has no place for a head, which the file may hold nevertheless.
    places.setdefault(("lm_head",), places[("token_embedding",)])
    absent = ["/".join(map(str, path)) for path in shapes if path not in places]
    if absent:
        raise ValueError(f"shardings: none for {', '.join(absent)}")
    return places


def _place(
    stored: StoredTensor, *, shape: tuple[int, ...], transposed: bool, sharding: jax.sharding.Sharding | None
) -> tuple[Float[Array, "..."], bool]:
    """Returns a tensor on the devices, zeros where `shape` is larger, and whether all that was read is finite."""
    parts: dict[tuple[tuple[int, int], ...], np.ndarray] = {}
    there = stored.shape[::-1] if transposed else stored.shape

    def read(index: Any) -> np.ndarray:
        """Returns the part that a device holds; devices that hold the same share one read."""
        bounds = tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))
        if bounds not in parts:
            window = tuple(slice(min(a, size), min(b, size)) for (a, b), size in zip(bounds, there, strict=True))
            wanted = tuple(b - a for a, b in bounds)
            if any(cut.start == cut.stop for cut in window):
                parts[bounds] = np.zeros(wanted, np.float32)
            else:
                part = stored.read(window[::-1] if transposed else window)
                part = part.T if transposed else part
                extra = [(0, size - have) for size, have in zip(wanted, part.shape, strict=True)]
                parts[bounds] = np.pad(part, extra) if part.shape != wanted else part
        return parts[bounds]

    if sharding is None:
        array = jnp.asarray(read(tuple(slice(None) for _ in shape)))
    else:
        array = jax.make_array_from_callback(shape, sharding, read)
    return array, all(bool(np.isfinite(part).all()) for part in parts.values())


def _resolve_aliases(loaded: dict[str, jax.Array], family: Family) -> list[str]:
    """Merges, in place, the names of the token embedding into one; returns what does not agree."""
    problems = []
    for alias in family.aliases:
        if alias in loaded:
            tensor = loaded.pop(alias)
            if not jnp.array_equal(loaded.setdefault(family.embedding, tensor), tensor):
                problems.append(f"{alias} differs from {family.embedding}")
    return problems


def _split_shards(sizes: dict[str, int]) -> list[list[str]]:
    """Returns the tensors of each file: in order, each file up to `SHARD_BYTES` unless one tensor is larger."""
    shards: list[list[str]] = [[]]
    used = 0
    for key, size in sizes.items():
        if shards[-1] and used + size > SHARD_BYTES:
            shards.append([])
            used = 0
        shards[-1].append(key)
        used += size
    return shards


def _write_json(path: pathlib.Path, values: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    partial.replace(path)
