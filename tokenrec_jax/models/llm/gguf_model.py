"""Models and tokenizers by the name of a GGUF file. Read `load_gguf`; the format itself is in `gguf_weights.py`."""

import pathlib
from typing import Any

import jax.numpy as jnp
import transformers
from flax import nnx

from tokenrec_jax.models.llm.families import config_from_hf, key_table
from tokenrec_jax.models.llm.gguf_weights import GGUFCheckpoint, read_gguf, smollm2_path
from tokenrec_jax.models.llm.hf_weights import make_model
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


def load_gguf(name: str, *, dtype: Any = jnp.float32, dropout_rate: float | None = None) -> Any:
    """Loads a model of the Llama family from a GGUF file; its dequantized parameters are float32.

    Raises:
      ConfigError: see `read_gguf`; or the tensors do not fit the shape that the file tells.
    """
    checkpoint = _open(name)
    config = config_from_hf(checkpoint.config)
    table = key_table(config)
    model = nnx.eval_shape(lambda: make_model(config, rngs=nnx.Rngs(0), dtype=dtype, dropout_rate=dropout_rate))
    graphdef, abstract = nnx.split(model)
    shapes = {path: leaf.shape for path, leaf in nnx.to_flat_state(abstract)}
    values, problems = {}, []
    for key, tensor in checkpoint.tensors():
        path = table.get(key)
        if path is None:
            problems.append(f"{key} is unknown")
            continue
        oriented = tensor.T if path[-1] == "kernel" else tensor
        if oriented.shape != shapes[path]:
            problems.append(f"{key} has shape {oriented.shape}, but {shapes[path]} is needed")
        values[path] = jnp.asarray(oriented)
    problems += [f"{key} is missing" for key, path in table.items() if path not in values]
    if problems:
        raise ConfigError(f"{checkpoint.path}: weights do not fit the header: {'; '.join(problems)}")
    return nnx.merge(graphdef, nnx.from_flat_state(list(values.items())))


def _open(name: str) -> GGUFCheckpoint:
    return read_gguf(smollm2_path() if name == SMOLLM2 else name)
