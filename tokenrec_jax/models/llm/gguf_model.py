"""Models and tokenizers by the name of a GGUF file. Read `load_gguf`; the format itself is in `gguf_weights.py`."""

import dataclasses
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import transformers
from flax import nnx

from tokenrec_jax.models.llm.families import config_from_hf, key_table
from tokenrec_jax.models.llm.gguf_weights import GGUFCheckpoint, read_gguf, smollm2_path
from tokenrec_jax.models.llm.hf_weights import (
    VOCABULARY_PATHS,
    Shardings,
    abstract_params,
    make_model,
    place_of_each,
)
from tokenrec_jax.models.llm.vocabulary_rows import check_vocabulary
from tokenrec_jax.sharding import put
from tokenrec_jax.types import ConfigError

#: Name of the model that a package index ships: SmolLM2-135M-Instruct, extra `smollm2`.
SMOLLM2 = "smollm2"


def is_gguf(name: str) -> bool:
    """Returns whether a model's name stands for a GGUF file: `smollm2`, or a path that ends in .gguf."""
    return name == SMOLLM2 or pathlib.Path(name).suffix == ".gguf"


def gguf_tokenizer(name: str) -> transformers.PreTrainedTokenizerBase:
    """Returns the tokenizer inside of a GGUF file.

    Raises:
      ConfigError: see `read_gguf`, or the tokenizer is of an unknown kind.
    """
    return _open(name).tokenizer


def load_gguf(
    name: str,
    *,
    dtype: Any = jnp.float32,
    dropout_rate: float | None = None,
    shardings: Shardings | None = None,
    num_tokens: int = 0,
    vocabulary_multiple: int = 1,
) -> Any:
    """Loads a model of the Llama family from a GGUF file; its dequantized parameters are float32.

    Arguments are those of `load_hf`. Tensors are dequantized whole on the host, one after another.

    Raises:
      ConfigError: see `read_gguf`; or the tensors do not fit the shape that the file tells.
    """
    checkpoint = _open(name)
    config = config_from_hf(checkpoint.config)
    check_vocabulary(num_tokens, config.vocab_size)
    table = key_table(config)
    shapes = abstract_params(config)
    extra = -config.vocab_size % vocabulary_multiple
    config = dataclasses.replace(config, vocab_size=config.vocab_size + extra)
    places = place_of_each(abstract_params(dataclasses.replace(config, tied_head=False)), shardings)
    values, problems, misfits = {}, [], set()
    for key, tensor in checkpoint.tensors():
        path = table.get(key)
        if path is None:
            problems.append(f"{key} is unknown")
            continue
        oriented = tensor.T if path[-1] == "kernel" else tensor
        if oriented.shape != shapes[path].shape:
            problems.append(f"{key} has shape {oriented.shape}, but {shapes[path].shape} is needed")
            misfits.add(path)
            continue
        if path in VOCABULARY_PATHS and extra:
            oriented = np.pad(oriented, ((0, extra), (0, 0)))
        values[path] = put(oriented, places.get(path))
    problems += [f"{key} is missing" for key, path in table.items() if path not in values and path not in misfits]
    if problems:
        raise ConfigError(f"{checkpoint.path}: weights do not fit the header: {'; '.join(problems)}")
    model = nnx.eval_shape(lambda: make_model(config, rngs=nnx.Rngs(0), dtype=dtype, dropout_rate=dropout_rate))
    graphdef, _ = nnx.split(model)
    return nnx.merge(graphdef, nnx.from_flat_state(list(values.items())))


def _open(name: str) -> GGUFCheckpoint:
    return read_gguf(smollm2_path() if name == SMOLLM2 else name)
