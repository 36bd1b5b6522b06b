"""Language models that read prompts: the public door.

`load` takes pretrained weights, `build` random ones; both return a `LanguageModel`, whose methods are all
that the rest of the package uses. One file a family (`t5.py`), checkpoints in `hf_weights.py`, named shapes
in `presets.py`. Tokenizers and prompts are in `data/`, not here.
"""

import jax.numpy as jnp
from flax import nnx

from tokenrec_jax.models.llm.hf_weights import load_hf, save_hf
from tokenrec_jax.models.llm.interface import LanguageModel, LanguageModelConfig
from tokenrec_jax.models.llm.presets import PRESETS, preset
from tokenrec_jax.models.llm.t5 import T5
from tokenrec_jax.models.llm.t5_config import T5Config
from tokenrec_jax.types import ConfigError

__all__ = [
    "PRESETS",
    "SCRATCH",
    "T5",
    "LanguageModel",
    "LanguageModelConfig",
    "T5Config",
    "build",
    "load",
    "preset",
    "save_hf",
]

#: Prefix of names of presets, to tell them from folders and hub ids.
SCRATCH = "scratch:"

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def load(name_or_path: str, *, dtype: str = "float32", dropout_rate: float | None = None) -> T5:
    """Returns a pretrained model; its vocabulary is the checkpoint's until `extend_vocabulary`.

    Args:
      name_or_path: local folder in Hugging Face's layout, or hub id such as google-t5/t5-small.
      dtype: type of activations, "float32" or "bfloat16".
      dropout_rate: replaces the checkpoint's own; None keeps it.

    Raises:
      ConfigError: no such model, not a T5, or its files are damaged or do not fit each other.
    """
    return load_hf(name_or_path, dtype=_dtype(dtype), dropout_rate=dropout_rate)


def build(
    name: str,
    *,
    vocab_size: int,
    rngs: nnx.Rngs,
    dtype: str = "float32",
    dropout_rate: float | None = None,
) -> T5:
    """Returns a model with random weights. Pure JAX: works under `jax.jit` and `jax.eval_shape`.

    Args:
      name: `scratch:` and one of `PRESETS`.
      vocab_size: rows of the token embedding; pad it to a multiple of 128 yourself if it is to be sharded.
      rngs: source of the initial weights.
      dtype: type of activations, "float32" or "bfloat16".
      dropout_rate: replaces the preset's 0.1; None keeps it.

    Raises:
      ConfigError: no such preset, dtype or dropout rate.
    """
    if not name.startswith(SCRATCH):
        raise ConfigError(f"{name}: not a preset; allowed: {', '.join(SCRATCH + known for known in PRESETS)}")
    config = preset(name.removeprefix(SCRATCH), vocab_size=vocab_size)
    return T5(config, rngs=rngs, dtype=_dtype(dtype), dropout_rate=dropout_rate)


def _dtype(name: str) -> type:
    if name not in _DTYPES:
        raise ConfigError(f"dtype is {name!r}; allowed: {', '.join(_DTYPES)}")
    return _DTYPES[name]
